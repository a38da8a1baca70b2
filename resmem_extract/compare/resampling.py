"""Similarities of RDMs in which images are repeated, for many samples at once.

A sample with replacement repeats images, and the dissimilarity of an image to itself, trivially
zero, is left out of it. So a pair of different images is in the sample as often as the product of
the numbers of its images, and every comparator becomes one with weights: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..rdm import n_from_pairs, pair_indices
from .kendall import resampled_tau_a

__all__ = ["Moments", "centred_ranks", "moments", "pair_weights", "resampled", "slices"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_BYTES = 2**25
"""Samples are worked on in slices whose largest arrays take about so much."""
_NOTHING = 1e-20
"""A variance below that, of vectors of size 1, is rounding."""


def resampled(method: str, a: Floats, b: Floats, counts: Counts) -> Floats:
    """Return the similarity of each RDM of one stack with each of another, in each sample.

    Parameters
    ----------
    method : str
        As for `vectors.similarities`.
    a : array, `[A, n_pairs]`
    b : array, `[B, n_pairs]`
    counts : int array, `[D, N]`
        How often each image is in each sample.

    Returns
    -------
    array, `[D, A, B]`
        NaN where undefined.
    """
    parts = []
    for part in slices(method, len(a) + len(b), a.shape[1], counts):
        if method == "tau-a":
            parts.append(resampled_tau_a(a, b, pair_weights(part)))
        else:
            parts.append(moments(method, a, b, part).similarities())
    return np.concatenate(parts)


def slices(method: str, n_rdms: int, n_pairs: int, counts: Counts) -> Iterator[Counts]:
    """Yield the samples, as many at a time as memory admits."""
    rows = n_rdms + 2 if method in ("spearman", "rho-a") else 4
    step = max(_BYTES // (8 * n_pairs * rows), 1)
    for start in range(0, len(counts), step):
        yield counts[start : start + step]


def pair_weights(counts: Counts) -> Floats:
    """Return how often each pair of different images is in each sample, `[D, n_pairs]`."""
    first, second = pair_indices(counts.shape[1])
    weights: Floats = (counts[:, first] * counts[:, second]).astype(np.float64)
    return weights


class Moments(NamedTuple):
    """Inner products of RDMs in each sample, in the space in which they are compared."""

    products: Floats
    """Of each of one stack with each of another, `[D, A, B]`."""
    own_a: Floats
    """Of each of the first stack with itself, `[D, A]`; for rho-a, what it would be untied."""
    own_b: Floats
    """The same of the second, `[D, B]`."""

    def similarities(self) -> Floats:
        """Return the cosines, `[D, A, B]`, NaN where a vector is zero."""
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = np.sqrt(self.own_a[:, :, None]) * np.sqrt(self.own_b[:, None])
            return np.where(lengths > 0, self.products / lengths, np.nan)


def moments(method: str, a: Floats, b: Floats, counts: Counts) -> Moments:
    """Return the inner products of RDMs in each sample, for any comparator but tau-a."""
    if method.endswith("-cov"):
        return _whitened_moments(a, b, counts, centred=method == "corr-cov")
    weights = pair_weights(counts)
    if method in ("spearman", "rho-a"):
        return _rank_moments(a, b, weights, untied=method == "rho-a")
    return _linear_moments(a, b, weights, centred=method == "pearson")


def _linear_moments(a: Floats, b: Floats, weights: Floats, *, centred: bool) -> Moments:
    """Return weighted inner products, or covariances if `centred`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = weights / weights.sum(axis=1, keepdims=True)
    a, b = (_of_size_one(stack, centred) for stack in (a, b))
    products = np.stack([shares @ (a * vector).T for vector in b], axis=2)
    own_a, own_b = shares @ (a * a).T, shares @ (b * b).T
    if centred:
        mean_a, mean_b = shares @ a.T, shares @ b.T
        products -= mean_a[:, :, None] * mean_b[:, None]
        own_a, own_b = own_a - mean_a**2, own_b - mean_b**2
    return Moments(products, _or_zero(own_a), _or_zero(own_b))


