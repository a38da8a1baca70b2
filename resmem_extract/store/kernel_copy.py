"""Copy chunks from file to file within the kernel, as `cp` does.

Bytes that pass through HDF5 are copied twice, into this process and out of it again, which takes
half as much time again. Where both files say at which byte each chunk lies, the kernel can be
asked to copy; on file systems that share blocks (XFS, Btrfs) it then often copies nothing.
"""

from __future__ import annotations

import errno
import itertools
import os

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNED_FROM", "PAGE", "KernelCopy", "chunk_addresses"]

PAGE = 4096
"""Large chunks begin at multiples of this: the kernel takes a third longer to copy pages to places
that lie differently within a page."""
ALIGNED_FROM = 2**17
"""Bytes from which on a chunk is large; what is left between two of them is at most 3 %."""

Addresses = npt.NDArray[np.int64]

_AT_ONCE = 2**26  # bytes, between two reports of progress
_CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def chunk_addresses(dataset: h5py.Dataset) -> Addresses | None:
    """Return at which byte of the file each chunk begins, `[*chunk grid]`.

    None if that cannot be known: a chunk was never written, or the file is no plain one.
    """
    file, chunks = dataset.file, dataset.chunks
    if file.driver != "sec2" or file.userblock_size or not hasattr(dataset.id, "chunk_iter"):
        return None
    grid = tuple(-(-size // part) for size, part in zip(dataset.shape, chunks, strict=True))
    offsets: list[tuple[int, ...]] = []
    begins: list[int] = []

    def note(info: h5py.h5d.StoreInfo) -> None:
        offsets.append(info.chunk_offset)
        begins.append(info.byte_offset)

    dataset.id.chunk_iter(note)
    addresses = np.full(grid, -1, np.int64)
    if offsets:
        places = np.array(offsets) // chunks
        inside = (places < grid).all(axis=1)
        addresses[tuple(places[inside].T)] = np.array(begins)[inside]
    return None if (addresses < 0).any() else addresses


class KernelCopy:
    """Copies row-blocks of unfiltered chunks between two data sets of the same layout.

    Parameters
    ----------
    source, target : h5py.Dataset
        In open files; all chunks of the target have their places already.
    source_addresses, target_addresses : numpy.ndarray, `[*chunk grid]`
    """

    def __init__(
        self,
        source: h5py.Dataset,
        target: h5py.Dataset,
        source_addresses: Addresses,
        target_addresses: Addresses,
    ) -> None:
        self._from = source.file.id.get_vfd_handle()
        self._to = target.file.id.get_vfd_handle()
        self._source = source_addresses.reshape(len(source_addresses), -1)
        self._target = target_addresses.reshape(len(target_addresses), -1)
        self._chunk_bytes = int(np.prod(target.chunks, dtype=np.int64)) * target.dtype.itemsize
        block_bytes = self._chunk_bytes * max(self._target.shape[1], 1)
        self.blocks_at_once = max(1, _AT_ONCE // block_bytes)
        """How many row-blocks one call of `copy` should be asked for."""

    def copy(self, source_block: int, target_block: int, n_blocks: int) -> bool:
        """Copy some consecutive row-blocks; return False if the kernel cannot.

        Raises
        ------
        OSError
            If the disk fails or is full.
        """
        begins = self._source[source_block : source_block + n_blocks].reshape(-1)
        ends = self._target[target_block : target_block + n_blocks].reshape(-1)
        # Chunks that follow one another in both files are one run.
        breaks = (np.diff(begins) != self._chunk_bytes) | (np.diff(ends) != self._chunk_bytes)
        bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(begins)]
        for first, stop in itertools.pairwise(bounds):
            n_bytes = (stop - first) * self._chunk_bytes
            if not self._copy_run(int(begins[first]), int(ends[first]), n_bytes):
                return False
        return True

    def _copy_run(self, begin: int, end: int, n_bytes: int) -> bool:
        while n_bytes:
            try:
                copied = os.copy_file_range(self._from, self._to, n_bytes, begin, end)
            except OSError as error:
                if error.errno in _CANNOT:
                    return False
                raise
            if copied == 0:
                return False
            begin, end, n_bytes = begin + copied, end + copied, n_bytes - copied
        return True
