"""Activations as one vector an image, read in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from ..gram import not_finite

__all__ = ["BLOCK_BYTES", "Rows", "Vectors"]

BLOCK_BYTES = 2**25
"""The most that a block of rows takes, unless a step needs more rows at a time."""


class Rows(Protocol):
    """Activations `[N, ...]`, one image a row: a NumPy array, or a `FeatureArray` of a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return what NumPy would for a slice or an index array on the first axis."""
        ...


class Vectors:
    """Activations of one or several modules as vectors `[N, d]`, float32.

    Parameters
    ----------
    parts : sequence of Rows
        Their values are put one behind the other, each part flattened in C order.
    orders : sequence of (numpy.ndarray or None), optional
        For each part which of its rows belongs to each image; None where they are in order.
    ids : sequence of str, optional
        Of the images, for messages.
    """

    def __init__(
        self,
        parts: Sequence[Rows],
        orders: Sequence[npt.NDArray[np.intp] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self._parts = tuple(parts)
        self._orders = tuple(orders) if orders else (None,) * len(self._parts)
        self._ids = ids
        first = self._orders[0]
        self.n_images = self._parts[0].shape[0] if first is None else len(first)

    @property
    def size(self) -> int:
        """Values an image."""
        return sum(math.prod(part.shape[1:]) for part in self._parts)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return some vectors.

        Raises
        ------
        RequestError
            If a value is NaN or infinite.
        """
        blocks = []
        for part, order in zip(self._parts, self._orders, strict=True):
            stored = np.asarray(part[rows if order is None else order[rows]])
            block = stored.reshape(len(stored), -1).astype(np.float32, copy=False)
            if not np.isfinite(block).all():
                name = str(getattr(part, "module", "activations"))
                raise RequestError(not_finite(block, name, self._ids_of(rows)))
            blocks.append(block)
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def _ids_of(self, rows: slice | npt.NDArray[np.intp]) -> list[str] | None:
        if self._ids is None:
            return None
        return [self._ids[row] for row in np.arange(self.n_images)[rows].tolist()]

    def slices(self, n: int, at_least: int = 1) -> Iterator[slice]:
        """Cut `n` rows into blocks of `BLOCK_BYTES`, none of fewer than `at_least` rows.

        Unless `n` itself is smaller. Where the cuts are depends on nothing but the sizes.
        """
        step = max(BLOCK_BYTES // max(4 * self.size, 1), at_least, 1)
        starts = list(range(0, n, step))
        if len(starts) > 1 and n - starts[-1] < at_least:
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], n], strict=True):
            yield slice(start, stop)
