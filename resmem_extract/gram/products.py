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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from .arrays import Precision, not_finite, on_host, placing, wide, working_precision
from .blocks import Rows, each_part, size_of

__all__ = ["Form", "Gram", "grams"]

Form = Literal["plain", "scaled", "standardised"]
"""What may be done to a pattern first: nothing; a factor; a shift and a factor."""

Floats = npt.NDArray[np.float64]

_ALIKE = 0.1
"""Lengths within so much of their median are left as they are: a factor costs half a digit."""


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
        Of the products. ``"auto"``: float32 where the activations are float32 or float16 and
        there are many; float64 otherwise.
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
    _, p = size_of(rows, name)
    work = np.dtype(working_precision(rows.shape, rows.dtype, precision, name))
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
