"""Lines over depth: the modules of one store, and no others."""

from __future__ import annotations

from resmem_extract.report.depth import lines_over_depth

NAMES = ["net:a", "other:a", "net:b", "net:c"]


def test_a_network_from_one_store_is_called_by_its_name():
    assert lines_over_depth(NAMES) == {"net": [0, 2, 3], "other": [1]}
    sources = dict.fromkeys(NAMES, "x/f.h5")
    assert lines_over_depth(NAMES, sources) == {"net": [0, 2, 3], "other": [1]}


def test_two_stores_of_one_network_are_two_lines():
    sources = {"net:a": "x/f.h5", "net:b": "x/g.h5", "net:c": "x/f.h5", "other:a": "x/h.h5"}
    lines = {"net (f.h5)": [0, 3], "other": [1], "net (g.h5)": [2]}
    assert lines_over_depth(NAMES, sources) == lines


def test_files_of_one_name_are_told_apart_by_their_folders():
    sources = {"net:a": "x/f.h5", "net:b": "y/f.h5", "net:c": "y/f.h5", "other:a": "x/h.h5"}
    assert list(lines_over_depth(NAMES, sources)) == ["net (x/f.h5)", "other", "net (y/f.h5)"]
