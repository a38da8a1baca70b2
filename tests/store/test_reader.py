from __future__ import annotations

import json
import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
import torch
from store_data import LAYER, OUTPUT, RELU, N, hashes, make_spec, names, write
from torch.utils.data import DataLoader

from resmem_extract.errors import (
    IncompleteStoreError,
    MissingExtraError,
    RequestError,
    StoreError,
    UnknownModuleError,
)
from resmem_extract.store import StoreWriter, index, open_store


@pytest.fixture
def store(store_path):
    with open_store(store_path) as store:
        yield store


def test_modules_in_order_of_writing(store):
    assert store.modules == tuple(store) == (LAYER.path, RELU.path, OUTPUT.path)
    assert len(store) == N


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("features.layer2.4", LAYER.path),
        ("features.5.4", LAYER.path),
        ("features.layer2.4.relu@2", RELU.path),
        ("features.5.4.relu@2", RELU.path),
        ("features.5.4.6@2", RELU.path),
        ("features.layer2.4.relu", RELU.path),
        ("memorability", OUTPUT.path),
    ],
)
def test_any_form_of_a_path(store, arrays, text, path):
    array = store[text]
    assert text in store
    assert array.module == path
    np.testing.assert_array_equal(array, arrays[path])


@pytest.mark.parametrize("text", ["features.layer2.5", "features.5.4.relu@0", "", 3])
def test_no_such_module(store, text):
    assert text not in store


def test_unknown_module_names_the_nearest(store):
    with pytest.raises(UnknownModuleError, match=r"did you mean features\.layer2\.4"):
        store["features.layer24"]
    with pytest.raises(
        UnknownModuleError, match=r"has no module 'zzz'; it has features\.layer2\.4"
    ):
        store["zzz"]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("**", [LAYER.path, RELU.path, OUTPUT.path]),
        ("*", [OUTPUT.path]),
        ("features.layer2.*", [LAYER.path]),
        ("features.5.*", [LAYER.path]),
        ("**.relu", [RELU.path]),
        ("**.relu@*", [RELU.path]),
        ("**.output", [OUTPUT.path]),
    ],
)
def test_match(store, pattern, paths):
    assert [array.module for array in store.match(pattern)] == paths


def test_match_nothing(store):
    with pytest.raises(UnknownModuleError):
        store.match("**.conv9")


def test_last_call_is_not_confused_by_similar_suffixes(tmp_path, arrays):
    specs = [make_spec(f"relu@{k}", (1,), index_path="0", call=k, calls=12) for k in (1, 11)]
    data = {"relu@1": arrays["output"], "relu@11": -arrays["output"]}
    with open_store(write(tmp_path / "f.h5", specs, data)) as store:
        assert store["relu"].module == "relu@11"
        assert store["0@1"].module == "relu@1"


def test_records(store):
    array = store["features.5.4"]
    assert array.spec == LAYER
    assert array.shape == (N, 40, 5, 3)
    assert (array.ndim, len(array), array.dtype, array.size) == (4, N, np.float32, N * 600)
    assert array.nbytes == N * 2400
    assert array.axes == ("image", "channel", "height", "width")
    assert array.chunks[1:] == (40, 5, 3)
    assert "features.layer2.4" in repr(array)


def test_images(store):
    assert store.image_ids.tolist() == names(N)
    assert store.sha256.tolist() == hashes(N)
    assert store.row_of(names(N)[5]) == 5
    assert list(store.columns) == ["score", "label", "row", "seen"]
    assert store.columns["label"][1] == "Hündin"
    assert store.columns["seen"].dtype == np.bool_
    np.testing.assert_array_equal(store.columns["score"], np.linspace(0, 1, N))
    with pytest.raises(KeyError):
        store.columns["id"]
    with pytest.raises(RequestError, match=r"no image 'katze/00003 a\.jpg'; did you mean 'katze/"):
        store.row_of("katze/00003 a.jpg")
    assert store.skipped == (("kaputt ü.jpg", "truncated"),)
    assert store.provenance["command"] == "extract --images Bücher"


def test_rows_by_id(store, arrays):
    ids = [names(N)[i] for i in (9, 2, 2, 36)]
    np.testing.assert_array_equal(store[LAYER.path].rows(ids), arrays[LAYER.path][[9, 2, 2, 36]])
    assert store[LAYER.path].rows([]).shape == (0, 40, 5, 3)


def test_as_array(store, arrays):
    array = store["output"]
    assert np.asarray(array, dtype=np.float64).dtype == np.float64
    assert np.array(array, dtype="f2").dtype == np.float16
    np.testing.assert_array_equal(np.array(array), arrays["output"])
    with pytest.raises(ValueError, match="without being copied"):
        array.__array__(copy=False)


