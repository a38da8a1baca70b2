"""The rows of one data set on their way into whole chunks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import OverflowInDtypeError
from .checked import StoredFeature, checked_blocks, reading
from .checksums import checksum, chunk_columns, chunk_grid
from .chunk_copy import ChunkCopy, chunk_addresses
from .layout import filters_of

__all__ = ["FeatureStream", "Scratch"]


class FeatureStream:
    """The rows of one data set on their way into whole chunks.

    Every chunk is written once, complete. Without a filter its bytes go straight to the file,
    past HDF5's chunk cache and type conversion, which halve the rate. The checksum of each chunk
    is taken while its bytes are at hand.
    """

    def __init__(
        self, dataset: h5py.Dataset, path: str, scratch: Scratch, *, preallocated: bool = False
    ) -> None:
        self._dataset = dataset
        self._path = path
        self._filtered = bool(filters_of(dataset))
        self._columns = chunk_columns(dataset.shape[1:], dataset.chunks[1:])
        self._checksums: list[int] = []
        self._rows: int = dataset.chunks[0]
        self._start = 0
        self._n_held = 0
        self._held: npt.NDArray[Any] | None = None
        self._scratch = scratch
        self._addresses = chunk_addresses(dataset) if preallocated else None

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write all complete row-blocks; keep the rest, less than one block, for the next call."""
        while len(rows):
            taken = rows[: self._rows - self._n_held]
            rows = rows[len(taken) :]
            if len(taken) == self._rows:
                self._write(taken)
            else:
                self._hold(taken)

    def _hold(self, rows: npt.NDArray[Any]) -> None:
        if self._held is None:
            self._held = np.empty((self._rows, *rows.shape[1:]), self._dataset.dtype)
        end = self._n_held + len(rows)
        self._convert(rows, self._held[self._n_held : end])
        self._n_held = end
        if end == self._rows:
            self._write(self._held)
            self._n_held = 0

    def copy(self, source: StoredFeature, rows: slice) -> Iterator[int]:
        """Append rows of another data set of the same shape and dtype, in bounded memory.

        Whole row-blocks are copied as they lie in the file, not decoded, where both sides begin at
        a chunk and are stored alike; their checksums go along. All else goes through memory, a
        row-block at a time, and is held against its checksums: what is damaged is not given new
        ones.

        Parameters
        ----------
        source : StoredFeature
        rows : slice

        Yields
        ------
        int
            Bytes in memory of what was just copied.

        Raises
        ------
        WorkError
            If the source cannot be read or is damaged.
        """
        dataset, checksums = source.dataset, source.checksums
        row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
        start = rows.start
        if checksums is not None and self._takes_chunks_of(dataset, start, checksums):
            n_blocks = (rows.stop - start) // self._rows
            first = start // self._rows
            self._checksums += checksums[first : first + n_blocks].reshape(-1).tolist()
            for copied in self._copy_blocks(source, first, n_blocks):
                yield copied * self._rows * row_bytes
            start += n_blocks * self._rows
        for there, block in checked_blocks(source, slice(start, rows.stop)):
            wanted = block[max(start - there.start, 0) : rows.stop - there.start]
            self.append(wanted)
            yield len(wanted) * row_bytes

    def _takes_chunks_of(
        self, source: h5py.Dataset, row: int, checksums: npt.NDArray[np.uint64]
    ) -> bool:
        """Tell whether chunks from a row on can stand in this data set as they are."""
        return (
            self._n_held == 0
            and row % self._rows == 0
            and source.chunks == self._dataset.chunks
            and source.dtype == self._dataset.dtype
            and filters_of(source) == filters_of(self._dataset)
            and checksums.shape == chunk_grid(source.shape, source.chunks)
            # Chunks that were never written have no bytes to copy.
            and source.id.get_num_chunks() == checksums.size
        )

    def _copy_blocks(self, source: StoredFeature, first: int, n_blocks: int) -> Iterator[int]:
        """Copy row-blocks as they lie in the file; yield how many each time."""
        bytewise = self._chunk_copy(source) if n_blocks else None
        done = 0
        while bytewise and done < n_blocks:
            n = min(bytewise.blocks_at_once, n_blocks - done)
            if not bytewise.copy(first + done, self._start // self._rows, n):
                break
            self._start += n * self._rows
            done += n
            yield n
        for block in range(first + done, first + n_blocks):
            self._copy_chunks(source.dataset, block * self._rows)
            yield 1

    def _chunk_copy(self, source: StoredFeature) -> ChunkCopy | None:
        if self._filtered or self._addresses is None or not hasattr(os, "preadv"):
            return None
        there = source.addresses
        if there is None:
            return None
        return ChunkCopy(source.dataset, self._dataset, there, self._addresses)

    def _copy_chunks(self, source: h5py.Dataset, row: int) -> None:
        """Copy one row-block, chunk by chunk, as it is in the file."""
        for column in self._columns:
            offset = tuple(part.start for part in column)
            with reading(source):
                mask, data = source.id.read_direct_chunk((row, *offset))
            self._dataset.id.write_direct_chunk((self._start, *offset), data, mask)
        self._start += self._rows

    def finish(self) -> npt.NDArray[np.uint64]:
        """Write the last, partial row-block and cut the data set to the rows that came.

        Returns
        -------
        numpy.ndarray, `[*chunk grid]`
            The checksums of all chunks.
        """
        self._dataset.resize(self._start + self._n_held, axis=0)
        if self._held is not None and self._n_held:
            self._write(self._held[: self._n_held])
        grid = chunk_grid(self._dataset.shape, self._dataset.chunks)
        return np.array(self._checksums, np.uint64).reshape(grid)

    def _write(self, block: npt.NDArray[Any]) -> None:
        """Write one row-block `[up to chunk rows, *shape]` at the end of the data set."""
        if self._filtered:
            stored = np.empty(block.shape, self._dataset.dtype)
            self._convert(block, stored)
            self._dataset[self._start : self._start + len(block)] = stored
            self._checksums += [checksum(stored[(slice(None), *c)]) for c in self._columns]
        else:
            for column in self._columns:
                piece = block[(slice(None), *column)]
                chunk = self._as_chunk(piece)
                offset = (self._start, *(part.start for part in column))
                self._dataset.id.write_direct_chunk(offset, chunk)
                self._checksums.append(checksum(chunk[tuple(map(slice, piece.shape))]))
        self._start += len(block)

    def _as_chunk(self, piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return `piece` contiguous, in the stored dtype, padded with zeros to a whole chunk."""
        shape, dtype = self._dataset.chunks, self._dataset.dtype
        if piece.shape == shape and piece.dtype == dtype and piece.flags.c_contiguous:
            return piece
        chunk = self._scratch.array(shape, dtype)
        if piece.shape != shape:
            chunk[...] = 0
        self._convert(piece, chunk[tuple(map(slice, piece.shape))])
        return chunk

    def _convert(self, source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Copy into `target`, refusing finite values that its dtype cannot hold."""
        with np.errstate(over="ignore"):
            np.copyto(target, source, casting="same_kind")
        if target.itemsize < source.itemsize and np.isinf(target).any():
            lost = np.isinf(target) & np.isfinite(source)
            if lost.any():
                largest = np.finfo(target.dtype).max
                raise OverflowInDtypeError(
                    f"{self._path}: {source[lost][0]:g} does not fit in {target.dtype} "
                    f"(at most {largest:g}); store it as float32 (--dtype float32)"
                )


class Scratch:
    """Memory in which one chunk after another is laid out, shared by all data sets."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array over the memory; its contents are whatever was left there."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > self._bytes.size:
            self._bytes = np.empty(nbytes, np.uint8)
        array: npt.NDArray[Any] = self._bytes[:nbytes].view(dtype).reshape(shape)
        return array
