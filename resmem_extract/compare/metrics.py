"""From inner products of patterns to dissimilarities: the one place that defines the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, did_you_mean
from ..gram import Form, Gram

__all__ = ["METRICS", "check_metric", "dissimilarities", "squared_lengths"]

Floats = npt.NDArray[np.float64]

METRICS: Mapping[str, Form] = {
    "correlation": "standardised",
    "cosine": "scaled",
    "euclidean": "plain",
    "sqeuclidean": "plain",
}
"""Each metric, and the form of the patterns whose inner products it is computed from.

With x_i the pattern of image i, p numbers, and m_i its mean:

- ``correlation``: ``1 - (x_i - m_i) @ (x_j - m_j) / (|x_i - m_i| |x_j - m_j|)``
- ``cosine``: ``1 - x_i @ x_j / (|x_i| |x_j|)``
- ``euclidean``: ``|x_i - x_j|``
- ``sqeuclidean``: ``|x_i - x_j|**2``

as in `scipy.spatial.distance`.
"""


def check_metric(metric: str) -> None:
    """Raise if there is no such metric.

    Raises
    ------
    RequestError
    """
    if metric not in METRICS:
        hint = did_you_mean(metric, list(METRICS), f"expected one of {', '.join(METRICS)}")
        raise RequestError(f"metric {metric!r} is not known; {hint}")


def dissimilarities(gram: Gram, metric: str) -> Floats:
    """Return the dissimilarities of all pairs, `[N * (N - 1) / 2]`, in the order of an RDM.

    Parameters
    ----------
    gram : Gram
        Of the form that `METRICS` names.
    metric : str
    """
    if metric in ("correlation", "cosine"):
        return _angles(gram, centred=metric == "correlation")
    squared = _condensed(len(gram.products), _squared_distances(gram, centred=False))
    return np.sqrt(squared) if metric == "euclidean" else squared


def squared_lengths(gram: Gram, *, centred: bool) -> Floats:
    """Return ``|y_i|**2`` of each pattern, `[N]`, less its mean if `centred`."""
    norms, cross, mean_square = _parts(gram, centred)
    return np.maximum(norms + 2 * cross + mean_square, 0.0)


def _parts(gram: Gram, centred: bool) -> tuple[Floats, Floats, float]:
    """Return ``z_i @ z_i``, ``z_i @ mu`` and ``mu @ mu``, without the means over features."""
    norms = np.diagonal(gram.products)
    if not centred:
        return norms, gram.cross, gram.mean_square
    p = gram.n_features
    mean = gram.mean_sum / p
    return (
        norms - gram.sums**2 / p,
        gram.cross - mean * gram.sums,
        gram.mean_square - p * mean**2,
    )


def _squared_distances(gram: Gram, centred: bool) -> Iterator[Floats]:
    """Yield ``|y_i - y_j|**2`` of each i and all j > i."""
    norms, _, _ = _parts(gram, centred)
    sums = gram.sums
    for i, products in enumerate(gram.products[:-1]):
        inner = products[i + 1 :]
        if centred:
            inner = inner - sums[i] * sums[i + 1 :] / gram.n_features
        yield np.maximum(norms[i] + norms[i + 1 :] - 2 * inner, 0.0)


def _angles(gram: Gram, centred: bool) -> Floats:
    """Return 1 minus the cosine of the angles between patterns.

    That is half the squared distance of patterns of length 1,
    ``(|y_i - y_j|**2 - (|y_i| - |y_j|)**2) / (2 |y_i| |y_j|)``: a difference from 1 would lose the
    digits of small angles.
    """
    norms, cross, mean_square = _parts(gram, centred)
    squares = np.maximum(norms + 2 * cross + mean_square, 0.0)
    lengths = np.sqrt(squares)
    above = norms + 2 * cross

    def rows() -> Iterator[Floats]:
        for i, distances in enumerate(_squared_distances(gram, centred)):
            gaps = (above[i] - above[i + 1 :]) / (lengths[i] + lengths[i + 1 :])
            yield (distances - gaps**2) / (2 * lengths[i] * lengths[i + 1 :])

    return np.clip(_condensed(len(norms), rows()), 0.0, 2.0)


def _condensed(n: int, rows: Iterator[Floats]) -> Floats:
    condensed = np.empty(n * (n - 1) // 2)
    start = 0
    for row in rows:
        condensed[start : start + len(row)] = row
        start += len(row)
    return condensed
