"""Checksums as anyone can compute them from what plain h5py reads."""

from __future__ import annotations

import json
from unittest import mock

import h5py
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import LAYER, OUTPUT, RELU, N, make_spec, write

from resmem_extract.errors import WorkError
from resmem_extract.store import COMPRESSIONS, StoreWriter, choose_layouts, open_store
from resmem_extract.store.checksums import (
    checksum,
    metadata_checksums,
    read_checksums,
    read_metadata_checksums,
)


def expected(dataset):
    """Return XXH3-64 of every chunk's part inside the shape, in the order of h5py's own walk."""
    return [xxhash.xxh3_64_intdigest(dataset[part].tobytes()) for part in dataset.iter_chunks()]


def test_known_value():
    # From the tables of the reference implementation's own tests: no input, seed 0.
    assert checksum(b"") == 0x2D06800538D394C2
    strided = np.arange(12, dtype="<i4").reshape(3, 4)[:, ::2]
    assert checksum(strided) == xxhash.xxh3_64_intdigest(strided.tobytes())


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    n=st.integers(0, 40),
    dtype=st.sampled_from(["float32", "float16"]),
    compression=st.sampled_from([None, *COMPRESSIONS]),
    target=st.sampled_from([16, 256, 4096]),
    batch=st.integers(1, 17),
)
def test_every_chunk_has_its_checksum(
    tmp_path_factory, shape, n, dtype, compression, target, batch
):
    path = tmp_path_factory.mktemp("c") / "f.h5"
    values = np.random.default_rng(n).standard_normal((n, *shape)).astype("f4")
    with mock.patch("resmem_extract.store.chunks.TARGET_BYTES", target):
        spec = make_spec("m", shape, dtype=dtype)
        write(path, [spec], {"m": values}, batch=batch, compression=compression)
    with h5py.File(path) as f:
        dataset, stored = f["features/m"], f["checksums/m"]
        assert stored.dtype == np.dtype("<u8")
        assert stored.shape == tuple(
            -(-size // part) for size, part in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if n:
            assert stored[()].reshape(-1).tolist() == expected(dataset)


@pytest.mark.parametrize("start", [0, 8, 3])
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_copies_carry_checksums_along(tmp_path, arrays, compression, start):
    layouts = choose_layouts([LAYER, OUTPUT], 8, compression)
    data = {spec.path: arrays[spec.path] for spec in (LAYER, OUTPUT)}
    whole = write(tmp_path / "w.h5", [LAYER, OUTPUT], data, layouts=layouts)
    copy = tmp_path / "c.h5"
    with (
        StoreWriter(copy, [LAYER, OUTPUT], N, layouts=layouts) as writer,
        open_store(whole) as store,
    ):
        writer.append_store(store, slice(start, None))
        writer.finish()
    with h5py.File(copy) as f:
        for spec in (LAYER, OUTPUT):
            stored = read_checksums(f, spec.path)
            assert stored.reshape(-1).tolist() == expected(f["features"][spec.path])


def damage(path, module):
    """Flip one bit of a value in the second row-block."""
    with h5py.File(path) as f:
        place = f["features"][module].id.get_chunk_info_by_coord((8, *[0] * len(LAYER.shape)))
    with path.open("r+b") as f:
        f.seek(place.byte_offset + 5)
        (byte,) = f.read(1)
        f.seek(place.byte_offset + 5)
        f.write(bytes([byte ^ 1]))


def test_damage_is_never_given_a_new_checksum(tmp_path, arrays):
    layouts = choose_layouts([LAYER], 8)
    data = {LAYER.path: arrays[LAYER.path]}
    whole = write(tmp_path / "w.h5", [LAYER], data, layouts=layouts)
    damage(whole, LAYER.path)
    copy = tmp_path / "c.h5"
    with open_store(whole) as store:
        with StoreWriter(copy, [LAYER], N, layouts=layouts) as writer:  # chunks as they lie
            writer.append_store(store)
            writer.finish()
        with h5py.File(copy) as f:
            wrong = read_checksums(f, LAYER.path).reshape(-1) != expected(f["features"][LAYER.path])
            assert np.flatnonzero(wrong).tolist() == [1]
        with (
            pytest.raises(WorkError, match=r"w.h5 is damaged: /features/.*, rows 8 to 15, is not"),
            StoreWriter(tmp_path / "d.h5", [LAYER], N, layouts=layouts) as writer,
        ):
            writer.append_store(store, slice(1, None))
    assert not (tmp_path / "d.h5").exists()


def test_stores_without_checksums_are_read_and_copied(tmp_path, arrays):
    whole = write(tmp_path / "w.h5", [OUTPUT], {"output": arrays["output"]})
    with h5py.File(whole, "r+") as f:
        del f["checksums"], f["metadata_checksums"]
    copy = tmp_path / "c.h5"
    with open_store(whole) as store, StoreWriter(copy, [OUTPUT], N) as writer:
        np.testing.assert_array_equal(store["output"][:], arrays["output"])
        writer.append_store(store)
        writer.finish()
    with h5py.File(whole) as f, h5py.File(copy) as g:
        assert read_checksums(f, "output") is None
        assert read_metadata_checksums(f) is None
        assert read_checksums(g, "output").reshape(-1).tolist() == expected(g["features/output"])


def test_all_that_lies_beside_activations_has_a_checksum(store_path):
    with h5py.File(store_path) as f:
        stored = json.loads(f["metadata_checksums"][()])
        assert stored == metadata_checksums(f) == read_metadata_checksums(f)
        assert set(stored) == {
            "provenance", "features", "skipped/id", "skipped/reason", "images/id", "images/sha256",
            "images/score", "images/label", "images/row", "images/seen",
            *(f"features/{name}" for name in f["features"]),
        }  # fmt: skip
        assert len(f["features"]) == 5  # three modules and two links
        for name in ("images/id", "images/seen", "provenance"):
            digest = xxhash.xxh3_64_hexdigest(f[name][()].tobytes())
            assert stored[name] == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["images/id"].__setitem__(3, b"other"),
        lambda f: f["images/seen"].__setitem__(3, False),
        lambda f: f["features/output"].attrs.__setitem__("axes", '["image", "unit"]'),
        lambda f: f["features/output"].resize(N - 1, axis=0),
        lambda f: f.__delitem__("skipped"),
        lambda f: f["images"].__setitem__("new", np.arange(N)),
    ],
    ids=["id", "column", "attribute", "shape", "group", "new column"],
)
def test_changes_are_seen(store_path, change):
    with h5py.File(store_path, "r+") as f:
        change(f)
        assert read_metadata_checksums(f) != metadata_checksums(f)


def test_modules_are_covered(store_path):
    with h5py.File(store_path) as f:
        assert set(f["checksums"]) == {LAYER.path, RELU.path, OUTPUT.path}
        assert f["checksums"].attrs["algorithm"] == "XXH3-64"
