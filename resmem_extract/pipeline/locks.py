"""Locks between processes, on files. The system drops a lock when its holder ends, however it ends.

A file that merely names its holder would outlive a killed one, and two processes that find it stale
at the same time would both take it over. The name is written all the same, for the message.
"""

from __future__ import annotations

import errno
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path

__all__ = ["Busy", "Lock"]

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRIES = 100


class Busy(Exception):
    """Another process holds the lock; the message says which."""


class Lock:
    """A lock that is held from its making until `release`, or until the process ends.

    Parameters
    ----------
    path : Path
        A file in a folder that is there; made if it is missing.
    shared : bool
        Any number of processes may hold a shared lock at the same time, but none beside one that
        is not shared.

    Raises
    ------
    Busy
        If another process holds it.
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._descriptor: int | None = None
        self.works = True
        """False where the file system, or the system, has no locks; nothing is held then."""
        for _ in range(_TRIES):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self.works = _lock(descriptor, shared)
                if _is_at(descriptor, path):
                    _write_holder(descriptor)
                    self._descriptor = descriptor
                    return
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        raise Busy("other processes, one after the other")

    def release(self) -> None:
        """Let others have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(_holder(descriptor)) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the file that was locked is still the one of that name, and not removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    text = f"process {os.getpid()} on {platform.node()}, since {since}"
    with suppress(OSError):  # on a full disk the lock is held all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())


def _holder(descriptor: int) -> str:
    return os.read(descriptor, 1000).decode(errors="replace") or "another process"
