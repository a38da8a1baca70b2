"""The rows of one data set on their way into whole chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import OverflowInDtypeError, WorkError, reason_of
from .layout import filters_of

__all__ = ["FeatureStream", "Scratch"]


class FeatureStream:
    """The rows of one data set on their way into whole chunks.

    Every chunk is written once, complete. Without a filter its bytes go straight to the file,
    past HDF5's chunk cache and type conversion, which halve the rate.
    """

    def __init__(self, dataset: h5py.Dataset, path: str, scratch: Scratch) -> None:
        self._dataset = dataset
        self._path = path
        self._filtered = dataset.id.get_create_plist().get_nfilters() > 0
        self._columns = list(_grid(dataset.shape[1:], dataset.chunks[1:]))
        self._rows: int = dataset.chunks[0]
        self._start = 0
        self._n_held = 0
        self._held: npt.NDArray[Any] | None = None
        self._scratch = scratch

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

    def copy(self, source: h5py.Dataset, rows: slice) -> Iterator[int]:
        """Append rows of another data set of the same shape and dtype, in bounded memory.

        Whole row-blocks are copied as they lie in the file, not decoded, where both sides begin at
        a chunk and are stored alike; all else goes through memory, a row-block at a time.

        Yields
        ------
        int
            Bytes in memory of what was just copied.
        """
        row_bytes = source.dtype.itemsize * math.prod(source.shape[1:])
        whole = (rows.stop - rows.start) // self._rows * self._rows
        start = rows.start + (whole if self._takes_chunks_of(source, rows.start) else 0)
        for row in range(rows.start, start, self._rows):
            self._copy_chunks(source, row)
            yield self._rows * row_bytes
        step = source.chunks[0] if source.chunks else self._rows
        while start < rows.stop:
            end = min(start - start % step + step, rows.stop)
            with _reading(source):
                block = source[start:end]
            self.append(block)
            yield (end - start) * row_bytes
            start = end

    def _takes_chunks_of(self, source: h5py.Dataset, row: int) -> bool:
        """Tell whether chunks from a row on can stand in this data set as they are."""
        return (
            self._n_held == 0
            and row % self._rows == 0
            and source.chunks == self._dataset.chunks
            and source.dtype == self._dataset.dtype
            and filters_of(source) == filters_of(self._dataset)
            # h5py is asked for every chunk, and one that was never written has no bytes.
            and source.id.get_num_chunks() == -(-len(source) // self._rows) * len(self._columns)
        )

    def _copy_chunks(self, source: h5py.Dataset, row: int) -> None:
        """Copy one row-block, chunk by chunk, as it is in the file."""
        chunk = None
        if not self._filtered:  # their size is known, and memory is used again
            nbytes = math.prod(self._dataset.chunks) * self._dataset.dtype.itemsize
            chunk = self._scratch.array((nbytes,), np.dtype(np.uint8))
        for column in self._columns:
            offset = tuple(part.start for part in column)
            with _reading(source):
                mask, data = source.id.read_direct_chunk((row, *offset), out=chunk)
            self._dataset.id.write_direct_chunk((self._start, *offset), data, mask)
        self._start += self._rows

    def finish(self) -> None:
        """Write the last, partial row-block and cut the data set to the rows that came."""
        self._dataset.resize(self._start + self._n_held, axis=0)
        if self._held is not None and self._n_held:
            self._write(self._held[: self._n_held])

    def _write(self, block: npt.NDArray[Any]) -> None:
        """Write one row-block `[up to chunk rows, *shape]` at the end of the data set."""
        if self._filtered:
            stored = np.empty(block.shape, self._dataset.dtype)
            self._convert(block, stored)
            self._dataset[self._start : self._start + len(block)] = stored
        else:
            for column in self._columns:
                piece = block[(slice(None), *column)]
                offset = (self._start, *(part.start for part in column))
                self._dataset.id.write_direct_chunk(offset, self._as_chunk(piece))
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


@contextmanager
def _reading(source: h5py.Dataset) -> Iterator[None]:
    """Say which file failed, where two are at work."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise WorkError(
            f"{source.file.filename} cannot be read ({source.name}): {reason_of(error)}"
        ) from error


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Walk through the chunks of a row-block, each as a slice for every axis after the rows."""
    axes = (
        [slice(start, min(start + part, size)) for start in range(0, size, part)]
        for size, part in zip(shape, chunk, strict=True)
    )
    return itertools.product(*axes)
