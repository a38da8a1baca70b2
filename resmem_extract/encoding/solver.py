r"""Ridge regression with a penalty a target, chosen by cross-validation from one decomposition.

With K = Q diag(v) Q' the centred kernel of n training rows (see `basis`), the residuals of the
training rows under the penalty a are ``e = M y`` with ``M = a (K + a I)^-1 P``. Those of rows S
that are held out, when the model and its intercept are made of the other rows alone, follow
without another decomposition [1]_::

    e_S^held_out = (M_SS)^-1 e_S

This is the same number as from a model that is fitted to the other rows, centred on these alone,
and takes a product of matrices a penalty instead of a decomposition an inner fold. himalaya's
solvers decompose the kernel anew in each inner fold and hold `[penalties, test, training]` numbers;
the results are equal, and the tests hold one against the other.

References
----------
.. [1] Cawley and Talbot (2004), Fast exact leave-one-out cross-validation of sparse least-squares
   support vector machines, Neural Networks 17; for blocks of rows: Pahikkala et al. (2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from .basis import Basis

__all__ = ["FACTORS", "Penalised", "automatic_penalties", "checked_penalties", "dual", "ridge"]

Floats = npt.NDArray[np.float64]

FACTORS = np.logspace(-5, 4, 10)
"""Penalties in units of the mean eigenvalue of the training kernel, where none are given."""
_BATCH = 512
"""Targets computed with at a time: enough for products of matrices to be fast."""


@dataclass(frozen=True)
class Penalised:
    """Predictions of the test rows of a fold, each target with the penalty that suits it."""

    predicted: npt.NDArray[np.floating]
    """`[m, t]`."""
    penalties: Floats
    """Chosen for each target, `[t]`."""
    losses: Floats
    """Mean squared error of held-out training rows, mean over inner folds, `[penalties, t]`."""


def automatic_penalties(basis: Basis) -> Floats:
    """Return penalties that suit the size of the features: `FACTORS` times the mean eigenvalue."""
    penalties: Floats = FACTORS * max(basis.mean_value, np.finfo(np.float64).tiny)
    return penalties


def checked_penalties(penalties: Sequence[float] | npt.NDArray[np.floating]) -> Floats:
    """Return penalties in ascending order.

    Raises
    ------
    RequestError
        If there is none, or one is not positive.
    """
    values = np.unique(np.asarray(penalties, dtype=np.float64))
    if not len(values) or not np.isfinite(values).all() or values[0] <= 0:
        raise RequestError(f"penalties {list(penalties)}: expected positive numbers")
    return values


def ridge(
    basis: Basis,
    targets: npt.NDArray[np.floating],
    inner: Sequence[npt.NDArray[np.intp]],
    penalties: Floats,
) -> Penalised:
    """Choose penalties on training rows, and predict test rows.

    Parameters
    ----------
    basis : Basis
    targets : array, `[n, t]`
        Of the training rows; each column's mean becomes the intercept.
    inner : sequence of int array
        Training rows that are held out in turn.
    penalties : array, `[A]`
        Ascending. Of equally good ones the largest is taken.

    Returns
    -------
    Penalised
    """
    means = targets.mean(axis=0, dtype=np.float64)
    parts = _in_basis(basis, targets, means)
    losses = np.zeros((len(penalties), targets.shape[1]))
    if len(penalties) > 1:
        for k, penalty in enumerate(penalties):
            losses[k] = _held_out(basis, targets, means, parts, inner, float(penalty))
    # The last of equals, as himalaya has it.
    best = len(penalties) - 1 - np.argmin(losses[::-1], axis=0)
    chosen = penalties[best]
    values = basis.place.get(basis.values)
    predicted = np.empty((basis.crossed.shape[0], targets.shape[1]), dtype=targets.dtype)
    for some in _batches(targets.shape[1]):
        scale = basis.place.put(1 / (values[:, None] + chosen[some]))
        made = basis.place.get(basis.crossed @ (parts[:, some] * scale))
        predicted[:, some] = made + means[some]
    return Penalised(predicted, chosen, losses)


def dual(basis: Basis, targets: npt.NDArray[np.floating], penalties: Floats) -> Floats:
    """Return the coefficients of training rows, `[n, t]`: ``(K + a I)^-1 P y``, within Q's span.

    Weights of features are ``X' P dual``.

    Parameters
    ----------
    basis : Basis
    targets : array, `[n, t]`
    penalties : array, `[t]`
    """
    means = targets.mean(axis=0, dtype=np.float64)
    parts = _in_basis(basis, targets, means)
    values = basis.place.get(basis.values)
    scale = basis.place.put(1 / (values[:, None] + penalties))
    coefficients: Floats = basis.place.get(basis.vectors @ (parts * scale))
    return coefficients


def _in_basis(basis: Basis, targets: npt.NDArray[np.floating], means: Floats) -> Any:
    """Return ``Q' P y``, `[r, t]`."""
    parts = basis.place.empty((int(basis.vectors.shape[1]), targets.shape[1]))
    for some in _batches(targets.shape[1]):
        parts[:, some] = basis.vectors.T @ basis.place.put(targets[:, some] - means[some])
    return parts


def _held_out(
    basis: Basis,
    targets: npt.NDArray[np.floating],
    means: Floats,
    parts: Any,
    inner: Sequence[npt.NDArray[np.intp]],
    penalty: float,
) -> Floats:
    """Return the mean squared error of held-out rows under a penalty, mean over folds, `[t]`."""
    q, place = basis.vectors, basis.place
    # Where Q spans everything, M = Q diag(kept) Q'; elsewhere what Q lacks is left as it is.
    kept = penalty / (basis.values + penalty)
    weight = kept if basis.complete else kept - 1
    systems = []
    for held in inner:
        m = (q[held] * weight) @ q[held].T
        if not basis.complete:
            m = m + place.put(np.eye(len(held)) - 1 / basis.n)
        systems.append(place.linalg.inv(m))
    losses = np.zeros(targets.shape[1])
    for some in _batches(targets.shape[1]):
        residuals = q @ (parts[:, some] * weight[:, None])
        if not basis.complete:
            residuals = residuals + place.put(targets[:, some] - means[some])
        for held, inverse in zip(inner, systems, strict=True):
            errors = inverse @ residuals[held]
            losses[some] += place.get((errors * errors).mean(0)) / len(inner)
    return losses


def _batches(n: int) -> Iterator[slice]:
    for start in range(0, n, _BATCH):
        yield slice(start, min(start + _BATCH, n))
