"""Read activations and hold them against their checksums, so that damage is not passed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ResmemExtractError, WorkError, reason_of
from .checksums import checksum, chunk_columns, chunk_grid
from .chunk_copy import chunk_addresses

__all__ = ["StoredFeature", "checked_blocks", "compute_checksums", "reading"]


@dataclass(frozen=True, eq=False)
class StoredFeature:
    """The activations of one module in a file that is open for reading."""

    dataset: h5py.Dataset
    checksums: npt.NDArray[np.uint64] | None
    """Of all chunks, `[*chunk grid]`; None in a file without."""

    @cached_property
    def addresses(self) -> npt.NDArray[np.int64] | None:
        """At which byte of the file each chunk begins; see `chunk_addresses`."""
        return chunk_addresses(self.dataset)


def checked_blocks(stored: StoredFeature, rows: slice) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Walk through rows of a module, one whole row-block of chunks at a time.

    Nothing is checked without checksums, or if another program has changed the data set's shape.

    Parameters
    ----------
    stored : StoredFeature
    rows : slice
        Consecutive rows; the first and the last block reach as far as their chunks do.

    Yields
    ------
    rows : slice
    block : numpy.ndarray, `[rows.stop - rows.start, *shape]`

    Raises
    ------
    WorkError
        If the file cannot be read or is damaged.
    """
    dataset, checksums = stored.dataset, stored.checksums
    chunks = dataset.chunks or dataset.shape
    step = max(chunks[0], 1)
    columns = chunk_columns(dataset.shape[1:], chunks[1:])
    if checksums is not None and checksums.shape == chunk_grid(dataset.shape, chunks):
        expected = checksums.reshape(len(checksums), len(columns))
    else:
        expected = None
    for start in range(rows.start - rows.start % step, rows.stop, step):
        block_rows = slice(start, min(start + step, len(dataset)))
        with reading(dataset):
            block = dataset[block_rows]
        if expected is not None:
            for column, value in zip(columns, expected[start // step], strict=True):
                if checksum(block[(slice(None), *column)]) != value:
                    raise _damaged(dataset, block_rows)
        yield block_rows, block


def compute_checksums(dataset: h5py.Dataset) -> npt.NDArray[np.uint64]:
    """Return the checksums of all chunks, `[*chunk grid]`, from what is read.

    Raises
    ------
    WorkError
        If the file cannot be read.
    """
    chunks = dataset.chunks or dataset.shape
    columns = chunk_columns(dataset.shape[1:], chunks[1:])
    values = [
        checksum(block[(slice(None), *column)])
        for _, block in checked_blocks(StoredFeature(dataset, None), slice(0, len(dataset)))
        for column in columns
    ]
    return np.array(values, np.uint64).reshape(chunk_grid(dataset.shape, chunks))


def _damaged(dataset: h5py.Dataset, rows: slice) -> WorkError:
    file = dataset.file.filename
    return WorkError(
        f"{file} is damaged: {dataset.name}, rows {rows.start} to {rows.stop - 1}, is not what "
        f"was written; see: resmem-extract verify {file}"
    )


@contextmanager
def reading(part: h5py.Dataset | h5py.File) -> Iterator[None]:
    """Say which file failed, where two are at work.

    Raises
    ------
    WorkError
    """
    try:
        yield
    except ResmemExtractError:  # which says it already
        raise
    except (OSError, RuntimeError) as error:
        raise WorkError(
            f"{part.file.filename} cannot be read ({part.name}): {reason_of(error)}"
        ) from error
