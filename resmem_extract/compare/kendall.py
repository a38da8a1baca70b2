"""Kendall's tau-a: concordant less discordant pairs of entries, over all pairs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.stats

__all__ = ["resampled_tau_a", "tau_a"]

Floats = npt.NDArray[np.float64]

_BLOCK = 80
"""Entries compared with each other one by one; between blocks, counts of entries suffice."""
_BLOCKS_WORTHWHILE = 30_000
"""With more entries the table of counts outgrows the sorting of each sample."""


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

    Notes
    -----
    With s(e, f) = sign(a_e - a_f) sign(b_e - b_f), the sum over e < f of w_e w_f s(e, f) is needed.
    Entries are put into blocks of neighbours, once by `a` and once by `b`. If two entries differ in
    both blocks, s follows from the blocks, and cumulative sums over the table of weights by blocks
    suffice; if they share one, s is looked up in a small matrix. Both are done for all samples at
    once, and all sums are whole numbers.
    """
    size = weights.sum(axis=1)
    total = size * (size - 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(total > 0, 1 / total, np.nan)
    found = np.empty((len(weights), len(a), len(b)))
    if a.shape[1] > _BLOCKS_WORTHWHILE:
        _one_by_one(a, b, weights, found)
        return found
    work = np.ascontiguousarray(weights.T, dtype=np.float32)  # [P, D]
    in_blocks = [(_Blocks.of(vector), vector) for vector in (*a, *b)]
    ordered_b = [work[blocks.order] for blocks, _ in in_blocks[len(a) :]]
    for i, (of_a, vector_a) in enumerate(in_blocks[: len(a)]):
        ordered_a = work[of_a.order]
        for j, (of_b, vector_b) in enumerate(in_blocks[len(a) :]):
            sums = _between_blocks(of_a, of_b, work)
            sums += _within_blocks(of_a, ordered_a, vector_a, vector_b, None)
            sums += _within_blocks(of_b, ordered_b[j], vector_a, vector_b, of_a)
            found[:, i, j] = sums * scale
    return found


def _one_by_one(a: Floats, b: Floats, weights: Floats, found: Floats) -> None:
    for d, row in enumerate(weights):
        entries = np.repeat(np.arange(a.shape[1]), row.astype(np.intp))
        for i, j in itertools.product(range(len(a)), range(len(b))):
            if len(entries) < 2:
                found[d, i, j] = np.nan
            else:
                found[d, i, j] = tau_a(a[i, entries], b[j, entries])


@dataclass(frozen=True)
class _Blocks:
    """Entries of a vector sorted, and cut where two neighbours differ."""

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    """Where each block begins in the order."""
    number: npt.NDArray[np.intp]
    """Block of each entry."""

    @classmethod
    def of(cls, vector: Floats) -> _Blocks:
        """Cut a vector: blocks of about `_BLOCK` entries, larger ones of equal entries."""
        order = np.argsort(vector, kind="stable")
        ordered = vector[order]
        edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        starts = [0]
        for edge, end in itertools.pairwise([*edges.tolist(), len(vector)]):
            # A run of equal entries that is long by itself gets a block of its own.
            if edge > starts[-1] and (edge - starts[-1] >= _BLOCK or end - edge >= _BLOCK):
                starts.append(edge)
        number = np.empty(len(vector), np.intp)
        sizes = np.diff([*starts, len(vector)])
        number[order] = np.repeat(np.arange(len(starts)), sizes)
        return cls(order, np.array(starts, np.intp), number)

    def __len__(self) -> int:
        return len(self.starts)


def _between_blocks(a: _Blocks, b: _Blocks, weights: npt.NDArray[np.float32]) -> Floats:
    """Sum over pairs that differ in both blocks, `[D]`; weights `[P, D]`."""
    cells = a.number * len(b) + b.number
    entries = np.arange(len(cells))
    table = scipy.sparse.csr_matrix(
        (np.ones(len(cells), np.float32), (cells, entries)), shape=(len(a) * len(b), len(cells))
    )
    counts = (table @ weights).reshape(len(a), len(b), -1)
    larger = np.triu(np.ones((len(a), len(a)), np.float32), 1)
    above = (larger @ counts.reshape(len(a), -1)).reshape(counts.shape)
    concordance = _signs(np.arange(len(b))).T @ above
    sums: Floats = np.multiply(counts, concordance, dtype=np.float64).sum(axis=(0, 1))
    return sums


def _within_blocks(
    blocks: _Blocks,
    ordered: npt.NDArray[np.float32],
    a: Floats,
    b: Floats,
    counted: _Blocks | None,
) -> Floats:
    """Sum over pairs within one block, less those that share a block of `counted`, `[D]`."""
    sums = np.zeros(ordered.shape[1])
    for start, end in itertools.pairwise([*blocks.starts.tolist(), len(a)]):
        entries = blocks.order[start:end]
        signs = _signs(a[entries]) * _signs(b[entries])
        if counted is not None:
            number = counted.number[entries]
            signs *= number[:, None] != number
        if signs.any():
            part = ordered[start:end]
            sums += (signs @ part * part).sum(axis=0, dtype=np.float64)
    return sums / 2


def _signs(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return +1 where the first index has the larger value, `[m, m]`."""
    signs: npt.NDArray[np.float32] = np.sign(values[:, None] - values).astype(np.float32)
    return signs
