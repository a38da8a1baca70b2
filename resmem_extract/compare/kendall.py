"""Kendall's tau-a: concordant less discordant pairs of entries, over all pairs."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.stats

__all__ = ["resampled_tau_a", "tau_a"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 96
"""Entries compared with each other one by one; between blocks, sums of weights suffice."""
_BLOCKS_WORTHWHILE = 30_000
"""With more entries the table of blocks outgrows the sorting of each sample."""


def tau_a(a: Floats, b: Floats) -> float:
    """Return Kendall's tau-a of two vectors `[P]`, in O(P log P).

    ``(concordant - discordant) / (P (P - 1) / 2)``; ties count as neither, and stay in the
    denominator. SciPy has tau-b, whose denominator leaves them out.
    """
    total = len(a) * (len(a) - 1) / 2
    untied_a, untied_b = total - _ties(a), total - _ties(b)
    if untied_a == 0 or untied_b == 0:
        return 0.0
    if len(a) == 2:  # SciPy divides by zero in a p-value that is not asked for
        return float(np.sign(a[1] - a[0]) * np.sign(b[1] - b[0]))
    tau_b = float(scipy.stats.kendalltau(a, b, method="asymptotic").statistic)
    return tau_b * float(np.sqrt(untied_a) * np.sqrt(untied_b)) / total


def _ties(vector: Floats) -> float:
    """Return the number of pairs of equal entries."""
    counts = np.unique(vector, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


@dataclass(frozen=True)
class _Ranked:
    """Entries as whole numbers in their order."""

    ranks: Ints
    """`[P]`, from 0; of equal entries equal."""
    tied: bool
    order: npt.NDArray[np.intp]
    """Ascending."""

    @classmethod
    def of(cls, vector: npt.NDArray[Any]) -> _Ranked:
        order = np.argsort(vector)
        ordered = vector[order]
        ascends = ordered[1:] != ordered[:-1]
        ranks = np.zeros(len(vector), np.int64)
        ranks[order[1:]] = np.cumsum(ascends)
        return cls(ranks, not ascends.all(), order)

    def __len__(self) -> int:
        return len(self.ranks)

    def before(self, other: _Ranked) -> npt.NDArray[np.intp]:
        """Return an ascending order in which equal entries follow the other's order."""
        if not self.tied:
            return self.order
        # One key for both, and for the place where both are tied: faster than sorting thrice.
        size = len(self)
        keys = (self.ranks * size + other.ranks) * size + np.arange(size)
        return np.argsort(keys)


@dataclass(frozen=True)
class _Repeats:
    """How often each entry is in each of D samples."""

    weights: npt.NDArray[np.float32]
    """`[P, D]`, whole numbers."""
    size: Floats
    """Entries of each sample, `[D]`."""
    squares: Floats
    """Sum of squared weights, `[D]`."""

    @classmethod
    def of(cls, weights: Floats) -> _Repeats:
        squares = np.einsum("dp,dp->d", weights, weights)
        work = np.ascontiguousarray(weights.T, dtype=np.float32)
        return cls(work, weights.sum(axis=1), squares)


