"""Inner products of patterns whose features are scaled to the variance within a group of images.

Cross-validation scales features on the training images of each fold, so that every fold has inner
products of its own. All of them are added up while the activations are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from .arrays import Precision, not_finite, on_host, placing, wide, working_precision
from .blocks import Rows, each_part

__all__ = ["CONSTANT", "scaled_grams"]

Floats = npt.NDArray[np.float64]

CONSTANT = 16
"""Rounding errors of its mean square within which a feature's variance counts as none."""


def scaled_grams(
    rows: Rows,
    groups: Sequence[npt.NDArray[np.intp]],
    *,
    memory: int | str = "2GB",
    precision: Precision = "auto",
    device: str = "cpu",
    name: str = "the features",
    ids: Sequence[str] | None = None,
) -> list[Floats]:
    """Compute inner products of all pairs of patterns, features scaled on each of some groups.

    With s_j the standard deviation of feature j over the images of a group, and m_j any constant,
    the result is ``sum_j (x_ij - m_j) (x_kj - m_j) / s_j ** 2``. Which constants these are does
    not matter to who centres the result. A feature that does not vary in a group is left out there.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
    groups : sequence of int array
        Images of each group; one that is there twice counts twice.
    memory, precision, device, name, ids
        As for `resmem_extract.gram.grams`.

    Returns
    -------
    list of array, `[N, N]`, float64
        One a group.

    Raises
    ------
    RequestError
        If an activation is NaN or infinite, or `memory` does not suffice.
    """
    work = np.dtype(working_precision(rows.shape, rows.dtype, precision, name))
    place = placing(device)
    n = int(rows.shape[0])
    weights = np.stack([np.bincount(group, minlength=n) / len(group) for group in groups])
    placed_weights = place(weights.astype(work))
    tiny = CONSTANT * float(np.finfo(work).eps)
    sums: list[Any] = []

    def add(part: npt.NDArray[Any]) -> None:
        y = place(part)
        z = y - y.mean(0)
        square = placed_weights @ (z * z)
        variance = square - (placed_weights @ z) ** 2
        if not np.isfinite(on_host(square)).all():
            raise RequestError(not_finite(part, name, ids))
        varies = variance > tiny * square
        variance[~varies] = 1.0
        factors = varies / variance**0.5
        for k in range(len(groups)):
            scaled = z * factors[k]
            if k < len(sums):
                sums[k] += scaled @ scaled.T
            else:
                sums.append(wide(scaled @ scaled.T))

    each_part(rows, add, work=work, n_results=len(groups), memory=memory, name=name)
    return [on_host(total) for total in sums]
