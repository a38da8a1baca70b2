"""Activations in blocks of whole columns, within a budget of memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted

__all__ = ["Rows", "column_blocks", "each_part", "memory_in_bytes", "size_of"]

_USABLE = 0.8
"""Share of the memory budget that is planned with; the interpreter needs some."""
_STEP = 2**13
"""Columns multiplied at a time: few enough for the last digits (float32 adds up within a product),
enough to outweigh the adding of N x N numbers."""
_COPIES = 3
"""Arrays of the size of a step that are there at the same time."""


class Rows(Protocol):
    """Activations `[N, ...]`, one image a row, that are read as they are indexed.

    A NumPy array is one, and so is a `FeatureArray` of a store. ``__getitem__`` has to take slices
    and index arrays on the first axis and slices on the others, and to return NumPy arrays. Where
    there is an attribute `chunks`, blocks are cut at its multiples.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing returns."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return what NumPy would."""
        ...


def each_part(
    rows: Rows,
    use: Callable[[npt.NDArray[Any]], None],
    *,
    work: np.dtype[Any],
    n_results: int,
    memory: int | str,
    name: str,
) -> None:
    """Call `use` with all features in turn, some columns `[N, k]` at a time.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
    use : callable
        Told of every part, in the precision `work`.
    work : numpy.dtype
    n_results : int
        How many arrays `[N, N]` of float64 are kept meanwhile.
    memory : int or str
        For these and for what is read.
    name : str

    Raises
    ------
    RequestError
        If there is nothing to compare, or `memory` does not suffice.
    """
    n, _ = size_of(rows, name)
    step, room = _plan(n, rows, work, n_results, memory_in_bytes(memory), name)

    def cut(block: npt.NDArray[Any]) -> None:
        """Cut one block; a function of its own, so that it is let go before the next is read."""
        columns = block.reshape(n, -1)
        for start in range(0, columns.shape[1], step):
            use(np.asarray(columns[:, start : start + step], dtype=work))

    with np.errstate(invalid="ignore", over="ignore"):  # reported by name instead
        for key in column_blocks(rows.shape, room, getattr(rows, "chunks", None)):
            cut(np.asarray(rows[key]))


def column_blocks(
    shape: Sequence[int], room: int, chunks: Sequence[int] | None = None
) -> Iterator[tuple[slice, ...]]:
    """Cut an array into blocks of all rows, and of at most `room` columns where possible.

    Parameters
    ----------
    shape : sequence of int
        ``[N, ...]``.
    room : int
        Columns, numbers of one row.
    chunks : sequence of int, optional
        Shape of the array's chunks; blocks hold whole ones if they fit.

    Yields
    ------
    tuple of slice
        For each axis of the array.
    """
    axes = len(shape)
    parts = [1] * axes
    inner = 1
    for axis in range(axes - 1, 0, -1):
        part = min(max(room // inner, 1), shape[axis])
        chunk = chunks[axis] if chunks else 1
        if chunk < part < shape[axis]:
            part = part // chunk * chunk
        parts[axis] = part
        if part < shape[axis]:
            break
        inner *= part

    def cut(axis: int) -> Iterator[tuple[slice, ...]]:
        if axis == axes:
            yield ()
            return
        for start in range(0, shape[axis], parts[axis]):
            for rest in cut(axis + 1):
                yield (slice(start, min(start + parts[axis], shape[axis])), *rest)

    for columns in cut(1):
        yield (slice(None), *columns)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def memory_in_bytes(memory: int | str) -> int:
    """Return a memory budget in bytes: ``"2GB"``, ``"500 MB"``, ``"1.5GiB"`` or a number.

    Raises
    ------
    RequestError
        If it is none of these, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(memory).lower())
    unit = {**_UNITS, **_BINARY}.get(found[2]) if found else None
    if isinstance(memory, bool) or not found or unit is None or float(found[1]) <= 0:
        raise RequestError(f"memory {memory!r}: expected an amount such as 2GB, 500MB or 1.5GiB")
    return int(float(found[1]) * unit)


def size_of(rows: Rows, name: str) -> tuple[int, int]:
    """Return the numbers of images and of features.

    Raises
    ------
    RequestError
        If there is nothing to compare.
    """
    if len(rows.shape) < 2:
        raise RequestError(f"{name}: expected an array [images, features], got shape {rows.shape}")
    n, p = int(rows.shape[0]), math.prod(rows.shape[1:])
    if n < 2 or p < 1:
        what = counted(p, "feature")
        raise RequestError(
            f"{name}: {counted(n, 'image')} of {what}; comparing takes two images and one feature"
        )
    return n, p


def _plan(
    n: int, rows: Rows, work: np.dtype[Any], n_forms: int, memory: int, name: str
) -> tuple[int, int]:
    """Return how many columns to multiply and how many to read at a time."""
    column = n * work.itemsize
    results = n * n * (8 * n_forms + 4 + 2 * work.itemsize)
    left = _USABLE * memory - results
    one = _COPIES * column + n * rows.dtype.itemsize
    step = max(min(_STEP, memory // (16 * column), int(left // one)), 1)
    in_memory = isinstance(rows, np.ndarray) and not isinstance(rows, np.memmap)
    room = int((left - _COPIES * step * column) // (n * rows.dtype.itemsize))
    if room < 1:
        least = math.ceil((results + one) / _USABLE / 1e8) / 10
        raise RequestError(
            f"{name}: all pairs of {n} images need about {least:.1f} GB, and {memory / 1e9:.2g} GB "
            f"are allowed; give --memory {least:.1f}GB, or, in rsa, compare a sample: --pairs 1e6"
        )
    return step, max(room, step) if in_memory else room
