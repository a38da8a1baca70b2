"""Cross-validated predictions, their scores, and what chance would have scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .folds import Fold
from .scores import correlation, r_squared

__all__ = ["Chance", "FoldModel", "Validated", "cross_validate", "mean_over_folds"]

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating]

FoldModel = Callable[[Values], tuple[Values, Floats]]
"""The model of one fold: from targets of all rows, `[n, t]` (those of test rows are not looked at),
to predictions of its test rows, `[m, t]`, and penalties, `[t]`."""

_COLUMNS = 4096
"""Targets times permutations computed with at a time."""


@dataclass(frozen=True)
class Chance:
    """How responses are put in random order, for p."""

    n: int
    """Permutations."""
    units: npt.NDArray[np.intp]
    """Rows of what changes places as one, `[units, m]`: an image's repeats, in one order."""
    within: npt.NDArray[np.intp] | None = None
    """Units of one number change places with each other alone, `[units]`; None: all with all."""
    seed: int = 0

    def orders(self) -> npt.NDArray[np.intp]:
        """Return the permutations of rows, `[self.n, n_rows]`."""
        rng = np.random.default_rng([self.seed, 2])
        orders = np.empty((self.n, self.units.size), dtype=np.intp)
        within = np.zeros(len(self.units), np.intp) if self.within is None else self.within
        home = np.argsort(within, kind="stable")
        for order in orders:
            # Sorting a random order by group shuffles each group in itself.
            shuffled = rng.permutation(len(self.units))
            shuffled = shuffled[np.argsort(within[shuffled], kind="stable")]
            order[self.units[home]] = self.units[shuffled]
        return orders


@dataclass(frozen=True)
class Validated:
    """What cross-validation gives for `t` targets in `k` folds."""

    predicted: Values
    """Of every row by the model of its fold, `[n, t]`; NaN for rows that are in none."""
    r: Floats
    """Pearson, `[k, t]`."""
    r2: Floats
    """`[k, t]`."""
    penalties: Floats
    """`[k, t]`."""
    p: Floats | None = None
    """One-sided, of the mean r over folds, `[t]`."""

    @property
    def mean_r(self) -> Floats:
        """Mean over the folds where it is defined, `[t]`."""
        return mean_over_folds(self.r)

    @property
    def mean_r2(self) -> Floats:
        """Mean over the folds where it is defined, `[t]`."""
        return mean_over_folds(self.r2)


def mean_over_folds(scores: Floats) -> Floats:
    """Return means over the first axis of what is not NaN; NaN where all is."""
    defined = np.isfinite(scores)
    mean: Floats = np.full(scores.shape[1:], np.nan)
    np.divide(
        np.where(defined, scores, 0).sum(axis=0),
        defined.sum(axis=0),
        out=mean,
        where=defined.any(axis=0),
    )
    return mean


def cross_validate(
    models: Iterable[tuple[Fold, FoldModel]],
    targets: Values,
    chance: Chance | None = None,
    *,
    alone: bool = True,
    progress: Callable[[], None] | None = None,
) -> Validated:
    """Predict each fold by a model of the other rows, and score it.

    For p, the responses of all rows change places and everything is done again, the choice of
    penalties included. Holding the predictions fixed and permuting what they are compared with
    would not do: the predictions of fold A from B and of B from A are made of the same products, so
    that the scores of folds go together under the null, and p would come out too small.

    Parameters
    ----------
    models : iterable of (Fold, FoldModel)
        Taken one after the other, and let go.
    targets : array, `[n, t]`
    chance : Chance, optional
        By default there is no p.
    alone : bool
        Whether the prediction of a target does not depend on the other targets.
    progress : callable, optional
        Told of each fold that is done.

    Returns
    -------
    Validated
    """
    n, t = targets.shape
    # Deviations from the mean keep the digits that a large mean would take, in float32 above all.
    means = targets.mean(axis=0, dtype=np.float64).astype(targets.dtype)
    targets = targets - means
    predicted = np.full((n, t), np.nan, dtype=targets.dtype)
    scores: list[Floats] = []
    scores_r2: list[Floats] = []
    penalties: list[Floats] = []
    orders = np.empty((0, n), dtype=np.intp) if chance is None else chance.orders()
    null, defined = np.zeros((len(orders), t)), np.zeros((len(orders), t), dtype=np.int32)
    for fold, model in models:
        made, chosen = model(targets)
        predicted[fold.test] = made
        scores.append(correlation(targets[fold.test], made))
        scores_r2.append(r_squared(targets[fold.test], made))
        penalties.append(chosen)
        for some in _batches(len(orders), t if alone else _COLUMNS):
            r = _of_orders(model, fold, targets, orders[some])
            null[some] += np.where(np.isfinite(r), r, 0)
            defined[some] += np.isfinite(r)
        if progress:
            progress()
    predicted += means
    result = Validated(predicted, np.stack(scores), np.stack(scores_r2), np.stack(penalties))
    if not len(orders):
        return result
    null /= np.maximum(defined, 1)
    null[defined == 0] = -np.inf
    better = (null >= result.mean_r - 1e-12).sum(axis=0)
    p = np.where(np.isnan(result.mean_r), np.nan, (1 + better) / (1 + len(orders)))
    return Validated(result.predicted, result.r, result.r2, result.penalties, p)


def _of_orders(
    model: FoldModel, fold: Fold, targets: Values, orders: npt.NDArray[np.intp]
) -> Floats:
    """Return r of all targets in each order, `[orders, t]`."""
    moved = targets[orders.T].reshape(len(targets), -1)  # [n, orders * t]
    made, _ = model(moved)
    return correlation(moved[fold.test], made).reshape(len(orders), -1)


def _batches(n_orders: int, n_targets: int) -> Sequence[slice]:
    step = max(_COLUMNS // n_targets, 1)
    return [slice(start, min(start + step, n_orders)) for start in range(0, n_orders, step)]
