"""The noise ceiling: how well any RDM could do, as subjects differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats

from .kendall import resampled_tau_a
from .resampling import Counts, Moments, centred_ranks, moments, pair_weights, slices
from .vectors import similarities

__all__ = ["Ceiling", "ceiling", "resampled_ceilings"]

Floats = npt.NDArray[np.float64]


class Ceiling(NamedTuple):
    """Bounds on the similarity that the RDM behind all subjects would have with theirs."""

    lower: float
    """Mean similarity of each subject with the mean of the others."""
    upper: float
    """Mean similarity of each subject with the mean of all, itself included."""


def ceiling(method: str, subjects: Floats) -> Ceiling:
    """Return the noise ceiling of several subjects' RDMs.

    The mean is taken of RDMs that are put on one scale first: their ranks, or their values over
    their root mean square (cosine) or, less their mean, over their standard deviation (Pearson).

    Parameters
    ----------
    method : str
        As for `vectors.similarities`.
    subjects : array, `[S, n_pairs]`

    Returns
    -------
    Ceiling
        NaN for fewer than two subjects: one tells nothing of how subjects differ.

    References
    ----------
    Nili et al. (2014), A toolbox for representational similarity analysis, PLoS Computational
    Biology 10; the mean over ranks for tau-a, which is not the best but near it, as rsatoolbox.
    """
    if len(subjects) < 2:
        return Ceiling(float("nan"), float("nan"))
    on_one_scale = _on_one_scale(method, subjects)
    whole = on_one_scale.sum(axis=0)
    upper = similarities(method, whole[None], subjects)
    lower = [
        similarities(method, (whole - own)[None], subject[None])
        for own, subject in zip(on_one_scale, subjects, strict=True)
    ]
    return Ceiling(float(np.mean(lower)), float(np.mean(upper)))


def _on_one_scale(method: str, subjects: Floats) -> Floats:
    if method in ("spearman", "rho-a", "tau-a"):
        return np.asarray(scipy.stats.rankdata(subjects, axis=1))
    if method in ("pearson", "corr-cov"):
        subjects = subjects - subjects.mean(axis=1, keepdims=True)
    sizes = np.sqrt(np.mean(subjects**2, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(subjects / sizes)


def resampled_ceilings(
    method: str, subjects: Floats, counts: Counts, subject_counts: Counts
) -> Floats:
    """Return the noise ceiling in samples of images and subjects.

    A subject that is in a sample several times is left out as a whole, and counts once in the mean
    over subjects; in a sample of a single one, both bounds are its similarity with itself. So does
    rsatoolbox.

    Parameters
    ----------
    method : str
    subjects : array, `[S, n_pairs]`
    counts : int array, `[D, N]`
        How often each image is in each sample.
    subject_counts : int array, `[D, S]`

    Returns
    -------
    array, `[D, 2]`
        Lower and upper bound.
    """
    found = []
    start = 0
    for part in slices("spearman", 2 * len(subjects) + 1, subjects.shape[1], counts):
        v = subject_counts[start : start + len(part)].astype(np.float64)
        start += len(part)
        if method in ("spearman", "rho-a", "tau-a"):
            similarity = _with_ranked_means(method, subjects, part, v)
        else:
            similarity = _with_linear_means(method, subjects, part, v)
        there = v > 0
        mean = np.where(there[:, None], similarity, 0.0).sum(axis=2) / there.sum(axis=1)[:, None]
        alone = there.sum(axis=1) == 1
        mean[alone, 0] = mean[alone, 1]
        found.append(mean)
    return np.concatenate(found)


def _with_linear_means(method: str, subjects: Floats, counts: Counts, v: Floats) -> Floats:
    """Return the similarity of each subject with the mean of the others and of all, `[D, 2, S]`.

    With Q the inner products of subjects t and s, and r the sizes by which they are put on one
    scale, that of s with the sum over t of ``v_t x_t / r_t`` follows from Q alone.
    """
    plain = "pearson" if method in ("pearson", "corr-cov") else "cosine"
    subjects = _on_one_scale(plain, subjects)
    scale = moments(plain, subjects, subjects, counts)
    compared = moments(method, subjects, subjects, counts) if method != plain else scale
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = v / np.sqrt(scale.own_a)
        return np.stack(
            [
                _with_sum(compared, shares[:, None] * (1 - np.eye(len(subjects)))),
                _with_sum(compared, np.repeat(shares[:, None], len(subjects), axis=1)),
            ],
            axis=1,
        )


def _with_sum(compared: Moments, shares: Floats) -> Floats:
    """Return the similarity of each subject s with ``sum_t shares[s, t] x_t``, `[D, S]`."""
    q = compared.products
    with_own = np.einsum("dst,dts->ds", shares, q)
    lengths = np.einsum("dst,dtu,dsu->ds", shares, q, shares)
    return np.asarray(with_own / np.sqrt(lengths * compared.own_a))


def _with_ranked_means(method: str, subjects: Floats, counts: Counts, v: Floats) -> Floats:
    """Return the same where means are of ranks, which are ranked again in each sample."""
    weights = pair_weights(counts)
    ranks = centred_ranks(subjects, weights)
    found = np.full((len(counts), 2, len(subjects)), np.nan)
    for d in np.flatnonzero(weights.sum(axis=1) > 1):
        there = np.flatnonzero(v[d])
        whole = v[d] @ ranks[d]
        one = _Sample(method, weights[d], subjects, ranks[d])
        found[d, 1, there] = one.with_mean(whole, there)
        for s in there if len(there) > 1 else ():
            rest = whole - v[d, s] * ranks[d, s]
            found[d, 0, s] = one.with_mean(rest, np.array([s]))[0]
    return found


class _Sample:
    """Subjects in one sample of images, to be compared with means of their ranks."""

    def __init__(self, method: str, weights: Floats, subjects: Floats, ranks: Floats) -> None:
        self._method, self._weights, self._ranks = method, weights, ranks
        if method == "tau-a":
            self._there = np.flatnonzero(weights)
            self._subjects = subjects[:, self._there]

    def with_mean(self, mean: Floats, chosen: npt.NDArray[np.intp]) -> Floats:
        """Return the similarity of some subjects with a sum of ranks, `[len(chosen)]`."""
        if self._method == "tau-a":
            means, weights = mean[None, self._there], self._weights[None, self._there]
            taus: Floats = resampled_tau_a(means, self._subjects[chosen], weights)[0, 0]
            return taus
        again = _ranks_of_halves(mean, self._weights)
        weighted = self._weights * again
        products = self._ranks[chosen] @ weighted
        size = self._weights.sum()
        if self._method == "rho-a":
            return np.asarray(12 * products / (size**3 - size))
        squares = self._ranks[chosen] ** 2 @ self._weights
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(products / np.sqrt(squares * (weighted @ again)))


def _ranks_of_halves(values: Floats, weights: Floats) -> Floats:
    """Return the ranks of multiples of 1/2, less their mean, without sorting them."""
    keys = np.rint(2 * (values - values.min())).astype(np.intp)
    tied = np.bincount(keys, weights).astype(np.int64)
    centred: Floats = (2 * np.cumsum(tied) - tied - tied.sum())[keys] / 2
    return centred