@pytest.mark.parametrize("max_bytes", [1, 2400 * 3, 2400 * 20, 2400 * 33, 10**9])
def test_blocks(store, arrays, max_bytes):
    array = store[LAYER.path]
    blocks = list(array.blocks(max_bytes))
    assert [rows.start for rows, _ in blocks[1:]] == [rows.stop for rows, _ in blocks[:-1]]
    assert all(len(block) == rows.stop - rows.start for rows, block in blocks)
    assert all(block.nbytes <= max(max_bytes, 2400) for _, block in blocks)
    step = blocks[0][0].stop
    assert step == N or step % array.chunks[0] == 0 or array.chunks[0] % step == 0
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), arrays[LAYER.path])
    np.testing.assert_array_equal(np.stack(list(array)), arrays[LAYER.path])


def test_describe_is_json(store, store_path):
    record = json.loads(json.dumps(store.describe()))
    assert record["images"] == N
    assert record["file"] == str(store_path)
    assert record["bytes"] == store_path.stat().st_size
    assert record["columns"] == ["score", "label", "row", "seen"]
    first = record["modules"][0]
    assert first["path"] == LAYER.path
    assert first["links"] == ["features.5.4"]
    assert first["shape"] == [N, 40, 5, 3]
    assert first["bytes"] == N * 2400
    assert first["stored_bytes"] >= first["bytes"]
    assert first["reduce"] == {"pool": "none", "flatten": False}


def test_closed(store_path):
    with open_store(store_path) as store:
        array = store["output"]
    for use in (
        lambda: array[0], lambda: store["output"], lambda: store.modules, lambda: list(store),
        lambda: len(store), lambda: store.image_ids, lambda: store.sha256, lambda: store.columns,
        lambda: store.provenance, lambda: store.skipped, lambda: store.row_of("a"),
        lambda: store.match("*"), lambda: store.dataset(), lambda: "output" in store,
        store.describe, store.__enter__,
    ):  # fmt: skip
        with pytest.raises(StoreError, match="was closed; open it again with open_store"):
            use()


@pytest.mark.parametrize("path", [None, b"f.h5", ""])
def test_what_is_no_path(path):
    with pytest.raises(RequestError, match="open_store"):
        open_store(path)


def test_a_missing_file_is_answered_with_a_whole_command(tmp_path):
    with pytest.raises(StoreError) as error:
        open_store(tmp_path / "f.h5")
    assert one_line(error).endswith(
        f"extract --model resmem --module features.5.4 --images DIR --out {tmp_path}/f.h5"
    )


def test_rows_are_not_modules(store):
    with pytest.raises(RequestError, match="indexed by module path, got 3"):
        store[3]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("resnet_layers[24]", "conv@1"),
        ("resnet_layers[24]@1", "conv@1"),
        (" conv@1 ", "conv@1"),
        ("fc@0", "fc"),
        ("last", "fc"),
        ("last@0", "fc"),
        ("attn", "attn[0]"),
        ("attn@0", "attn[0]"),
        ("attn@0[0]", "attn[0]"),
        ("heads[2]", "attn[0]"),
        ("heads[2][0]", "attn[0]"),
        ("resnet_layers[24]@0", None),
        ("last@1", None),
        ("attn[1]", None),
        ("heads[2][1]", None),
    ],
)
def test_declared_names(tmp_path, text, path):
    specs = (
        make_spec("conv@1", (2,), call=1, calls=2, names=("resnet_layers[24]",)),
        make_spec("fc", (2,), names=("last",)),
        make_spec("attn[0]", (2,), links=("attn",), names=("heads[2]",)),
    )
    arrays = {spec.path: np.zeros((1, 2), np.float32) for spec in specs}
    with open_store(write(tmp_path / "n.h5", specs, arrays)) as store:
        assert (text in store) == (path is not None)
        if path:
            assert store[text].module == path


def test_files_without_declared_names(store_path):
    with h5py.File(store_path, "r+") as file:
        del file["features"]["output"].attrs["names"]
    with open_store(store_path) as store:
        assert store["output"].spec.names == ()


def edit(path, name, value):
    with h5py.File(path, "r+") as f:
        f.attrs[name] = value


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_incomplete_is_refused(store_path):
    edit(store_path, "complete", False)
    with pytest.raises(IncompleteStoreError, match=r"incomplete.*run the extraction") as error:
        open_store(store_path)
    assert one_line(error).startswith(str(store_path))


