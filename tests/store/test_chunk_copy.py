"""Copying chunks as bytes equals copying through HDF5, and gives way to it where it cannot."""

from __future__ import annotations

import errno
import os
from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import LAYER, N, hashes, make_spec, names, write

from resmem_extract.errors import WorkError
from resmem_extract.store import StoreWriter, choose_layouts, open_store
from resmem_extract.store.chunk_copy import chunk_addresses
from resmem_extract.store.stream import FeatureStream
from resmem_extract.store.verify import verify_store

pytestmark = pytest.mark.skipif(
    not (hasattr(os, "preadv") and hasattr(h5py.h5d.DatasetID, "chunk_iter")),
    reason="not of Windows, and of HDF5 since 1.12.3",
)
LAYOUTS = choose_layouts([LAYER], 8)


def copy(whole, path, rows=slice(None), **options):
    with open_store(whole) as store, StoreWriter(path, **options) as writer:
        writer.append_store(store, rows)
        writer.finish()
    return path


@pytest.fixture
def whole(tmp_path, arrays):
    return write(tmp_path / "w.h5", [LAYER], {LAYER.path: arrays[LAYER.path]}, layouts=LAYOUTS)


def through_hdf5():
    """Count the row-blocks that go through HDF5."""
    return mock.patch.object(
        FeatureStream, "_copy_chunks", autospec=True, side_effect=FeatureStream._copy_chunks
    )


def options(preallocate=True):
    return {"specs": [LAYER], "n_images": N, "layouts": LAYOUTS, "preallocate": preallocate}


def test_addresses_are_where_the_bytes_are(whole, arrays):
    with h5py.File(whole) as f:
        dataset = f["features"][LAYER.path]
        addresses = chunk_addresses(dataset)
        assert addresses.shape == (5, 1, 1, 1)
        data = whole.read_bytes()
        chunk = np.frombuffer(data, "<f4", 8 * 600, int(addresses[2, 0, 0, 0]))
        np.testing.assert_array_equal(chunk, arrays[LAYER.path][16:24].reshape(-1))


def test_where_addresses_cannot_be_known(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as f:
        d = f.create_dataset("d", data=np.zeros((4, 2)), chunks=(2, 2))
        assert chunk_addresses(d) is None
    with h5py.File(tmp_path / "b.h5", "w") as f:
        d = f.create_dataset("d", (4, 2), "f4", chunks=(2, 2))
        d[:2] = 1
        assert chunk_addresses(d) is None  # the other chunk was never written
    with h5py.File("c.h5", "w", driver="core", backing_store=False) as f:
        assert chunk_addresses(f.create_dataset("d", data=np.zeros((4, 2)), chunks=(2, 2))) is None


def test_what_is_aligned_is_copied_as_bytes(tmp_path, whole, arrays):
    with through_hdf5() as others:
        path = copy(whole, tmp_path / "c.h5", **options())
    assert others.call_count == 0
    assert verify_store(path).intact
    with h5py.File(path) as f, h5py.File(whole) as g:
        np.testing.assert_array_equal(f["features"][LAYER.path][()], arrays[LAYER.path])
        chunks = [g["features"][LAYER.path].id.get_chunk_info(i).size for i in range(5)]
        assert [f["features"][LAYER.path].id.get_chunk_info(i).size for i in range(5)] == chunks


def of_at_most(n_bytes):
    """Return a preadv and a pwrite that do less than they are asked for, as they may."""
    read, write = os.preadv, os.pwrite
    return (
        mock.patch("os.preadv", lambda file, into, at: read(file, [into[0][:n_bytes]], at)),
        mock.patch("os.pwrite", lambda file, data, at: write(file, data[: n_bytes - 1], at)),
    )


def test_short_reads_and_writes(tmp_path, whole, arrays):
    short_reads, short_writes = of_at_most(1000)
    with short_reads, short_writes, through_hdf5() as others:
        path = copy(whole, tmp_path / "c.h5", **options())
    assert others.call_count == 0
    assert verify_store(path).intact
    with open_store(path) as store:
        np.testing.assert_array_equal(store[LAYER.path][:], arrays[LAYER.path])


def test_where_the_file_seems_to_end_hdf5_goes_on(tmp_path, whole):
    with mock.patch("os.preadv", lambda *_: 0), through_hdf5() as others:
        path = copy(whole, tmp_path / "d.h5", **options())
    assert others.call_count == 4
    assert verify_store(path).intact


def test_a_full_disk_is_an_error(tmp_path, whole):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        mock.patch("os.pwrite", side_effect=full),
        pytest.raises(WorkError, match=r"c.h5 failed .* No space left on device"),
    ):
        copy(whole, tmp_path / "c.h5", **options())
    assert not (tmp_path / "c.h5").exists()


@mock.patch("os.fsync", new=mock.Mock())
@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), max_size=3).map(tuple),
    n=st.integers(1, 40),
    dtype=st.sampled_from(["float32", "float16"]),
    target=st.sampled_from([16, 256, 4096]),
    at_once=st.sampled_from([1, 2**26]),
    start=st.integers(0, 5),
)
def test_equal_to_the_way_through_hdf5(tmp_path_factory, shape, n, dtype, target, at_once, start):
    folder = tmp_path_factory.mktemp("k")
    spec = make_spec("m", shape, dtype=dtype)
    values = np.random.default_rng(n).standard_normal((n, *shape)).astype(dtype)
    with (
        mock.patch("resmem_extract.store.chunks.TARGET_BYTES", target),
        mock.patch("resmem_extract.store.chunk_copy._AT_ONCE", at_once),
    ):
        whole = folder / "w.h5"
        with StoreWriter(whole, [spec], n) as writer:
            for a in range(0, n, 7):
                rows = slice(a, a + 7)
                writer.append(names(n)[rows], hashes(n)[rows], {"m": values[rows]})
            writer.finish()
        first = min(start * choose_layouts([spec], n)["m"].chunks[0], n)
        for preallocate in (True, False):
            path = copy(
                whole, folder / f"{preallocate}.h5", slice(first, None),
                specs=[spec], n_images=n - first, layouts=choose_layouts([spec], n),
                preallocate=preallocate,
            )  # fmt: skip
            with h5py.File(path) as f:
                np.testing.assert_array_equal(f["features/m"][()], values[first:])
            assert verify_store(path).intact


def test_a_merged_file_can_be_extended_with_plain_h5py(tmp_path, whole, arrays):
    path = copy(whole, tmp_path / "c.h5", **options())
    with h5py.File(path, "r+") as f:
        dataset = f["features"][LAYER.path]
        dataset.resize(N + 20, axis=0)
        dataset[N:] = arrays[LAYER.path][:20]
    with h5py.File(path) as f:
        expected = np.concatenate([arrays[LAYER.path], arrays[LAYER.path][:20]])
        np.testing.assert_array_equal(f["features"][LAYER.path][()], expected)
