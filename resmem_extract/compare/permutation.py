"""Whether a similarity is more than chance: permutations of the labels of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from ..errors import RequestError, counted
from ..rdm import RDM, condensed_rows, n_from_pairs
from .cka import hsic_kernels, procrustes_factor
from .comparators import DEFAULT_COMPARATOR
from .joining import common_ids
from .kendall import tau_a
from .kernel import Kernel
from .similarity import Side, check_sides
from .vectors import prepared

__all__ = ["MIN_IMAGES_PERMUTED", "Permutations", "false_discovery_rate", "permutation_test"]

Floats = npt.NDArray[np.float64]

MIN_IMAGES_PERMUTED = 5
"""Four images have 24 orders: the smallest p would hardly be below 0.05."""


@dataclass(frozen=True)
class Permutations:
    """Similarities with the reference as it is, and with its images in random order."""

    values: Floats
    """`[L]`."""
    null: Floats
    """`[D, L]`."""

    def p(self) -> Floats:
        """Return the share of orders that do no worse than the true one, which counts, `[L]`."""
        rounding = 1e-12
        better = (self.null >= self.values - rounding).sum(axis=0)
        p: Floats = (1 + better) / (1 + len(self.null))
        return np.where(np.isnan(self.values), np.nan, p)


def permutation_test(
    models: Sequence[Side],
    reference: Side,
    method: str = DEFAULT_COMPARATOR,
    *,
    n: int = 1000,
    seed: int = 0,
    orders: npt.NDArray[np.intp] | None = None,
) -> Permutations:
    """Compare models with a reference whose images are relabelled at random; one-sided.

    Parameters
    ----------
    models : sequence of RDM, or of Kernel for a comparator of features
    reference : RDM or Kernel
        All subjects are relabelled alike.
    method : str
    n : int
        Permutations.
    seed : int
    orders : int array, `[n, N]`, optional
        The permutations themselves, in place of `n` and `seed`.

    Returns
    -------
    Permutations

    Raises
    ------
    RequestError
        If there are too few images.
    """
    check_sides(method, *models, reference)
    common = common_ids([models[0], reference, *models])
    if len(common) < MIN_IMAGES_PERMUTED:
        raise RequestError(
            f"permutations of {counted(len(common), 'image')}: expected {MIN_IMAGES_PERMUTED} "
            "at least"
        )
    if orders is None:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(len(common)), (n, 1)), axis=1)
    sides = [model.subset(common) for model in models]
    target = reference.subset(common)
    similarity = _statistic(method, sides, target)
    null = np.array([similarity(order) for order in orders])
    return Permutations(similarity(np.arange(len(common))), null)


_Statistic = Callable[[npt.NDArray[np.intp]], Floats]
"""From an order of the reference's images to the similarity of each model, `[L]`."""


def _statistic(method: str, models: Sequence[Side], reference: Side) -> _Statistic:
    """Do all that does not depend on the order, and return the rest."""
    if isinstance(reference, Kernel):
        kernels = [model.matrix for model in models if isinstance(model, Kernel)]
        if method == "procrustes":
            return _procrustes(kernels, reference.matrix)
        return _alignment(method, kernels, reference.matrix)
    stacks = [model.stack for model in models if isinstance(model, RDM)]
    if method == "tau-a":
        return _tau_a(stacks, reference.stack)
    return _products(method, stacks, reference.stack)


def _products(method: str, models: Sequence[Floats], reference: Floats) -> _Statistic:
    vectors = np.stack([prepared(method, stack).mean(axis=0) for stack in models])
    target = prepared(method, reference).mean(axis=0)
    n_pairs = reference.shape[1]
    n = n_from_pairs(n_pairs)
    pairs, diagonal = target[:n_pairs], target[n_pairs:]

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        moved = pairs[condensed_rows(order, n)]
        if len(diagonal):
            moved = np.concatenate([moved, diagonal[order]])
        values: Floats = vectors @ moved
        return values

    return in_order


def _tau_a(models: Sequence[Floats], reference: Floats) -> _Statistic:
    n = n_from_pairs(reference.shape[1])

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        moved = reference[:, condensed_rows(order, n)]
        return np.array([np.mean([tau_a(a, b) for a in stack for b in moved]) for stack in models])

    return in_order


def _alignment(method: str, models: Sequence[Floats], reference: Floats) -> _Statistic:
    def of_size_one(kernel: Floats) -> Floats:
        matrix = hsic_kernels(method, kernel)
        size = np.sqrt((matrix * matrix).sum())
        result: Floats = matrix / (size if size > 0 else np.nan)
        return result

    vectors = np.stack([of_size_one(kernel).ravel() for kernel in models])
    target = of_size_one(reference)

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        values: Floats = vectors @ target[np.ix_(order, order)].ravel()
        return values

    return in_order


def _procrustes(models: Sequence[Floats], reference: Floats) -> _Statistic:
    def of_size_one(kernel: Floats) -> Floats:
        size = np.sqrt(np.trace(kernel))
        result: Floats = procrustes_factor(kernel) / (size if size > 0 else np.nan)
        return result

    factors = [of_size_one(kernel) for kernel in models]
    target = of_size_one(reference)

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        moved = target[order]
        return np.array(
            [np.linalg.svd(factor.T @ moved, compute_uv=False).sum() for factor in factors]
        )

    return in_order


def false_discovery_rate(p: Floats) -> Floats:
    """Return p corrected for the number of tests, by Benjamini and Hochberg; NaN stay NaN."""
    corrected = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        corrected[tested] = scipy.stats.false_discovery_control(p[tested], method="bh")
    return corrected
