"""Inner products of the activations of all pairs of images, streamed in bounded memory.

The N x p activations of a module are read in blocks of whole columns, so that each chunk of a
store is read once; every block ends in one product ``z @ z.T`` in the precision of the activations,
and these products are added in float64.

The mean pattern is taken off first, because it would otherwise eat the digits: activations behind
a ReLU, or with an offset, lie close to one another and far from zero. Where only the direction of
a pattern matters, one that is short beside the mean pattern would lose its own digits to it, so all
are brought to one length before, if they differ. None of this has to be exact, as all of it is
accounted for: the mean is taken block by block, and lengths are those within the first block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .errors import RequestError, counted

__all__ = [
    "Form",
    "Gram",
    "Precision",
    "Rows",
    "column_blocks",
    "each_part",
    "grams",
    "memory_in_bytes",
    "not_finite",
    "on_host",
    "placing",
    "wide",
    "working_precision",
]

Form = Literal["plain", "scaled", "standardised"]
"""What may be done to a pattern first: nothing; a factor; a shift and a factor."""

Precision = Literal["auto", "float32", "float64"]
Floats = npt.NDArray[np.float64]

_USABLE = 0.8
"""Share of the memory budget that is planned with; the interpreter needs some."""
_STEP = 2**13
"""Columns multiplied at a time: few enough for the last digits (float32 adds up within a product),
enough to outweigh the adding of N x N numbers."""
_COPIES = 3
"""Arrays of the size of a step that are there at the same time."""
_ALIKE = 0.1
"""Lengths within so much of their median are left as they are: a factor costs half a digit."""


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


@dataclass(frozen=True)
class Gram:
    """Inner products of N patterns about their mean.

    With y_i the pattern of image i in its `Form`, and mu about the mean of all of them, it holds
    the products of z_i = y_i - mu and what leads back to those of y_i:
    ``y_i @ y_j = z_i @ z_j + z_i @ mu + z_j @ mu + mu @ mu``.
    """

    products: Floats
    """``z_i @ z_j``, `[N, N]`."""
    n_features: int
    sums: Floats
    """``z_i @ 1``, `[N]`."""
    cross: Floats
    """``z_i @ mu``, `[N]`."""
    mean_sum: float
    """``mu @ 1``."""
    mean_square: float
    """``mu @ mu``."""


def grams(
    rows: Rows,
    forms: Sequence[Form] = ("plain",),
    *,
    memory: int | str = "2GB",
    precision: Precision = "auto",
    device: str = "cpu",
    name: str = "the features",
    ids: Sequence[str] | None = None,
) -> dict[Form, Gram]:
    """Compute inner products of all pairs of patterns, reading the activations once.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
        All axes after the first count as features.
    forms : sequence of Form
        Each costs a matrix product of its own, except where it leaves all patterns as they are.
    memory : int or str
        Bytes that may be used, such as ``"2GB"``; the N x N results have to fit in them too.
    precision : {"auto", "float32", "float64"}
        Of the products. ``"auto"``: float32 where the activations are float32 or float16.
    device : str
        ``"cpu"`` (NumPy) or a device of PyTorch that has float64.
    name : str
        Of the activations, for messages.
    ids : sequence of str, optional
        Of the images, for messages.

    Returns
    -------
    dict from Form to Gram

    Raises
    ------
    RequestError
        If there is nothing to compare, an activation is NaN or infinite (the message names the
        images), or `memory` does not suffice.
    """
    _, p = _size(rows, name)
    work = np.dtype(working_precision(rows.dtype, precision, name))
    place = placing(device)
    running: dict[Form, _Sums] = {}

    def add(part: npt.NDArray[Any]) -> None:
        placed = place(part)
        if not running:
            running.update(_start(forms, part, place))
        for sums in set(running.values()):
            if not sums.add(placed):
                raise RequestError(not_finite(part, name, ids))

    each_part(rows, add, work=work, n_results=len(forms), memory=memory, name=name)
    results = {form: sums.result(p) for form, sums in running.items()}
    if not all(np.isfinite(result.products).all() for result in results.values()):
        raise RequestError(
            f"{name}: activations are too large to be multiplied in {work}; use float64 arithmetic"
        )
    return results


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
    n, _ = _size(rows, name)
    step, room = _plan(n, rows, work, n_results, memory_in_bytes(memory), name)

    def cut(block: npt.NDArray[Any]) -> None:
        """Cut one block; a function of its own, so that it is let go before the next is read."""
        columns = block.reshape(n, -1)
        for start in range(0, columns.shape[1], step):
            use(np.asarray(columns[:, start : start + step], dtype=work))

    with np.errstate(invalid="ignore", over="ignore"):  # reported by name instead
        for key in column_blocks(rows.shape, room, getattr(rows, "chunks", None)):
            cut(np.asarray(rows[key]))


class _Sums:
    """What has been added up over the columns read so far, as arrays of NumPy or of PyTorch."""

    def __init__(self, shift: Any = None, factor: Any = None) -> None:
        self._shift, self._factor = shift, factor
        self._products: Any = None
        self._sums: Any = 0.0
        self._cross: Any = 0.0
        self._mean_sum = self._mean_square = 0.0

    def add(self, columns: Any) -> bool:
        """Add a block `[N, k]`; tell whether it is finite."""
        # Each step in the memory of the one before, as soon as that is not the caller's.
        y = columns if self._shift is None else columns - self._shift
        if self._factor is not None:
            y = y * self._factor if y is columns else y.__imul__(self._factor)
        mean = y.mean(0)
        if not math.isfinite(float(abs(mean).sum())):
            return False
        z = y - mean if y is columns else y.__isub__(mean)
        level = float(mean.mean())
        sums = wide(z.sum(1))
        self._sums = self._sums + sums
        # As a product with the whole mean, an offset would eat the digits once more.
        self._cross = self._cross + wide(z @ (mean - level)) + level * sums
        self._mean_sum += float(wide(mean).sum())
        self._mean_square += float((wide(mean) ** 2).sum())
        if self._products is None:
            self._products = wide(z @ z.T)
        else:
            self._products += z @ z.T
        return True

    def result(self, n_features: int) -> Gram:
        """Return the sums as NumPy arrays."""
        return Gram(
            products=on_host(self._products),
            n_features=n_features,
            sums=on_host(self._sums),
            cross=on_host(self._cross),
            mean_sum=self._mean_sum,
            mean_square=self._mean_square,
        )


def _start(
    forms: Sequence[Form], part: npt.NDArray[Any], place: Callable[[npt.NDArray[Any]], Any]
) -> dict[Form, _Sums]:
    """Return where to add up each form; forms that leave these columns as they are share one."""
    shared = _Sums()
    few = part[:, :: max(part.shape[1] // 1024, 1)].astype(np.float64)
    started: dict[Form, _Sums] = {}
    for form in forms:
        shift = _offsets(few) if form == "standardised" else np.zeros((len(few), 1))
        factor = np.ones((len(few), 1)) if form == "plain" else _factors(few, form)
        shifted, scaled = bool(shift.any()), bool((factor != 1).any())
        started[form] = (
            _Sums(
                place(shift.astype(part.dtype)) if shifted else None,
                place(factor.astype(part.dtype)) if scaled else None,
            )
            if shifted or scaled
            else shared
        )
    return started


def _offsets(few: Floats) -> Floats:
    """Return what to take off each pattern, `[N, 1]`: its mean, or 0 if all means are alike."""
    means: Floats = few.mean(axis=1, keepdims=True)
    alike = np.ptp(means) <= _ALIKE * few.std(axis=1).min()
    return np.zeros_like(means) if alike else means


def _factors(few: Floats, form: Form) -> Floats:
    """Return what to multiply each pattern with, `[N, 1]`: 1 if lengths are alike."""
    level = few.mean(axis=1, keepdims=True) * (form == "standardised")
    sizes: Floats = np.sqrt(np.square(few - level).mean(axis=1, keepdims=True))
    # What is left of equal numbers may not be quite zero.
    usable = np.isfinite(sizes) & (sizes > 1e-14 * np.abs(level))
    usual = np.median(sizes[usable]) if usable.any() else 1.0
    alike = bool((np.abs(sizes[usable] / usual - 1) <= _ALIKE).all())
    factors: Floats = np.ones_like(sizes)
    return np.divide(usual, sizes, out=factors, where=usable & (not alike))


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


def _size(rows: Rows, name: str) -> tuple[int, int]:
    if len(rows.shape) < 2:
        raise RequestError(f"{name}: expected an array [images, features], got shape {rows.shape}")
    n, p = int(rows.shape[0]), math.prod(rows.shape[1:])
    if n < 2 or p < 1:
        what = counted(p, "feature")
        raise RequestError(
            f"{name}: {counted(n, 'image')} of {what}; comparing takes two images and one feature"
        )
    return n, p


def working_precision(
    dtype: np.dtype[Any], precision: Precision, name: str
) -> Literal["float32", "float64"]:
    """Return the precision of the products of activations of a dtype.

    Raises
    ------
    RequestError
        If they are no numbers, or there is no such precision.
    """
    if dtype.kind not in "biuf":
        raise RequestError(f"{name}: expected numbers, got {dtype}")
    if precision not in ("auto", "float32", "float64"):
        raise RequestError(f"precision {precision!r}: expected auto, float32 or float64")
    if precision != "auto":
        return precision
    return "float32" if dtype.kind == "f" and dtype.itemsize <= 4 else "float64"


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


def placing(device: str) -> Callable[[npt.NDArray[Any]], Any]:
    """Return how a NumPy array gets onto the device where it is multiplied.

    Raises
    ------
    RequestError
        If there is no such device here, or it has no float64.
    """
    if device == "cpu":
        return lambda array: array
    import torch

    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"device {device!r} cannot be used here: {reason}") from error
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


def wide(array: Any) -> Any:
    """Return an array of NumPy or PyTorch in float64."""
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array.double()


def on_host(array: Any) -> Any:
    """Return an array of NumPy or PyTorch as one of NumPy."""
    return array.cpu().numpy() if hasattr(array, "cpu") else array


def not_finite(part: npt.NDArray[Any], name: str, ids: Sequence[str] | None) -> str:
    """Return what to say of activations that are not finite, or whose sums are not."""
    rows = np.flatnonzero(~np.isfinite(part).all(axis=1))
    if not len(rows):
        return f"{name}: activations are too large for {part.dtype}; use float64 arithmetic"
    return f"{name}: NaN or infinite activations of {_named(rows, ids)}; extract them again"


def _named(rows: npt.NDArray[np.intp], ids: Sequence[str] | None) -> str:
    shown = ", ".join(str(ids[row]) if ids is not None else f"row {row}" for row in rows[:5])
    return f"{counted(len(rows), 'image')} ({shown}{', ...' if len(rows) > 5 else ''})"
