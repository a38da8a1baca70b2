"""Training images in the directions in which their features vary: what every penalty shares.

A ridge regression with an unpenalised intercept, of n training rows with features X, is about
their mean: with K = P X X' P and P = I - 11'/n. From the eigenvectors of K, or equally from the
singular vectors of P X, the model of any penalty and any target follows by products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Place
from .folds import Fold

__all__ = ["Basis", "from_features", "from_products"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Eigenvectors of the centred kernel of n training rows, without directions of no variance.

    With y of mean zero, the predictions under the penalty a are
    ``crossed @ ((vectors.T @ y) / (values + a))``.
    """

    vectors: Any
    """Q, `[n, r]`: orthonormal, each orthogonal to the vector of ones."""
    values: Any
    """Eigenvalues, `[r]`, the largest first."""
    crossed: Any
    """``K_test @ Q``, `[m, r]`; K_test holds inner products of test with training rows, both about
    the mean of the latter."""
    place: Place

    @property
    def n(self) -> int:
        """Training rows."""
        return int(self.vectors.shape[0])

    @property
    def complete(self) -> bool:
        """Whether Q spans all vectors of mean zero."""
        return int(self.vectors.shape[1]) == self.n - 1

    @property
    def mean_value(self) -> float:
        """Mean eigenvalue of the n x n kernel: a natural unit of the penalty."""
        return float(self.values.sum()) / self.n


def from_products(
    products: Floats,
    rows: npt.NDArray[np.intp],
    fold: Fold,
    place: Place,
    components: int | None = None,
) -> Basis:
    """Return the basis of a fold from inner products of all pairs of images (kernel form).

    Parameters
    ----------
    products : array, `[N, N]`
        About any mean: that of the training rows is taken off here (Schölkopf et al., 1998).
    rows : int array, `[n]`
        Image of each row.
    fold : Fold
    place : Place
    components : int, optional
        Keep the first so many directions alone: principal components of the training rows.
    """
    train, test = rows[fold.train], rows[fold.test]
    square = products[np.ix_(train, train)]
    means = square.mean(axis=0)
    square -= means[:, None]
    square -= means - means.mean()
    values, vectors = place.linalg.eigh(place.put(square))
    kept = _kept(place.get(values), len(train), components)
    del square
    cross = products[np.ix_(test, train)]
    cross -= cross.mean(axis=1, keepdims=True)
    cross -= means - means.mean()
    vectors = vectors[:, kept]
    return Basis(vectors, values[kept], place.put(cross) @ vectors, place)


def from_features(
    features: Floats, fold: Fold, place: Place, components: int | None = None
) -> Basis:
    """Return the basis of a fold from the features themselves (primal form).

    Parameters
    ----------
    features : array, `[n, p]`
        Of each row; the mean of the training rows is taken off here.
    fold, place, components
        As for `from_products`.
    """
    mean = features[fold.train].mean(axis=0)
    train = place.put(features[fold.train] - mean)
    left, sizes, right = place.linalg.svd(train, full_matrices=False)
    kept = _kept(place.get(sizes)[::-1] ** 2, len(fold.train), components)
    kept = len(sizes) - 1 - kept
    left, sizes, right = left[:, kept], sizes[kept], right[kept]
    crossed = (place.put(features[fold.test] - mean) @ right.T) * sizes
    return Basis(left, sizes**2, crossed, place)


def _kept(ascending: npt.NDArray[Any], n: int, components: int | None) -> npt.NDArray[np.intp]:
    """Return which eigenvalues are more than rounding errors, the largest first."""
    largest = float(ascending[-1]) if len(ascending) else 0.0
    least = largest * n * float(np.finfo(ascending.dtype).eps)
    kept = np.flatnonzero(ascending > max(least, np.finfo(ascending.dtype).tiny))[::-1]
    # Of n centred vectors n - 1 are independent at most.
    return kept[: n - 1 if components is None else min(components, n - 1)].copy()
