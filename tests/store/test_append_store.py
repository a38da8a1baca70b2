"""Appending one store to another: by chunks where they match, by rows otherwise, always equal."""

from __future__ import annotations

from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import LAYER, OUTPUT, RELU, N, hashes, make_spec, names, write

from resmem_extract.errors import WorkError
from resmem_extract.store import (
    COMPRESSIONS,
    StoreWriter,
    choose_layouts,
    layout_of,
    open_store,
)
from resmem_extract.store.stream import FeatureStream

SPECS = (LAYER, RELU, OUTPUT)


def stored_chunks(path, name):
    """Return the bytes of every chunk as they lie in the file, by offset."""
    with h5py.File(path) as f:
        dataset = f["features"][name]
        infos = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
        return {
            info.chunk_offset: dataset.id.read_direct_chunk(info.chunk_offset) for info in infos
        }


def counting_chunks():
    """Count the row-blocks that are copied without being decoded."""
    return mock.patch.object(
        FeatureStream, "_copy_chunks", autospec=True, side_effect=FeatureStream._copy_chunks
    )


def append_all(path, specs, sources, n, **options):
    """Write a store of slices of others; return how many row-blocks were copied as they are."""
    with counting_chunks() as copies, StoreWriter(path, specs, n, **options) as writer:
        for source, rows in sources:
            with open_store(source) as store:
                writer.append_store(store, rows)
        writer.finish({"row": np.arange(writer.n_written)})
    return copies.call_count


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    pieces=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=4),
    dtype=st.sampled_from(["float32", "float16"]),
    compressions=st.tuples(*[st.sampled_from([None, *COMPRESSIONS])] * 2),
    targets=st.tuples(*[st.sampled_from([16, 256, 4096])] * 2),
)
def test_contents_are_those_of_the_sources(
    tmp_path_factory, shape, pieces, dtype, compressions, targets
):
    folder = tmp_path_factory.mktemp("a")
    spec = make_spec("m", shape, dtype=dtype)
    sources, values, ids, sha256s = [], [], [], []
    target = "resmem_extract.store.chunks.TARGET_BYTES"
    for number, (n, start) in enumerate(pieces):
        array = np.random.default_rng(number).standard_normal((n, *shape)).astype(dtype)
        path = folder / f"{number}.h5"
        with mock.patch(target, targets[0]):
            write(path, [spec], {"m": array}, compression=compressions[0])
        sources.append((path, slice(start, None)))
        values.append(array[start:])
        ids += names(n)[start:]
        sha256s += hashes(n)[start:]
    n = len(ids)
    with mock.patch(target, targets[1]):
        append_all(folder / "f.h5", [spec], sources, n, compression=compressions[1])
    with open_store(folder / "f.h5") as store:
        np.testing.assert_array_equal(store["m"][:], np.concatenate(values))
        assert store.image_ids.tolist() == ids
        assert store.sha256.tolist() == sha256s
        assert store.columns["row"].tolist() == list(range(n))
        assert store.columns["row"].dtype == np.int64


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_aligned_rows_are_copied_as_they_lie(tmp_path, arrays, compression):
    whole = write(tmp_path / "w.h5", SPECS, arrays, compression=compression)
    with h5py.File(whole) as f:
        layouts = {spec.path: layout_of(f["features"][spec.path]) for spec in SPECS}
    assert layouts == choose_layouts(SPECS, N, compression)
    assert [layouts[spec.path].chunks[0] for spec in SPECS] == [32, 32, 32]
    copied = append_all(tmp_path / "a.h5", SPECS, [(whole, None)], N, layouts=layouts)
    assert copied == 3  # one complete row-block of each module
    for spec in SPECS:
        assert stored_chunks(tmp_path / "a.h5", spec.path) == stored_chunks(whole, spec.path)
    with open_store(tmp_path / "a.h5") as store:
        for spec in SPECS:
            np.testing.assert_array_equal(store[spec.path][:], arrays[spec.path])


def test_parts_with_the_layouts_of_the_whole(tmp_path, arrays):
    layouts = choose_layouts([LAYER], N)
    sources = []
    for start in (0, 32):
        part = tmp_path / f"{start}.h5"
        rows = slice(start, start + 32)
        with StoreWriter(part, [LAYER], 32, layouts=layouts) as writer:
            ids, sha256s = names(N)[rows], hashes(N)[rows]
            writer.append(ids, sha256s, {LAYER.path: arrays[LAYER.path][rows]})
            writer.finish()
        sources.append((part, None))
    assert append_all(tmp_path / "f.h5", [LAYER], sources, N) == 1
    straight = write(tmp_path / "s.h5", [LAYER], {LAYER.path: arrays[LAYER.path]})
    assert stored_chunks(tmp_path / "f.h5", LAYER.path) == stored_chunks(straight, LAYER.path)


