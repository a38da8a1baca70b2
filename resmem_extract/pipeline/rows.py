"""Rows of a set of images as ranges: which are missing, and who computes which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..store import Layout
from ..types import ActivationSpec

__all__ = ["Shard", "alignment", "count", "missing_rows", "segments"]

_LARGE = 0.1
"""Share of the bytes from which on a module decides where parts are cut. The chunks of small ones
hold many more images, and to join those by decoding them costs next to nothing."""
_MOST_ROWS = 64
"""Parts are not made longer than this for the sake of chunks."""


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the rows of one result."""

    index: int = 0
    """Taken modulo `count`, so that arrays of jobs may count from 0 or from 1."""
    count: int = 1

    def share(self, n_rows: int, align: int) -> range:
        """Return the rows of this shard: contiguous, cut at multiples of `align`.

        Shares are as equal as that allows; some are empty where there are few rows.
        """
        n_blocks = math.ceil(n_rows / align)
        first, end = (
            n_blocks * i // self.count * align
            for i in (self.index % self.count, self.index % self.count + 1)
        )
        return range(min(first, n_rows), min(end, n_rows))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def alignment(
    specs: Iterable[ActivationSpec], layouts: Mapping[str, Layout], batch_size: int
) -> int:
    """Return the rows at whose multiples parts are best cut: those of batches and of chunks."""
    nbytes = {spec.path: spec.nbytes_per_image for spec in specs}
    large = (path for path, n in nbytes.items() if n >= _LARGE * sum(nbytes.values()))
    chunks = (layouts[path].chunks[0] for path in large)
    return math.lcm(batch_size, *(rows for rows in chunks if rows <= _MOST_ROWS))


def missing_rows(wanted: range, there: Iterable[range]) -> list[range]:
    """Return what is left of a range of rows without those that are there, ascending."""
    left: list[range] = []
    start = wanted.start
    end = range(wanted.stop, wanted.stop + 1)
    for rows in sorted([*filter(None, there), end], key=lambda rows: rows.start):
        if gap := range(start, min(rows.start, wanted.stop)):
            left.append(gap)
        start = max(start, rows.stop)
    return left


def segments(missing: Sequence[Sequence[range]]) -> Iterator[tuple[range, tuple[int, ...]]]:
    """Cut rows wherever the set of those who miss them changes.

    Parameters
    ----------
    missing : sequence of sequences of range
        For each network, the rows that it misses.

    Yields
    ------
    rows : range
    who : tuple of int
        Positions in `missing`, at least one.
    """
    edges = sorted({edge for ranges in missing for r in ranges for edge in (r.start, r.stop)})
    for start, stop in pairwise(edges):
        who = tuple(i for i, ranges in enumerate(missing) if any(start in r for r in ranges))
        if who:
            yield range(start, stop), who


def count(ranges: Iterable[range]) -> int:
    """Return the number of rows in ranges that do not overlap."""
    return sum(map(len, ranges))
