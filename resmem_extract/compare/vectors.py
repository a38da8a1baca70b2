"""Similarity of RDMs: every comparator but tau-a is an inner product of prepared vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.stats

from ..rdm import n_from_pairs, pair_indices
from .kendall import tau_a

__all__ = ["prepared", "similarities", "undefined", "whitened"]

Floats = npt.NDArray[np.float64]


def similarities(method: str, a: Floats, b: Floats) -> Floats:
    """Return the similarity of each RDM of one stack with each of another.

    Parameters
    ----------
    method : {"pearson", "spearman", "tau-a", "rho-a", "cosine", "cosine-cov", "corr-cov"}
    a : array, `[A, n_pairs]`
    b : array, `[B, n_pairs]`

    Returns
    -------
    array, `[A, B]`
        NaN where `undefined`.
    """
    if method == "tau-a":
        return np.array([[tau_a(x, y) for y in b] for x in a])
    products: Floats = prepared(method, a) @ prepared(method, b).T
    return products


def prepared(method: str, stack: Floats) -> Floats:
    """Return vectors whose inner products are the similarities.

    ``pearson``
        less the mean, of length 1;
    ``spearman``
        the same of ranks, ties sharing their mean rank;
    ``rho-a``
        ranks less their mean, divided by the length that they would have without ties: the mean of
        Spearman's correlation over all ways of breaking ties;
    ``cosine``
        of length 1;
    ``cosine-cov``
        `whitened`, of length 1;
    ``corr-cov``
        less the mean, `whitened`, of length 1.

    Parameters
    ----------
    method : str
    stack : array, `[R, n_pairs]`

    Returns
    -------
    array, `[R, n_pairs]`, or `[R, n_pairs + N]` if whitened
        NaN where `undefined`.

    References
    ----------
    Schütt, Kipnis, Diedrichsen, Kriegeskorte (2023), Statistical inference on representational
    geometries, eLife 12:e82566.
    """
    nothing = undefined(method, stack)
    if method in ("spearman", "rho-a"):
        stack = scipy.stats.rankdata(stack, axis=1)
    if method not in ("cosine", "cosine-cov"):
        stack = stack - stack.mean(axis=1, keepdims=True)
    if method.endswith("-cov"):
        stack = whitened(stack)
    if method == "rho-a":
        size = float(stack.shape[1])
        lengths = np.full(len(stack), np.sqrt((size**3 - size) / 12))
    else:
        lengths = np.sqrt(np.einsum("rp,rp->r", stack, stack))
    lengths[nothing] = np.nan
    vectors: Floats = stack / lengths[:, None]
    return vectors


def undefined(method: str, stack: Floats) -> npt.NDArray[np.bool_]:
    """Tell of which RDMs a similarity is undefined, `[R]`.

    A correlation is, where all dissimilarities are equal, and a cosine where all are zero. Tau-a
    and rho-a are then 0, as they leave ties in the denominator.
    """
    largest = np.abs(stack).max(axis=1)
    if method in ("tau-a", "rho-a"):
        return np.zeros(len(stack), dtype=np.bool_)
    if method in ("cosine", "cosine-cov"):
        return np.asarray(largest == 0)
    return np.asarray(np.ptp(stack, axis=1) <= 1e-12 * largest)


def whitened(stack: Floats) -> Floats:
    """Return RDMs with the correlation of their entries taken out.

    Estimates of two dissimilarities that share an image err together. An inner product of RDMs
    that is weighted by the inverse of that covariance, for independent patterns of equal noise,
    is the plain one of doubly centred second moments ``-D / 2``, in which entries off the diagonal
    count twice.

    Parameters
    ----------
    stack : array, `[R, n_pairs]`

    Returns
    -------
    array, `[R, n_pairs + N]`
        Off-diagonal entries times the square root of 2, then the diagonal.

    References
    ----------
    Diedrichsen et al. (2021), Comparing representational geometries using whitened
    unbiased-distance-matrix similarity, Neurons, Behavior, Data Analysis and Theory 5.
    """
    n = n_from_pairs(stack.shape[1])
    first, second = pair_indices(n)
    result = np.empty((len(stack), stack.shape[1] + n))
    for row, vector in zip(result, stack, strict=True):
        moments = np.zeros((n, n))
        moments[first, second] = moments[second, first] = -vector / 2
        means = moments.mean(axis=0)
        moments += means.mean() - means - means[:, None]
        row[: len(vector)] = moments[first, second] * np.sqrt(2)
        row[len(vector) :] = np.diagonal(moments)
    return result
