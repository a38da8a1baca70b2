"""Rows in another order, or of several stores in turn: through memory, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Progress
from .checked import checked_blocks, reading
from .reader import Store
from .writer import StoreWriter

__all__ = ["Tally", "append_gathered", "check_activations", "read_rows"]

_BATCH_BYTES = 2**25
"""Activations that are in memory together, all modules of some rows."""

Told = Callable[[int], None]
"""Told how many bytes of activations came since it was last called."""


class Tally:
    """Adds up what is told of bytes, and tells how many there are of all."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, nbytes: int) -> None:
        """Add bytes that were done."""
        self._done += nbytes
        if self._progress:
            self._progress(self._done, self._total)


def check_activations(store: Store, told: Told | None = None) -> None:
    """Hold all activations of a store against their checksums.

    Rows that are picked one by one cannot be checked while they are read, as a checksum is of a
    whole chunk.

    Raises
    ------
    WorkError
        If the store cannot be read or is damaged.
    """
    for module in store.modules:
        for _, block in checked_blocks(store.handle.stored(module), slice(0, len(store))):
            if told:
                told(block.nbytes)


def read_rows(store: Store, module: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return rows of a module in any order, `[len(rows), *shape]`.

    Raises
    ------
    WorkError
        If they cannot be read.
    """
    array = store[module]
    with reading(store.handle.stored(module).dataset):
        block: npt.NDArray[Any] = array[rows]
        return block


def append_gathered(
    writer: StoreWriter,
    ids: Sequence[str],
    sha256s: Sequence[str],
    read: Callable[[slice], Mapping[str, npt.NDArray[Any]]],
    told: Told | None = None,
) -> None:
    """Append rows that `read` returns, by canonical path, for a slice of `ids`."""
    for rows in _batches(len(ids), writer.row_bytes):
        activations = read(rows)
        writer.append(ids[rows], sha256s[rows], activations)
        if told:
            told(sum(array.nbytes for array in activations.values()))


def _batches(n_rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _BATCH_BYTES // max(row_bytes, 1))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))
