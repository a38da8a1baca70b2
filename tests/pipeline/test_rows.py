"""Arithmetic of row ranges, against sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmem_extract.pipeline.rows import Shard, alignment, count, missing_rows, segments
from resmem_extract.store import Layout
from resmem_extract.types import ActivationSpec

ranges = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: range(min(p), max(p)))


def rows_in(found: list[range]) -> set[int]:
    return {row for one in found for row in one}


@given(ranges, st.lists(ranges, max_size=6))
def test_missing_rows_are_those_of_sets(wanted, there):
    found = missing_rows(wanted, there)
    assert rows_in(found) == set(wanted) - rows_in(there)
    assert count(found) == len(rows_in(found))
    edges = [edge for one in found for edge in (one.start, one.stop)]
    assert edges == sorted(set(edges))  # ascending, none empty, none touching another


@given(st.lists(st.lists(ranges, max_size=4), min_size=1, max_size=3))
def test_segments_hold_each_row_once_with_all_who_miss_it(there):
    missing = [missing_rows(range(30), one) for one in there]
    found = list(segments(missing))
    who_of = {row: who for rows, who in found for row in rows}
    assert sum(len(rows) for rows, _ in found) == len(who_of)
    for row in range(30):
        misses = tuple(i for i, one in enumerate(missing) if row in rows_in(one))
        assert who_of.get(row, ()) == misses


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 12))
def test_shares_are_aligned_and_hold_every_row_once(n_rows, align, n_shards):
    shares = [Shard(i, n_shards).share(n_rows, align) for i in range(n_shards)]
    assert [row for share in shares for row in share] == list(range(n_rows))
    assert all(share.start % align == 0 for share in shares if share)
    blocks = [-(-len(share) // align) for share in shares]
    assert max(blocks) - min(blocks) <= 1
    assert [Shard(i, n_shards).share(n_rows, align) for i in range(1, n_shards + 1)] == [
        *shares[1:],
        shares[0],
    ]


@pytest.mark.parametrize(
    ("modules", "batch", "rows"),
    [
        ([(1000, 8)], 16, 16),
        ([(1000, 8)], 2, 8),
        ([(1000, 8), (500, 16)], 6, 48),
        ([(1000, 8), (50, 64)], 2, 8),  # a module that hardly counts
        ([(1, 4096)], 2, 2),  # a chunk of hours
    ],
)
def test_parts_are_cut_where_batches_and_large_chunks_end(modules, batch, rows):
    specs = [
        ActivationSpec(str(i), "", (n,), ("image", "unit")) for i, (n, _) in enumerate(modules)
    ]
    layouts = {str(i): Layout((n_rows, 1)) for i, (_, n_rows) in enumerate(modules)}
    assert alignment(specs, layouts, batch) == rows
