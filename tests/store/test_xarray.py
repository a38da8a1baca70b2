"""The lazy view of xarray equals the arrays, for every kind of its indexing."""

from __future__ import annotations

import json
import pickle
import sys
from unittest import mock

import numpy as np
import pytest
from store_data import LAYER, OUTPUT, RELU, N, names, write

from resmem_extract.errors import MissingExtraError
from resmem_extract.store import arrays as arrays_module
from resmem_extract.store import open_store

xarray = pytest.importorskip("xarray")


@pytest.fixture
def store(store_path):
    with open_store(store_path) as opened:
        yield opened


def test_one_module(store, arrays):
    lazy = store["features.5.4"].to_xarray()
    assert lazy.dims == ("image", "channel", "height", "width")
    assert lazy.name == LAYER.path
    assert lazy.attrs["requested"] == "features.5.4"
    assert json.loads(lazy.attrs["reduce"]) == {"pool": "none", "flatten": False}
    assert lazy["image"].values.tolist() == names(N)
    assert lazy["label"].dims == ("image",)
    assert lazy["label"].values.tolist() == ["Katze", "Hündin"] * 18 + ["x"]
    np.testing.assert_array_equal(lazy.values, arrays[LAYER.path])


keys = [
    {"image": 3},
    {"image": slice(2, 20, 3), "channel": [5, 1, 1]},
    {"image": [7, 0, 36], "channel": [5, 1], "height": slice(None, None, -1)},
    {"image": np.arange(N) % 2 == 0, "width": 0},
    {"channel": [], "image": [1]},
    {"image": -1, "channel": slice(5, 2)},
]


@pytest.mark.parametrize("key", keys, ids=str)
def test_indexing_is_that_of_the_array_in_memory(store, arrays, key):
    lazy = store[LAYER.path].to_xarray()
    eager = xarray.DataArray(arrays[LAYER.path], dims=lazy.dims, coords=lazy.coords)
    xarray.testing.assert_equal(lazy.isel(key).load(), eager.isel(key))


def test_pointwise_indexing_and_ids(store, arrays):
    lazy = store[LAYER.path].to_xarray()
    rows, channels = xarray.DataArray([4, 2], dims="p"), xarray.DataArray([0, 9], dims="p")
    found = lazy.isel(image=rows, channel=channels)
    np.testing.assert_array_equal(found.values, arrays[LAYER.path][[4, 2], [0, 9]])
    np.testing.assert_array_equal(lazy.sel(image=names(N)[5]).values, arrays[LAYER.path][5])


def test_all_modules(store, arrays):
    lazy = store.to_xarray()
    assert list(lazy) == [LAYER.path, RELU.path, OUTPUT.path]
    assert lazy.sizes["image"] == N
    assert lazy[RELU.path].dims == ("image", f"channel ({RELU.path})")
    assert json.loads(lazy.attrs["provenance"])["model"] == "resmem"
    for module, values in arrays.items():
        np.testing.assert_array_equal(lazy[module].values, values)
    assert list(store.to_xarray("memorability")) == ["output"]
    means = lazy[[OUTPUT.path]].groupby("label").mean()
    label = np.array(["Katze", "Hündin"] * 18 + ["x"])
    expected = arrays["output"][label == "Katze"].mean()
    assert float(means[OUTPUT.path].sel(label="Katze").squeeze()) == pytest.approx(
        expected, rel=1e-5
    )


def test_only_what_is_needed_is_read(store):
    lazy = store.to_xarray()
    with mock.patch.object(arrays_module, "read", wraps=arrays_module.read) as reads:
        part = lazy.isel(image=slice(3, 5))
        repr(lazy)
        assert reads.call_count == 0
        part[OUTPUT.path].load()
        assert [call.args[1] for call in reads.call_args_list] == [(slice(3, 5, 1), slice(None))]


def test_it_can_be_pickled(store, arrays):
    lazy = pickle.loads(pickle.dumps(store[LAYER.path].to_xarray()))
    np.testing.assert_array_equal(lazy[3].values, arrays[LAYER.path][3])


def test_columns_with_the_names_of_axes(tmp_path, arrays):
    path = write(
        tmp_path / "f.h5", [OUTPUT], {"output": arrays["output"]},
        columns={"image": np.arange(N), "channel": np.arange(N), "output": np.arange(N)},
    )  # fmt: skip
    with open_store(path) as store:
        one, everything = store["output"].to_xarray(), store.to_xarray()
        assert set(one.coords) == {"image", "image (column)", "channel (column)", "output"}
        assert set(everything.coords) == {
            "image", "image (column)", "channel", "output (column)",
        }  # fmt: skip


def test_without_xarray(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.delitem(sys.modules, "resmem_extract.store.xarray_view", raising=False)
    monkeypatch.delattr("resmem_extract.store.xarray_view", raising=False)
    for call in (store.to_xarray, store["output"].to_xarray):
        with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[xarray\]'"):
            call()