def test_newer_format_is_refused(store_path):
    edit(store_path, "format_version", 2)
    with pytest.raises(StoreError, match=r"version 2, .* up to 1; pip install -U") as error:
        open_store(store_path)
    one_line(error)


def test_foreign_files_are_refused(tmp_path, store_path):
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["imgBrick"] = np.ones(3)
    (tmp_path / "y.h5").write_text("image_id,score\n")
    (tmp_path / "z.h5").write_bytes(store_path.read_bytes()[:20_000])
    (tmp_path / "empty.h5").touch()
    for name, words in {
        "x.h5": "not a feature store",
        "y.h5": "not an HDF5 file",
        "z.h5": "truncated",
        "none.h5": "does not exist",
        "empty.h5": "not an HDF5 file",
        ".": "is a folder",
    }.items():
        with pytest.raises(StoreError, match=words) as error:
            open_store(tmp_path / name)
        one_line(error)


def test_locked_file(store_path, monkeypatch):
    with (
        h5py.File(store_path, "r+", locking=True),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        message = pool.apply(opening_error, (store_path, {}))
        assert "is locked" in message and "HDF5_USE_FILE_LOCKING=FALSE" in message
        assert "\n" not in message
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    with (
        h5py.File(store_path, "r+", locking=True),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        assert pool.apply(opening_error, (store_path, {})) == ""


def opening_error(path, _):
    try:
        open_store(path).close()
    except StoreError as error:
        return str(error)
    return ""


def test_pickle(store, arrays):
    array = pickle.loads(pickle.dumps(store["output"]))
    np.testing.assert_array_equal(array[3:5], arrays["output"][3:5])
    assert pickle.loads(pickle.dumps(store)).modules == store.modules


def read_row(array, row, queue):
    queue.put((array[row], array._handle._pid))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_their_own(store, arrays, method):
    array = store[LAYER.path]
    _ = array[0]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=read_row, args=(array, row, queue)) for row in (4, 4)]
    for worker in workers:
        worker.start()
    got = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert {pid for _, pid in got} == {worker.pid for worker in workers}
    for row, _ in got:
        np.testing.assert_array_equal(row, arrays[LAYER.path][4])
    np.testing.assert_array_equal(array[5], arrays[LAYER.path][5])


def double(features):
    return features * 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_with_workers(store, arrays, method):
    dataset = store.dataset("features.5.4", transform=double)
    loader = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context=method)
    features, ids = zip(*loader, strict=True)
    np.testing.assert_array_equal(torch.cat(features).numpy(), 2 * arrays[LAYER.path])
    assert [name for batch in ids for name in batch] == names(N)


def test_data_set_of_several_modules(store, arrays):
    dataset = store.dataset()
    assert len(dataset) == N
    features, image_id = dataset[-1]
    assert image_id == names(N)[-1]
    assert list(features) == list(store.modules)
    np.testing.assert_array_equal(features["output"], arrays["output"][-1])
    assert list(store.dataset(["memorability"])[0][0]) == ["output"]
    (_, a), (_, b) = dataset.__getitems__([7, 3])
    assert (a, b) == (names(N)[7], names(N)[3])
    with pytest.raises(IndexError):
        dataset[N]


def test_missing_plugin_when_reading(tmp_path, monkeypatch):
    with StoreWriter(tmp_path / "f.h5", [OUTPUT], 1, compression="bitshuffle-lz4") as writer:
        writer.append(["a"], ["0" * 64], {"output": np.ones((1, 1), "f4")})
        writer.finish()
    with open_store(tmp_path / "f.h5") as store:
        monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
        monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
        with pytest.raises(MissingExtraError, match="pip install"):
            store["output"][0]


def test_many_rows_are_indexed_once_and_only_when_asked(tmp_path, monkeypatch):
    n = 20_000
    values = np.arange(n * 2, dtype="f4").reshape(n, 2)
    with StoreWriter(tmp_path / "f.h5", [make_spec("m", (2,))], n) as writer:
        writer.append(names(n), hashes(n), {"m": values})
        writer.finish()
    reads = []
    decode = index.decode_strings
    monkeypatch.setattr(index, "decode_strings", lambda a: reads.append(len(a)) or decode(a))
    ids = names(n)
    with open_store(tmp_path / "f.h5") as store:
        assert store["m"].shape == (n, 2)
        assert reads == []
        for row in (17_777, 5, n - 1):
            np.testing.assert_array_equal(store["m"].rows([ids[row]]), values[[row]])
        assert reads == [n]
