"""Where a store is cut, and what its parts are called."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted, nearest
from .contents import Contents
from .file_names import file_name
from .space import format_bytes

__all__ = ["Piece", "by_bytes", "by_column", "by_module", "by_parts", "by_rows"]

_EVEN = 8
"""Cuts are moved to chunks where parts have this many row-blocks: no part differs by more than an
eighth from the others."""


@dataclass(frozen=True)
class Piece:
    """One part that a store is cut into."""

    name: str
    """What its file's name has after that of the store."""
    rows: npt.NDArray[np.intp]
    """Rows of the store, ascending."""
    modules: tuple[str, ...]
    """Canonical paths."""


def by_parts(whole: Contents, parts: int) -> list[Piece]:
    """Cut into exactly so many parts of consecutive rows, as even as whole chunks admit.

    Raises
    ------
    RequestError
        If there are fewer images than parts.
    """
    n = len(whole.ids)
    if parts < 1:
        raise RequestError(f"{parts} parts: expected at least 1")
    if parts > n:
        raise RequestError(
            f"{whole.path} has {counted(n, 'image')}, too few for {parts} parts; "
            f"ask for at most {n}"
        )
    grid = _grid(whole, n // parts)
    cuts = [round(part * n / parts / grid) * grid for part in range(parts)] + [n]
    return _consecutive(whole, cuts)


def by_rows(whole: Contents, rows: int) -> list[Piece]:
    """Cut into parts of so many consecutive rows, rounded down to whole chunks.

    Raises
    ------
    RequestError
        If the number is not positive.
    """
    if rows < 1:
        raise RequestError(f"{rows} rows a part: expected at least 1")
    rows -= rows % _grid(whole, rows)
    return _consecutive(whole, [*range(0, len(whole.ids), rows), len(whole.ids)])


def by_bytes(whole: Contents, max_bytes: int) -> list[Piece]:
    """Cut into parts of consecutive rows that have at most so many bytes of activations.

    Raises
    ------
    RequestError
        If one row has more.
    """
    if max_bytes < whole.row_bytes:
        raise RequestError(
            f"{format_bytes(max_bytes)} a part: one image alone has {format_bytes(whole.row_bytes)}"
            f" in {whole.path}; allow more, or split by module"
        )
    return by_rows(whole, max_bytes // max(whole.row_bytes, 1))


def by_module(whole: Contents) -> list[Piece]:
    """Cut into one part a module, each with all rows."""
    rows = np.arange(len(whole.ids))
    return [Piece(file_name(module), rows, (module,)) for module in whole.modules]


def by_column(whole: Contents, column: str) -> list[Piece]:
    """Cut into one part for each value of a column of the images.

    Raises
    ------
    RequestError
        If there is no such column.
    """
    if column not in whole.columns:
        near = nearest(column, list(whole.columns))
        known = ", ".join(whole.columns) or "none"
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {known}"
        raise RequestError(f"{whole.path} has no column {column!r}; {hint}")
    values, places = np.unique(whole.columns[column], return_inverse=True)
    return [
        Piece(file_name(f"{column}={value}"), np.flatnonzero(places == i), whole.modules)
        for i, value in enumerate(values.tolist())
    ]


def _grid(whole: Contents, rows: int) -> int:
    """Return the number of rows that cuts are to be multiples of, for parts of so many rows.

    That of the chunks of the largest module, so that nearly all is copied without being decoded;
    what smaller modules have in larger chunks goes through memory.
    """
    largest = max(whole.specs.values(), key=lambda spec: spec.nbytes_per_image, default=None)
    if largest is None:
        return 1
    chunk_rows = whole.layouts[largest.path].chunks[0]
    return chunk_rows if rows >= _EVEN * chunk_rows else 1


def _consecutive(whole: Contents, cuts: list[int]) -> list[Piece]:
    n_parts = len(cuts) - 1
    width = len(str(n_parts))
    return [
        Piece(f"part-{part:0{width}d}-of-{n_parts}", np.arange(start, stop), whole.modules)
        for part, (start, stop) in enumerate(itertools.pairwise(cuts), start=1)
    ]
