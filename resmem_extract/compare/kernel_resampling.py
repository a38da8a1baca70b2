"""Debiased CKA in which images are repeated, for many samples at once."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from .cka import rbf

__all__ = ["resampled_cka"]

Floats = npt.NDArray[np.float64]


def resampled_cka(
    method: str, a: list[Floats], b: list[Floats], counts: npt.NDArray[np.int64]
) -> Floats:
    """Return the debiased CKA of each kernel of one list with each of another, in each sample.

    Debiased HSIC is a mean over sets of four different images. In a sample it is taken over sets of
    four different images as well, each as often as the product of the numbers of its images: an
    image and its repeat tell nothing.

    Parameters
    ----------
    method : {"cka", "cka-rbf"}
    a, b : list of array, each `[N, N]`
        Inner products of features. A Gaussian kernel is as wide as for the whole set of images.
    counts : int array, `[D, N]`
        How often each image is in each sample.

    Returns
    -------
    array, `[D, A, B]`
        NaN where undefined.
    """
    weights = counts.astype(np.float64)
    left = [_Weighted(_without_diagonal(method, kernel), weights) for kernel in a]
    same = len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    right = left if same else [_Weighted(_without_diagonal(method, k), weights) for k in b]
    own = {id(kernel): kernel.hsic(kernel) for kernel in (*left, *right)}
    found = np.empty((len(counts), len(a), len(b)))
    for (i, x), (j, y) in itertools.product(enumerate(left), enumerate(right)):
        if same and j < i:
            found[:, i, j] = found[:, j, i]
            continue
        squares = own[id(x)] * own[id(y)]
        positive = (own[id(x)] > 0) & (own[id(y)] > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, i, j] = np.where(positive, x.hsic(y) / np.sqrt(squares), np.nan)
    return found


def _without_diagonal(method: str, kernel: Floats) -> Floats:
    matrix = rbf(kernel) if method == "cka-rbf" else kernel.copy()
    np.fill_diagonal(matrix, 0.0)
    return matrix


class _Weighted:
    """A kernel without its diagonal, and samples of its images as weights `[D, N]`."""

    def __init__(self, kernel: Floats, weights: Floats) -> None:
        self._kernel, self._weights = kernel, weights
        self._sums = weights @ kernel
        w, (p1, p2, p3, p4) = weights, (np.sum(weights**k, axis=1) for k in (1, 2, 3, 4))
        self._pairs = p1**2 - p2
        self._triples = p1**3 - 3 * p1 * p2 + 2 * p3
        self._fours = p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4
        self._total = np.sum(w * self._sums, axis=1)

    def hsic(self, other: _Weighted) -> Floats:
        """Return the unbiased estimate of HSIC in each sample, `[D]`."""
        w, w2 = self._weights, self._weights**2
        both = self._kernel * other._kernel
        once, twice = w @ both, w2 @ both
        sums = self._sums * other._sums
        pairs = np.sum(once * w, axis=1)
        mixed, squared = np.sum(twice * w, axis=1), np.sum(twice * w2, axis=1)
        triples = np.sum(w * sums, axis=1) - mixed
        fours = self._total * other._total - 4 * (np.sum(w2 * sums, axis=1) - squared) - 2 * squared
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(
                pairs / self._pairs + fours / self._fours - 2 * triples / self._triples
            )
