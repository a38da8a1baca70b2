"""Make an HDF5 file so that a full disk is noticed, and close one that the disk has no room for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import h5py

from ..errors import reason_of
from .chunk_copy import ALIGNED_FROM, PAGE

__all__ = ["abandon", "close", "create"]

# The oldest layout that can hold the data: MATLAB up to R2021a and older R packages carry
# HDF5 1.8, which cannot read the chunk indices of 1.10. These are no faster here: a row of a data
# set of 20,000 chunks is found in a millisecond either way.
_LIBVER = (h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)


def create(path: Path) -> h5py.File:
    """Make an HDF5 file.

    Without HDF5's buffer for small writes (the "sieve"): it is emptied as a data set is closed, and
    what fails then is raised nowhere; on a full disk ids could be zeros. Without a chunk cache:
    whole chunks are written, and one cache a module would be much memory.

    Raises
    ------
    OSError
        If it cannot be made, or is there already.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(*_LIBVER)
    access.set_sieve_buf_size(0)
    slots = access.get_cache()
    access.set_cache(*slots[:2], 0, slots[3])
    access.set_alignment(ALIGNED_FROM, PAGE)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, fapl=access))


def close(file: h5py.File) -> None:
    """Write what is left to be written of a file, and close it.

    Raises
    ------
    OSError
        Also where h5py raises RuntimeError, as in flushing the library's own metadata.
    """
    try:
        file.close()
    except RuntimeError as error:
        raise OSError(reason_of(error)) from error


def abandon(file: h5py.File) -> None:
    """Close a file that is removed next: what cannot be flushed to it any more is of no interest.

    Does nothing where it is closed.
    """
    with suppress(OSError, RuntimeError, ValueError):
        file.close()
