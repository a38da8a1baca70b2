"""Similarity of features on both sides, from their inner products alone: CKA and Procrustes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .kernel import centred

__all__ = ["hsic_kernels", "kernel_similarity", "procrustes_factor", "rbf", "u_centred"]

Floats = npt.NDArray[np.float64]


def kernel_similarity(method: str, a: Floats, b: Floats, *, debiased: bool = True) -> float:
    """Return the similarity of two sets of features of the same N images.

    ``cka``
        centred kernel alignment, ``<K, L> / (|K| |L|)``, of linear kernels (`hsic_kernels`);
    ``cka-rbf``
        the same of Gaussian kernels (`rbf`);
    ``procrustes``
        the sum of singular values of ``X.T @ Y``, over ``|X| |Y|``: 1 less half the squared
        Procrustes distance of features that are centred and of size 1.

    Parameters
    ----------
    method : {"cka", "cka-rbf", "procrustes"}
    a, b : array, `[N, N]`
        Inner products of centred features.
    debiased : bool
        For CKA: the estimate that does not grow with the number of features; it can be negative.

    Returns
    -------
    float
        NaN where undefined: features that do not vary, or, debiased, fewer than four images.

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML;
    Song et al. (2012), Feature selection via dependence maximization, JMLR 13;
    Williams et al. (2021), Generalized shape metrics on neural representations, NeurIPS.
    """
    if method == "procrustes":
        return _procrustes(a, b)
    left, right = (hsic_kernels(method, kernel, debiased=debiased) for kernel in (a, b))
    return _alignment(left, right)


def hsic_kernels(method: str, kernel: Floats, *, debiased: bool = True) -> Floats:
    """Return the matrix whose inner product with another's is their HSIC, up to a factor of N."""
    matrix = rbf(kernel) if method == "cka-rbf" else kernel
    return u_centred(matrix) if debiased else centred(matrix)


def _alignment(a: Floats, b: Floats) -> float:
    squares = float((a * a).sum() * (b * b).sum())
    if not squares > 0:
        return float("nan")
    return float((a * b).sum() / np.sqrt(squares))


def u_centred(matrix: Floats) -> Floats:
    """Return a kernel centred without its diagonal, which is what biases HSIC.

    The inner product of two of them, over N (N - 3), is the unbiased estimate of HSIC.

    References
    ----------
    Székely and Rizzo (2014), Partial distance correlation with methods for dissimilarities,
    Annals of Statistics 42.
    """
    n = len(matrix)
    if n < 4:
        return np.full_like(matrix, np.nan)
    result = matrix.astype(np.float64, copy=True)
    np.fill_diagonal(result, 0.0)
    means = result.sum(axis=0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    result -= means + means[:, None]
    np.fill_diagonal(result, 0.0)
    return result


def rbf(kernel: Floats) -> Floats:
    """Return the Gaussian kernel of features, as wide as their median distance.

    ``exp(-|x_i - x_j|**2 / (2 m**2))``, where m is the median over all pairs of ``|x_i - x_j|``.
    """
    norms = np.diagonal(kernel)
    squared = np.maximum(norms + norms[:, None] - 2 * kernel, 0.0)
    np.fill_diagonal(squared, 0.0)
    median = float(np.median(squared[np.triu_indices(len(kernel), 1)]))
    if not median > 0:
        return np.full_like(kernel, np.nan)
    return np.asarray(np.exp(squared / (-2 * median)))


def _procrustes(a: Floats, b: Floats) -> float:
    size = float(np.trace(a) * np.trace(b))
    if not size > 0:
        return float("nan")
    values = np.linalg.svd(procrustes_factor(a).T @ procrustes_factor(b), compute_uv=False)
    return float(values.sum() / np.sqrt(size))


def procrustes_factor(kernel: Floats) -> Floats:
    """Return features `[N, N]` with these inner products."""
    values, vectors = np.linalg.eigh(kernel)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