def resampled_tau_a(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Return tau-a of vectors in which entries are repeated, for many samples at once.

    Parameters
    ----------
    a : array, `[A, P]`
    b : array, `[B, P]`
    weights : array, `[D, P]`
        How often each entry is in each sample; whole numbers.

    Returns
    -------
    array, `[D, A, B]`
        NaN for samples of fewer than two entries.
    """
    found = np.empty((len(weights), len(a), len(b)))
    if a.shape[1] > _BLOCKS_WORTHWHILE:
        _one_by_one(a, b, weights, found)
        return found
    repeats = _Repeats.of(weights)
    of_a, of_b = ([_Ranked.of(vector) for vector in stack] for stack in (a, b))
    for (i, x), (j, y) in itertools.product(enumerate(of_a), enumerate(of_b)):
        found[:, i, j] = _repeated_tau_a(x, y, repeats)
    return found


def _one_by_one(a: Floats, b: Floats, weights: Floats, found: Floats) -> None:
    for d, row in enumerate(weights):
        entries = np.repeat(np.arange(a.shape[1]), row.astype(np.intp))
        for i, j in itertools.product(range(len(a)), range(len(b))):
            if len(entries) < 2:
                found[d, i, j] = np.nan
            else:
                found[d, i, j] = tau_a(a[i, entries], b[j, entries])


def _repeated_tau_a(a: _Ranked, b: _Ranked, repeats: _Repeats) -> Floats:
    """Return tau-a of two vectors in which entries are repeated, `[D]`.

    Notes
    -----
    Pairs that are neither tied nor discordant are concordant, so that the discordant ones are to be
    counted, each as often as the product of its weights: with equal entries of one vector in the
    order of the other, those that stand the other way round in the two orders (Knight, 1966, A
    computer method for calculating Kendall's tau with ungrouped data, JASA 61). Both orders are cut
    into blocks. Of two entries that share no block, the blocks tell, and cumulative sums over the
    table of weights by blocks suffice; those that share one are compared. Both are products of
    matrices, for all samples at once, and all sums are whole numbers.
    """
    # Where comparisons serve a single sample, they are dearer than the table.
    one = repeats.weights.shape[1] == 1
    block = max(_BLOCK // 3, int(0.6 * np.sqrt(len(a)))) if one else _BLOCK
    order_a, order_b = a.before(b), b.before(a)
    place_a, place_b = _inverse(order_a), _inverse(order_b)
    block_a, block_b = place_a // block, place_b // block
    discordant = _within_blocks(order_b, place_a, repeats.weights, block)
    discordant += _within_blocks(order_a, block_b, repeats.weights, block)
    discordant += _between_blocks(block_a, block_b, repeats.weights)
    untied = repeats.size**2 - _squares(a, repeats) - _squares(b, repeats)
    untied += _squares(_both(a, b), repeats)
    size = repeats.size
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((untied - 4 * discordant) / (size * (size - 1)))


def _both(a: _Ranked, b: _Ranked) -> _Ranked:
    """Return the pairs of entries, of which two are equal where both are."""
    if not a.tied or not b.tied:
        return a if not a.tied else b
    return _Ranked.of(a.ranks * len(a) + b.ranks)


def _squares(ranked: _Ranked, repeats: _Repeats) -> Floats:
    """Return the sum over different values of their squared weight, `[D]`."""
    if not ranked.tied:
        return repeats.squares
    by_value = _sums(ranked.ranks, int(ranked.ranks.max()) + 1, repeats.weights)
    return np.asarray(np.square(by_value, dtype=np.float64).sum(axis=0))


def _sums(
    groups: npt.NDArray[np.integer], n: int, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the weight of each group, `[n, D]`."""
    if weights.shape[1] == 1:
        return np.bincount(groups, weights[:, 0], n).astype(np.float32)[:, None]
    entries = np.arange(len(groups))
    ones = np.ones(len(groups), np.float32)
    table = scipy.sparse.csr_matrix((ones, (groups, entries)), shape=(n, len(groups)))
    return np.asarray(table @ weights)


def _inverse(order: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return places


def _within_blocks(
    order: npt.NDArray[np.intp],
    values: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
    block: int,
) -> Floats:
    """Sum the products of weights over pairs within a block whose values descend, `[D]`."""
    n = -(-len(order) // block)
    size = n * block
    filled = np.full(size, len(order), np.int32)  # what fills the last block descends nowhere
    filled[: len(order)] = values[order]
    ordered = filled.reshape(n, block)
    descend = (ordered[:, :, None] > ordered[:, None]) & _before(block)
    taken = np.zeros((size, weights.shape[1]), np.float32)
    np.take(weights, order, axis=0, out=taken[: len(order)])
    part: npt.NDArray[np.floating] = taken.reshape(n, block, -1)
    # Whole numbers are exact up to 2^24 in float32, and a sum is at most half a weight squared.
    if part.sum(axis=1).max(initial=0) ** 2 >= 2**25:
        part = part.astype(np.float64)
    sums = descend.astype(part.dtype) @ part
    sums *= part
    return np.asarray(sums.sum(axis=1).sum(axis=0, dtype=np.float64))


@functools.lru_cache(maxsize=4)
def _before(n: int) -> npt.NDArray[np.bool_]:
    """Return whether the first index is before the second, `[n, n]`."""
    return np.triu(np.ones((n, n), np.bool_), 1)


def _between_blocks(
    block_a: npt.NDArray[np.int32],
    block_b: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
) -> Floats:
    """Sum the products of weights over pairs whose blocks ascend in a and descend in b."""
    n = int(block_a.max()) + 1
    table = _sums(block_a * n + block_b, n * n, weights)
    before = _before(n).astype(np.float32)
    smaller = (before.T @ table.reshape(n, -1)).reshape(n, n, -1)
    discordant = before @ smaller
    products = np.multiply(table.reshape(n, n, -1), discordant, dtype=np.float64)
    return np.asarray(products.sum(axis=(0, 1)))