def _of_size_one(stack: Floats, centred: bool) -> Floats:
    """Return vectors of root mean square 1, less their means first if `centred`."""
    if centred:
        stack = stack - stack.mean(axis=1, keepdims=True)
    sizes = np.sqrt(np.mean(stack**2, axis=1, keepdims=True))
    return np.divide(stack, sizes, out=np.zeros_like(stack), where=sizes > 0)


def _or_zero(own: Floats) -> Floats:
    return np.where(own > _NOTHING, own, 0.0)


def _rank_moments(a: Floats, b: Floats, weights: Floats, *, untied: bool) -> Moments:
    """Return weighted covariances of ranks."""
    size = weights.sum(axis=1)
    ranks_a = centred_ranks(a, weights)
    ranks_b = ranks_a if b is a else centred_ranks(b, weights)
    weighted = ranks_b * weights[:, None]
    products = ranks_a @ np.swapaxes(weighted, 1, 2)
    if untied:
        own = (size**3 - size)[:, None] / 12
        return Moments(products, np.repeat(own, len(a), 1), np.repeat(own, len(b), 1))
    own_a = np.einsum("dap,dap,dp->da", ranks_a, ranks_a, weights)
    return Moments(products, own_a, np.einsum("dbp,dbp->db", ranks_b, weighted))


def centred_ranks(stack: Floats, weights: Floats) -> Floats:
    """Return the rank of each entry among those of each sample, less the mean of all ranks.

    Parameters
    ----------
    stack : array, `[R, n_pairs]`
        Sorted once, for all samples.
    weights : array, `[D, n_pairs]`
        How often each entry is in the sample; one that is not gets a rank of no meaning.

    Returns
    -------
    array, `[D, R, n_pairs]`
        Of equal entries the mean of their ranks.
    """
    whole = weights.astype(np.int64)  # of floats, each sum waits longer for the one before it
    size = whole.sum(axis=1, keepdims=True)
    result = np.empty((len(weights), *stack.shape))
    for r, vector in enumerate(stack):
        order = np.argsort(vector, kind="stable")
        ordered = vector[order]
        starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        here = np.take(whole, order, axis=1)
        if not starts.all():
            here = np.add.reduceat(here, np.flatnonzero(starts), axis=1)
        twice = 2 * np.cumsum(here, axis=1) - here - size
        if not starts.all():
            twice = twice[:, np.cumsum(starts) - 1]
        result[:, r, order] = twice
    result /= 2
    return result


def _whitened_moments(a: Floats, b: Floats, counts: Counts, *, centred: bool) -> Moments:
    """Return inner products after `vectors.whitened`, the images' own repeats left out.

    Repeats of an image are alike, so that it suffices to centre the second moments v of different
    images with weights: u solves ``sum_j w_j (v_ij - u_i - u_j) - 2 u_i = 0``, the sum over
    j != i, which makes the rows of ``v_ij - u_i - u_j`` sum to zero with the diagonal ``-2 u_i``.
    """
    n = n_from_pairs(a.shape[1])
    both = np.concatenate([a, b])
    first, second = pair_indices(n)
    products = np.full((len(counts), len(both), len(both)), np.nan)
    for d, count in enumerate(counts):
        there = np.flatnonzero(count)
        if len(there) < 3:
            continue
        w = count[there].astype(np.float64)
        inside = (count[first] > 0) & (count[second] > 0)
        i, j = pair_indices(len(there))
        vectors = both[:, inside]
        weights = w[i] * w[j]
        if centred:
            vectors = vectors - (vectors @ weights / weights.sum())[:, None]
        vectors = vectors / -2
        square = np.zeros((len(both), len(w), len(w)))
        square[:, i, j] = square[:, j, i] = vectors
        system = np.repeat(w[None], len(w), axis=0)
        np.fill_diagonal(system, w.sum() - w + 2)
        u = np.linalg.solve(system, (square @ w).T).T
        vectors = vectors - u[:, i] - u[:, j]
        products[d] = (vectors * (2 * weights)) @ vectors.T + (4 * u * w) @ u.T
    own = np.diagonal(products, axis1=1, axis2=2)
    scale = np.nanmax(np.abs(own), axis=0, initial=0.0)
    own = np.where(own > 1e-20 * scale, own, 0.0)
    return Moments(products[:, : len(a), len(a) :], own[:, : len(a)], own[:, len(a) :])
