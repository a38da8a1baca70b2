"""Every error that this package raises on purpose, and what their messages share.

Each one subclasses a built-in, so that code that knows nothing of this package can catch it, and
`ResmemExtractError`, so that the command line can tell a foreseen problem (one line, an honest
exit code) from a defect (a traceback).
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

__all__ = [
    "DAMAGE",
    "EMPTY_PATH",
    "DamagedStoreError",
    "ImageError",
    "InUseError",
    "IncompleteStoreError",
    "MissingExtraError",
    "MissingWeightsError",
    "OverflowInDtypeError",
    "RequestError",
    "ResmemExtractError",
    "StoreError",
    "UnknownModelError",
    "UnknownModuleError",
    "WeightsError",
    "WorkError",
    "counted",
    "did_you_mean",
    "given_path",
    "nearest",
    "reason_of",
    "refuse_device",
    "shown",
    "stem_advice",
    "unwritable",
]

DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What readers of arrays raise on files that are empty, cut short or not what they should be."""

_OF_THE_DISK = (errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)


class ResmemExtractError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line returns for it."""

    exit_code = 1


class RequestError(ResmemExtractError, ValueError):
    """The request itself was wrong: nothing has been written."""

    exit_code = 2


class InUseError(RequestError):
    """Another process is at work on the same result."""


class UnknownModelError(RequestError, LookupError):
    """No model has the name that was asked for."""


class UnknownModuleError(RequestError, LookupError):
    """No module has the path that was asked for, or the forward pass never calls it."""


class WeightsError(RequestError, OSError):
    """A weights file is missing, or is not the file that it should be."""


class MissingWeightsError(WeightsError):
    """Nothing on this machine is the weights file that is needed."""


class MissingExtraError(RequestError, ImportError):
    """An optional package is needed; the message is the command that installs it."""


class StoreError(RequestError, OSError):
    """A file is not a feature store, or cannot be used as one."""


class IncompleteStoreError(StoreError):
    """A feature store whose writing never finished."""


class DamagedStoreError(StoreError):
    """A feature store that HDF5 cannot open any more."""


class WorkError(ResmemExtractError, RuntimeError):
    """The request was fine, but something failed while working on it."""


class ImageError(WorkError, OSError):
    """An image cannot be read or decoded; `image_id` names it."""

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason


class OverflowInDtypeError(WorkError, OverflowError):
    """Activations are too large for the data type that they are to be stored in."""


EMPTY_PATH = "empty; is a shell variable unset?"


def given_path(value: object, name: str) -> Path:
    """Return what a user gave as a path.

    Parameters
    ----------
    value : object
    name : str
        Of the argument, for the message.

    Raises
    ------
    RequestError
        If it is empty (``Path("")`` would be the current folder) or no path.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise RequestError(f"{name}: expected a path, got {type(path).__name__}")
    if not path:
        raise RequestError(f"{name} '': {EMPTY_PATH}")
    return Path(path)


def refuse_device(path: Path) -> None:
    """Raise if a name stands for a device or a pipe: a file in its place would remove it.

    Raises
    ------
    RequestError
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RequestError(f"{path} is a device or a pipe, not a file; name a file")


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number of things: ``1 image``, ``2 images``."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"


def nearest(text: str, known: Sequence[str], n: int = 3) -> list[str]:
    """Return up to `n` of the known names that most resemble `text`, for 'did you mean'."""
    folded = {name.lower(): name for name in reversed(known)}
    return [folded[m] for m in difflib.get_close_matches(text.lower(), folded, n, cutoff=0.6)]


def did_you_mean(text: object, known: Sequence[str], otherwise: str) -> str:
    """Return the known name that resembles `text` most, as a question, or else `otherwise`."""
    close = nearest(str(text), known, 1)
    return f"did you mean {close[0]}?" if close else otherwise


def stem_advice(ids: Iterable[str], others: Iterable[str], otherwise: str) -> str:
    """Return what to do about two sides that have too few images in common.

    Parameters
    ----------
    ids, others : iterable of str
    otherwise : str
        What is to be done where folders and endings are not what tells the ids apart.
    """
    one, other = set(ids), set(others)
    stems = {PurePosixPath(x).stem for x in one} & {PurePosixPath(x).stem for x in other}
    if len(stems) <= len(one & other):
        return otherwise
    return (
        f"without folders and endings {len(stems)} are the same: extract with --id stem, and write "
        "ids of that kind into other files"
    )


def reason_of(error: BaseException) -> str:
    """Return the operating system's own words; h5py wraps them in a line of call names."""
    number = _number_of(error)
    return os.strerror(number) if number else str(error).partition("\n")[0]


def _number_of(error: BaseException) -> int:
    """Return the operating system's number of an error, 0 if it is none of its own.

    Where HDF5 fails as it closes a file, the number stands in the text alone.
    """
    found = re.search(r"\berrno = (\d+)", str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else 0)


def unwritable(path: Path, error: BaseException) -> ResmemExtractError:
    """Return what to raise of a place that cannot be written.

    Parameters
    ----------
    path : Path
        The user's, not a temporary name.
    error : BaseException
        Of the operating system or HDF5.

    Returns
    -------
    RequestError or WorkError
        The latter where the disk fails or is full, in which the request has no part.
    """
    number = _number_of(error)
    kind = WorkError if number in (0, *_OF_THE_DISK) else RequestError
    return kind(f"{path} cannot be written: {reason_of(error)}")


def shown(text: object) -> str:
    """Return `text` as it can stand in a one-line message: escaped if it would not print."""
    string = str(text)
    return string if string.isprintable() else ascii(string)
