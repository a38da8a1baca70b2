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
from .kernel import Kernel
from .similarity import Side, check_sides
from .vectors import prepared, similarities

__all__ = [
    "MIN_IMAGES_PERMUTED",
    "Permutations",
    "false_discovery_rate",
    "least_p",
    "permutation_test",
    "permutation_tests_of_pairs",
]

Floats = npt.NDArray[np.float64]

MIN_IMAGES_PERMUTED = 5
"""Four images have 24 orders: the smallest p would hardly be below 0.05."""

_TELLING = 19
"""With fewer permutations no p is below 0.05."""


@dataclass(frozen=True)
class Permutations:
    """Similarities with the reference as it is, and with its images in random order."""

    values: Floats
    """`[L]`, or `[L, L]` for all pairs."""
    null: Floats
    """`[D, ...]`."""

    def p(self) -> Floats:
        """Return the share of orders that do no worse than the true one, which counts, `[...]`."""
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
    common = _check(method, [models[0], reference, *models])
    sides = [model.subset(common) for model in models]
    statistic = _statistic(method, sides, [reference.subset(common)])
    orders = _orders(len(common), n, seed) if orders is None else orders
    null = np.array([statistic(order)[:, 0] for order in orders])
    return Permutations(statistic(np.arange(len(common)))[:, 0], null)


def permutation_tests_of_pairs(
    sides: Sequence[Side], method: str = DEFAULT_COMPARATOR, *, n: int = 1000, seed: int = 0
) -> Permutations:
    """Compare each two of several sides, the second of them relabelled at random.

    Parameters
    ----------
    sides : sequence of RDM, or of Kernel for a comparator of features
    method, n, seed
        As for `permutation_test`.

    Returns
    -------
    Permutations
        Of values `[L, L]`.

    Raises
    ------
    RequestError
        If there are too few images.
    """
    common = _check(method, sides)
    parts = [side.subset(common) for side in sides]
    statistic = _statistic(method, parts, parts)
    null = np.array([statistic(order) for order in _orders(len(common), n, seed)])
    return Permutations(statistic(np.arange(len(common))), null)


def _check(method: str, sides: Sequence[Side]) -> tuple[str, ...]:
    check_sides(method, *sides)
    common = common_ids(sides)
    if len(common) < MIN_IMAGES_PERMUTED:
        raise RequestError(
            f"permutations of {counted(len(common), 'image')}: expected {MIN_IMAGES_PERMUTED} "
            "at least"
        )
    return common


def _orders(n_images: int, n: int, seed: int) -> npt.NDArray[np.intp]:
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n_images), (n, 1)), axis=1)


_Statistic = Callable[[npt.NDArray[np.intp]], Floats]
"""From an order of the references' images to the similarity of each model with each, `[L, R]`."""


def _statistic(method: str, models: Sequence[Side], references: Sequence[Side]) -> _Statistic:
    """Do all that does not depend on the order, and return the rest."""
    if isinstance(references[0], Kernel):
        left, right = (
            [side.matrix for side in sides if isinstance(side, Kernel)]
            for sides in (models, references)
        )
        return _procrustes(left, right) if method == "procrustes" else _cka(method, left, right)
    stacks, others = (
        [side.stack for side in sides if isinstance(side, RDM)] for sides in (models, references)
    )
    return _tau_a(stacks, others) if method == "tau-a" else _products(method, stacks, others)


def _products(method: str, models: Sequence[Floats], references: Sequence[Floats]) -> _Statistic:
    vectors, targets = (
        np.stack([prepared(method, stack).mean(axis=0) for stack in stacks])
        for stacks in (models, references)
    )
    n_pairs = references[0].shape[1]
    n = n_from_pairs(n_pairs)

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        # A whitened vector ends in the diagonal of a matrix, an entry an image.
        places = np.concatenate([condensed_rows(order, n), n_pairs + order])
        moved = targets[:, places[: targets.shape[1]]]
        values: Floats = vectors @ moved.T
        return values

    return in_order


def _tau_a(models: Sequence[Floats], references: Sequence[Floats]) -> _Statistic:
    n = n_from_pairs(references[0].shape[1])

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        places = condensed_rows(order, n)
        return np.array(
            [
                [np.mean(similarities("tau-a", stack, other[:, places])) for other in references]
                for stack in models
            ]
        )

    return in_order


def _cka(method: str, models: Sequence[Floats], references: Sequence[Floats]) -> _Statistic:
    def of_size_one(kernel: Floats) -> Floats:
        matrix = hsic_kernels(method, kernel)
        size = np.sqrt((matrix * matrix).sum())
        result: Floats = matrix / (size if size > 0 else np.nan)
        return result

    vectors = np.stack([of_size_one(kernel).ravel() for kernel in models])
    targets = np.stack([of_size_one(kernel) for kernel in references])

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        moved = targets[:, order[:, None], order].reshape(len(targets), -1)
        values: Floats = vectors @ moved.T
        return values

    return in_order


def _procrustes(models: Sequence[Floats], references: Sequence[Floats]) -> _Statistic:
    def of_size_one(kernel: Floats) -> Floats:
        size = np.sqrt(np.trace(kernel))
        result: Floats = procrustes_factor(kernel) / (size if size > 0 else np.nan)
        return result

    factors = [of_size_one(kernel) for kernel in models]
    targets = [of_size_one(kernel) for kernel in references]

    def in_order(order: npt.NDArray[np.intp]) -> Floats:
        return np.array(
            [
                [np.linalg.svd(a.T @ b[order], compute_uv=False).sum() for b in targets]
                for a in factors
            ]
        )

    return in_order


def least_p(permutations: int) -> str | None:
    """Return what to tell the user if so few permutations can show nothing."""
    if not 0 < permutations < _TELLING:
        return None
    return (
        f"{permutations} permutations: p cannot be below {1 / (permutations + 1):.2g}; "
        "give --permutations 1000"
    )


def false_discovery_rate(p: Floats) -> Floats:
    """Return p corrected for the number of tests, by Benjamini and Hochberg; NaN stay NaN."""
    corrected = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        corrected[tested] = scipy.stats.false_discovery_control(p[tested], method="bh")
    return corrected