@pytest.mark.parametrize(
    ("rows", "before"), [(slice(1, None), 0), (None, 3)], ids=["source", "target"]
)
def test_unaligned_rows_go_through_memory(tmp_path, arrays, rows, before):
    whole = write(tmp_path / "w.h5", SPECS, arrays)
    layouts = choose_layouts(SPECS, N)
    first = [(whole, slice(0, before))] if before else []
    assert (
        append_all(tmp_path / "a.h5", SPECS, [*first, (whole, rows)], 2 * N, layouts=layouts) == 0
    )
    with open_store(tmp_path / "a.h5") as store:
        for spec in SPECS:
            array = arrays[spec.path]
            expected = np.concatenate([array[:before], array[rows or slice(None)]])
            np.testing.assert_array_equal(store[spec.path][:], expected)


def test_chunks_that_were_never_written_are_read_as_rows(tmp_path, arrays):
    whole = write(tmp_path / "w.h5", [OUTPUT], {"output": arrays["output"]})
    with h5py.File(whole, "r+") as f:  # as a user extends a file with plain h5py
        f["features/output"].resize(96, axis=0)
        for name in ("id", "sha256"):
            stored = f["images"][name][()]
            del f["images"][name]
            f["images"][name] = np.resize(stored, 96)
    layouts = choose_layouts([OUTPUT], N)
    assert append_all(tmp_path / "a.h5", [OUTPUT], [(whole, None)], 96, layouts=layouts) == 0
    with open_store(tmp_path / "a.h5") as store:
        expected = np.concatenate([arrays["output"], np.zeros((96 - N, 1))])
        np.testing.assert_array_equal(store["output"][:], expected)


def test_rows_and_stores_between_one_another(tmp_path, arrays):
    whole = write(tmp_path / "w.h5", [OUTPUT], {"output": arrays["output"]})
    copied = []
    with StoreWriter(tmp_path / "a.h5", [OUTPUT], 3 * N) as writer, open_store(whole) as store:
        writer.append(["x"], ["0" * 64], {"output": np.full((1, 1), 7, "f4")})
        writer.append_store(store, slice(-2, None), copied.append)
        writer.append_store(store, slice(0, 0))
        writer.append(["y"], ["1" * 64], {"output": np.full((1, 1), 8, "f4")})
        writer.finish()
    assert sum(copied) == 8
    with open_store(tmp_path / "a.h5") as store:
        assert store.image_ids.tolist() == ["x", *names(N)[-2:], "y"]
        expected = [7, *arrays["output"][-2:, 0], 8]
        np.testing.assert_array_equal(store["output"][:, 0], np.float32(expected))


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, arrays):
    whole = write(tmp_path / "w.h5", [OUTPUT], {"output": arrays["output"]})
    half = make_spec("output", (1,), dtype="float16")
    cases = [
        ([OUTPUT], slice(0, N, 2), "not consecutive"),
        ([OUTPUT, RELU], None, "w.h5 has no features.layer2.4.relu@2"),
        ([half], None, r"output: float32 \(1,\) in .*w.h5, expected float16"),
        ([make_spec("output", (2,))], None, r"expected float32 \(2,\)"),
    ]
    with open_store(whole) as store:
        for specs, rows, message in cases:
            with StoreWriter(tmp_path / "a.h5", specs, N) as writer:
                with pytest.raises(ValueError, match=message):
                    writer.append_store(store, rows)
                assert writer.n_written == 0
        with (
            StoreWriter(tmp_path / "a.h5", [OUTPUT], N - 1) as writer,
            pytest.raises(ValueError, match="more than the 36 rows"),
        ):
            writer.append_store(store)


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    whole = write(
        tmp_path / "w.h5", [OUTPUT], {"output": np.arange(16.0, dtype="f4")[:, None]},
        layouts=choose_layouts([OUTPUT], 8, "gzip"),
    )  # fmt: skip
    with h5py.File(whole) as f:
        place = f["features/output"].id.get_chunk_info(1)
    with whole.open("r+b") as f:
        f.seek(place.byte_offset)
        f.write(b"\0" * place.size)
    with (
        pytest.raises(WorkError, match=r"w.h5 cannot be read \(/features/output\)"),
        StoreWriter(tmp_path / "a.h5", [OUTPUT], 16) as writer,
        open_store(whole) as store,
    ):
        writer.append_store(store)
    assert not (tmp_path / "a.h5").exists()
