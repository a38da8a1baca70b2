"""split_activations and merge_activations: exactly n parts, and the same again."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_stores import everything
from store_data import LAYER, OUTPUT, N, write

from resmem_extract.errors import RequestError
from resmem_extract.store import open_store
from resmem_extract.store.activations import merge_activations, split_activations


@given(n=st.integers(1, 60), data=st.data(), shape=st.lists(st.integers(0, 3), max_size=2))
def test_arrays_in_memory(n, data, shape):
    n_splits = data.draw(st.integers(1, n))
    array = np.random.default_rng(n).standard_normal((n, *shape)).astype("f4")
    parts = split_activations(array, n_splits)
    assert len(parts) == n_splits
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(np.shares_memory(part, array) for part in parts if part.size)
    np.testing.assert_array_equal(merge_activations(parts), array)
    named = {"a": array, "b": array[:, None] * 2}
    merged = merge_activations(split_activations(named, n_splits))
    assert list(merged) == ["a", "b"]
    for name, values in named.items():
        np.testing.assert_array_equal(merged[name], values)


def test_ten_splits_are_ten(tmp_path):
    array = np.arange(92 * 3, dtype="f4").reshape(92, 3)
    paths = split_activations(array, 10, tmp_path / "out")
    assert [path.name for path in paths] == [
        f"activations.part-{number:02d}-of-10.npy" for number in range(1, 11)
    ]
    np.testing.assert_array_equal(np.concatenate([np.load(path) for path in paths]), array)
    np.testing.assert_array_equal(merge_activations(tmp_path / "out"), array)
    random.Random(0).shuffle(paths)
    np.testing.assert_array_equal(merge_activations(paths), array)


def test_several_modules_in_files(tmp_path, arrays):
    paths = split_activations(arrays, 3, tmp_path)
    assert paths[0].name == "activations.part-1-of-3.npz"
    merged = merge_activations(map_to_text(paths[::-1]))
    assert list(merged) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(merged[name], values)
        assert merged[name].dtype == values.dtype


def map_to_text(paths):
    return [str(path) for path in paths]


def test_stores(tmp_path, arrays):
    data = {spec.path: arrays[spec.path] for spec in (LAYER, OUTPUT)}
    whole = write(tmp_path / "f.h5", [LAYER, OUTPUT], data)
    parts = split_activations(whole, 4, tmp_path / "out")
    assert len(parts) == 4
    merged = merge_activations(tmp_path / "out", tmp_path / "m.h5")
    assert everything(merged) == everything(whole)
    with open_store(whole) as store:
        assert all(part.already_complete for part in split_activations(store, 4, tmp_path / "out"))


def test_a_lazy_array_is_an_array(tmp_path, arrays):
    whole = write(tmp_path / "f.h5", [OUTPUT], {"output": arrays["output"]})
    with open_store(whole) as store:
        parts = split_activations(store["output"], 5)
    np.testing.assert_array_equal(merge_activations(parts), arrays["output"])


def test_refusals(tmp_path, arrays):
    array = arrays["output"]
    whole = write(tmp_path / "f.h5", [OUTPUT], {"output": array})
    paths = split_activations(array, 3, tmp_path / "out")
    other = split_activations(array, 2, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.part-1-of-1.npy").write_bytes(b"x")
    (tmp_path / "z.part-1-of-1.npy").write_bytes(b"")
    cases = [
        (lambda: split_activations(array, 0), "37 images cannot be split into 0 parts"),
        (lambda: split_activations(array, N + 1), "37 images cannot be split into 38 parts"),
        (
            lambda: split_activations({"a": array, "b": array[1:]}, 2),
            r"arrays of \[36, 37\] images",
        ),
        (lambda: split_activations(3.0, 1), r"expected an array \[N"),
        (lambda: split_activations(whole, 2), "need a folder; give out"),
        (lambda: split_activations(array, 3, tmp_path / "out"), "exists; remove it"),
        (lambda: merge_activations([]), "no parts were given"),
        (lambda: merge_activations(tmp_path / "empty"), "no parts were given"),
        (lambda: merge_activations(whole), "is no folder"),
        (lambda: merge_activations([whole]), "merged into a file; give out"),
        (lambda: merge_activations(paths[:2]), "part 3 of 3 is missing"),
        (lambda: merge_activations([*paths, paths[0]]), "have the same number"),
        (lambda: merge_activations([paths[2], *other]), "come from 2 splits"),
        (lambda: merge_activations([tmp_path / "y.npy"]), "is not named as a part"),
        (lambda: merge_activations([tmp_path / "x.part-1-of-1.npy"]), "cannot be read"),
        (lambda: merge_activations([tmp_path / "z.part-1-of-1.npy"]), "cannot be read: No data"),
        (lambda: merge_activations([array, {"a": array}]), "some parts are arrays"),
        (lambda: merge_activations([{"a": array}, {"b": array}]), "parts have a and b"),
        (lambda: merge_activations([array, array.astype("f8")]), r"float32 \(1,\) in one part"),
    ]
    for call, message in cases:
        with pytest.raises(RequestError, match=message):
            call()
