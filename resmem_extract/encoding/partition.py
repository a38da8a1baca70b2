"""Variance partitioning: what one feature set explains that another does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Partition", "partition_variance"]

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Partition:
    """Cross-validated R2 of two feature sets, alone and together, `[t]` each."""

    r2_a: Floats
    r2_b: Floats
    r2_both: Floats
    intervals: dict[str, Floats]
    """95 % percentile intervals over images of `unique_a`, `unique_b` and `shared`, `[t, 2]`."""

    @property
    def unique_a(self) -> Floats:
        """What A explains and B does not."""
        return self.r2_both - self.r2_b

    @property
    def unique_b(self) -> Floats:
        """What B explains and A does not."""
        return self.r2_both - self.r2_a

    @property
    def shared(self) -> Floats:
        """What either explains as well as the other."""
        return self.r2_a + self.r2_b - self.r2_both


def partition_variance(
    measured: Values,
    predicted: Sequence[Values],
    folds: Sequence[npt.NDArray[np.intp]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Partition:
    """Partition R2 between feature sets A and B (Borcard et al., 1992).

    R2 is the mean over folds of ``1 - SSE / SST``. For intervals the rows of each fold are drawn
    anew with replacement, models and SST staying as they are, so that they tell how the images
    tested on vary and not how models would.

    Parameters
    ----------
    measured : array, `[n, t]`
    predicted : sequence of array, `[n, t]`
        By models of A, of B, and of both, cross-validated in the same folds.
    folds : sequence of int array
        Test rows of each.
    samples : int
    seed : int
    """
    rng = np.random.default_rng([seed, 4])
    t = measured.shape[1]
    point = np.zeros((3, t))
    drawn = np.zeros((3, samples, t))
    for rows in folds:
        y = np.asarray(measured[rows], dtype=np.float64)
        around = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
        around[around == 0] = np.nan
        counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=samples)
        for k, one in enumerate(predicted):
            errors = (y - one[rows]) ** 2 / around
            point[k] += (1 - errors.sum(axis=0)) / len(folds)
            drawn[k] += (1 - counts @ errors) / len(folds)
    a, b, both = drawn
    parts = {"unique_a": both - b, "unique_b": both - a, "shared": a + b - both}
    intervals = {
        name: np.percentile(values, [2.5, 97.5], axis=0).T for name, values in parts.items()
    }
    return Partition(point[0], point[1], point[2], intervals)
