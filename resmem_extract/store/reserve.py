"""Have the disk set blocks aside for a file whose size is known."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["reserve"]


def reserve(descriptor: int, n_bytes: int) -> None:
    """Set aside the blocks of the first bytes of a file, where the file system can do so.

    Writing to them is then faster, and a disk without room for them tells at once. Not by
    `os.posix_fallocate`, which writes to every block where the file system cannot.

    Raises
    ------
    OSError
        If the disk has no room.
    """
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:  # it is Linux's
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if fallocate(descriptor, 0, 0, n_bytes) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(number, os.strerror(number))
