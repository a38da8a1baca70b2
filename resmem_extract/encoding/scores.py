"""How well predictions fit what was measured, target by target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["correlation", "r_squared"]

Floats = npt.NDArray[np.float64]


def correlation(measured: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating]) -> Floats:
    """Return Pearson's r over the first axis; NaN where either side does not vary.

    Parameters
    ----------
    measured, predicted : array, `[n, ...]`
        Of shapes that broadcast.
    """
    y, f = _centred(measured), _centred(predicted)
    size = np.sqrt((y * y).sum(axis=0) * (f * f).sum(axis=0))
    # What is left of equal numbers may not be quite zero.
    usable = size > 1e-14 * _level(measured) * _level(predicted) * len(y)
    r: Floats = np.full(size.shape, np.nan)
    np.divide((y * f).sum(axis=0), size, out=r, where=usable)
    return r


def r_squared(measured: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating]) -> Floats:
    """Return 1 - (squared error) / (squared deviation from the mean of `measured`).

    Parameters
    ----------
    measured, predicted : array, `[n, ...]`
        Of shapes that broadcast.
    """
    y = np.asarray(measured, dtype=np.float64)
    error = ((y - predicted) ** 2).sum(axis=0)
    around_mean = (_centred(measured) ** 2).sum(axis=0)
    usable = np.broadcast_to(around_mean > 1e-28 * _level(measured) ** 2 * len(y), error.shape)
    r2: Floats = np.full(error.shape, np.nan)
    np.divide(error, around_mean, out=r2, where=usable)
    return 1.0 - r2


def _centred(values: npt.NDArray[np.floating]) -> Floats:
    wide = np.asarray(values, dtype=np.float64)
    centred: Floats = wide - wide.mean(axis=0)
    return centred


def _level(values: npt.NDArray[np.floating]) -> Floats:
    level: Floats = np.abs(values).max(axis=0).astype(np.float64)
    return level
