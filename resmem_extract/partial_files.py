"""Files that appear under their name whole or not at all, and leave nothing behind otherwise."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "make_folders",
    "partial_name",
    "remove",
    "remove_empty",
    "remove_stale",
    "removed_on_failure",
    "sync",
    "write_text",
]

_NAME_LENGTH = 50


def partial_name(path: Path) -> Path:
    """Return a new hidden name beside `path`: that of the process, its machine, and chance."""
    name = f".{path.name[:_NAME_LENGTH]}.{os.getpid()}-{_machine()}-{secrets.token_hex(4)}.partial"
    return path.with_name(name)


def remove_stale(path: Path) -> None:
    """Remove what killed processes left behind of `path`.

    Only those of processes of this machine that are no longer there: on a file system that
    several machines share, another one's process may be at work.
    """
    stale = re.compile(
        rf"\.{re.escape(path.name[:_NAME_LENGTH])}\.(\d+)-{_machine()}-[0-9a-f]{{8}}\.partial"
    )
    with suppress(OSError):
        for entry in list(path.parent.iterdir()):
            if (found := stale.fullmatch(entry.name)) and not _is_running(int(found[1])):
                remove(entry)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # someone else's
        return True
    return True


def make_folders(path: Path) -> list[Path]:
    """Make the folder of `path`; return what was not there before, innermost first."""
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove folders again, as far as they are empty."""
    with suppress(OSError):
        for folder in folders:
            with suppress(FileNotFoundError):
                folder.rmdir()


@contextmanager
def removed_on_failure(folders: list[Path]) -> Iterator[None]:
    """Remove folders again, as far as they are empty, if the block fails."""
    try:
        yield
    except BaseException:
        remove_empty(folders)
        raise


def write_text(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a text under a name of its own, then move it, so that no reader sees half of it.

    Parameters
    ----------
    path : Path
    text : str
    replace : bool
        False leaves a file alone that has the name already: of several processes that write at
        the same time, one wins.

    Raises
    ------
    OSError
    """
    scratch = partial_name(path)
    try:
        with scratch.open("x", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if replace or not _link(scratch, path):
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _link(scratch: Path, path: Path) -> bool:
    """Give a file a second name unless that is taken; False if there are no links to do it with."""
    try:
        path.hardlink_to(scratch)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk.

    Raises
    ------
    OSError
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
