"""Splitting: what the parts hold, where the cuts fall, and what is refused."""

from __future__ import annotations

from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_stores import everything, provenance, random_stores
from store_data import LAYER, OUTPUT, RELU, N, make_spec, names, write

from resmem_extract.errors import RequestError, WorkError
from resmem_extract.store import choose_layouts, open_store
from resmem_extract.store.split import split_store
from resmem_extract.store.stream import FeatureStream


def rows_of(path):
    with h5py.File(path) as f:
        assert f["images/row"].dtype == np.int64
        return f["images/row"][()].tolist()


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def whole(tmp_path, arrays):
    return write(
        tmp_path / "f.h5", (LAYER, RELU, OUTPUT), arrays,
        columns={
            "label": ["Katze", "Hündin/b"] * 18 + ["x"],
            "session": np.arange(N) // 13,
            "score": np.linspace(0, 1, N),
        },
        skipped=[("kaputt.jpg", "truncated")],
        provenance={"model": "resmem", "batch_size": 16},
    )  # fmt: skip


@mock.patch("os.fsync", new=mock.Mock())
@settings(max_examples=30, deadline=None)
@given(store=random_stores(), data=st.data())
def test_parts_are_stores_with_the_rows_they_name(tmp_path_factory, store, data):
    folder = tmp_path_factory.mktemp("s")
    whole = store.write(folder / "f.h5")
    how = data.draw(
        st.one_of(
            st.integers(1, store.n).map(lambda k: {"parts": k}),
            st.integers(1, store.n + 3).map(lambda k: {"rows": k}),
            st.sampled_from([{"column": "label"}, {"module": True}]),
        )
    )
    parts = split_store(whole, folder / "out", **how)
    seen = []
    for number, part in enumerate(parts, start=1):
        rows = rows_of(part)
        seen += rows
        with open_store(part) as opened:
            for module in opened.modules:
                np.testing.assert_array_equal(opened[module][:], store.arrays[module][rows])
                assert set(opened.specs[module].links) <= set(opened[module].spec.links)
            assert opened.image_ids.tolist() == [names(store.n)[row] for row in rows]
            assert opened.columns["label"].tolist() == [store.columns["label"][r] for r in rows]
            assert (part.images, part.modules) == (len(rows), opened.modules)
            assert part.bytes == part.path.stat().st_size
        (record,) = provenance(part)["split"]
        assert (record["part"], record["parts"]) == (number, len(parts))
        assert record["file"] == str(whole)
        assert provenance(part) == {**provenance(whole), "split": [record]}
    if "module" in how:
        assert seen == list(range(store.n)) * len(store.specs)
    else:
        assert sorted(seen) == list(range(store.n))
        if "column" not in how:
            assert seen == list(range(store.n))
    if "parts" in how:
        assert len(parts) == how["parts"]


def test_names_of_parts(tmp_path, whole):
    out = tmp_path / "out"
    split_store(whole, out, parts=10)
    assert files(out) == [f"f.part-{k:02d}-of-10.h5" for k in range(1, 11)]
    out = tmp_path / "labels"
    split_store(whole, out, column="label")
    assert files(out) == ["f.label=Hündin%2Fb.h5", "f.label=Katze.h5", "f.label=x.h5"]
    out = tmp_path / "modules"
    split_store(whole, out, module=True)
    assert files(out) == sorted(f"f.{spec.path}.h5" for spec in (LAYER, RELU, OUTPUT))


def test_numbers_and_truth_values_as_classes(tmp_path, whole):
    assert [part.images for part in split_store(whole, tmp_path / "s", column="session")] == [
        13, 13, 11,
    ]  # fmt: skip
    assert files(tmp_path / "s") == ["f.session=0.h5", "f.session=1.h5", "f.session=2.h5"]


def test_parts_by_bytes_are_no_larger(tmp_path, whole):
    row_bytes = 4 * (40 * 5 * 3 + 7 + 1)
    parts = split_store(whole, tmp_path / "out", max_bytes=10 * row_bytes + 1)
    assert [part.images for part in parts] == [10, 10, 10, 7]


def big(path, n, shape=(64, 16, 16)):
    values = np.random.default_rng(0).standard_normal((n, *shape)).astype("f4")
    small = make_spec("small", (3,))
    return write(
        path, [make_spec("big", shape), small],
        {"big": values, "small": values.reshape(n, -1)[:, :3]},
    )  # fmt: skip


def test_cuts_fall_on_chunks_where_parts_stay_even(tmp_path):
    whole = big(tmp_path / "f.h5", 500)
    with h5py.File(whole) as f:
        assert [f["features"][name].chunks[0] for name in ("big", "small")] == [16, 256]
    with mock.patch.object(
        FeatureStream, "_copy_blocks", autospec=True, side_effect=FeatureStream._copy_blocks
    ) as copies:
        parts = split_store(whole, tmp_path / "out", parts=3)
    # Nearest multiples of 16 to 166.7 and 333.3; not of 256, which would leave parts uneven.
    assert [part.images for part in parts] == [160, 176, 164]
    # All complete row-blocks of the big module, and of the other one none.
    assert [call.args[2:] for call in copies.call_args_list] == [(0, 10), (10, 11), (21, 10)]
    assert [p.images for p in split_store(whole, tmp_path / "r", rows=130)] == [128] * 3 + [116]
    assert [p.images for p in split_store(whole, tmp_path / "e", parts=5)] == [100] * 5
    assert [p.images for p in split_store(whole, tmp_path / "t", rows=127)] == [127] * 3 + [119]


def test_small_parts_do_not_take_whole_chunks(tmp_path):
    whole = big(tmp_path / "f.h5", 64)
    parts = split_store(whole, tmp_path / "out", parts=64)
    assert max(part.bytes for part in parts) < 2 * 2**16 + 2**16  # an image of 64 KiB; metadata


def test_an_interrupted_split_is_continued(tmp_path, whole):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        split_store(whole, out, parts=4, progress=stop_after(3))
    there = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert 0 < len(there) < 4
    parts = split_store(whole, out, parts=4)
    assert [part.already_complete for part in parts] == [part.path.name in there for part in parts]
    assert all((out / name).stat().st_mtime_ns == time for name, time in there.items())
    assert all(part.already_complete for part in split_store(whole, out, parts=4))


def stop_after(n):
    calls = []

    def progress(done, total):
        assert 0 < done <= total
        calls.append(done)
        if len(calls) > n:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("how", [{"parts": 3}, {"column": "label"}, {"module": True}])
def test_progress_counts_all_bytes(tmp_path, whole, how):
    told = []
    split_store(whole, tmp_path / "out", progress=lambda *pair: told.append(pair), **how)
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    # Scattered rows are read once more before, to hold them against their checksums.
    passes = 2 if "column" in how else 1
    assert told[-1][1] == passes * N * 4 * (40 * 5 * 3 + 7 + 1)


def test_other_files_in_the_way(tmp_path, whole):
    out = tmp_path / "out"
    split_store(whole, out, parts=4)
    before = (out / "f.part-2-of-4.h5").read_bytes()
    for rows in (10, 11):  # four parts as well, cut elsewhere
        with pytest.raises(RequestError, match=r"part-1-of-4.h5 exists .* use --overwrite"):
            split_store(whole, out, rows=rows)
    assert (out / "f.part-2-of-4.h5").read_bytes() == before
    split_store(whole, out, rows=10, overwrite=True)
    assert rows_of(out / "f.part-2-of-4.h5") == list(range(10, 20))
    (out / "f.part-1-of-2.h5").write_text("mine")
    with pytest.raises(RequestError, match=r"part-1-of-2.h5 exists"):
        split_store(whole, out, parts=2)
    assert (out / "f.part-1-of-2.h5").read_text() == "mine"
    with pytest.raises(RequestError, match=r"holds f.part-1-of-2.h5, a part of another split"):
        split_store(whole, out, parts=3, overwrite=True)
    split_store(whole, out, column="label")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "expected one of parts, rows, max_bytes, column, module, got none"),
        ({"parts": 2, "rows": 3}, "got parts and rows"),
        ({"parts": 0}, "expected at least 1"),
        ({"parts": 38}, "has 37 images, too few for 38 parts; ask for at most 37"),
        ({"rows": -1}, "expected at least 1"),
        ({"max_bytes": 1000}, "one image alone has 2.4 kB"),
        ({"column": "lable"}, "no column 'lable'; did you mean label?"),
        ({"column": "zzz"}, "no column 'zzz'; it has label, session, score"),
    ],
)
def test_refusals(tmp_path, whole, how, message):
    with pytest.raises(RequestError, match=message):
        split_store(whole, tmp_path / "out", **how)
    assert files(tmp_path) == ["f.h5"]


def test_nothing_to_split(tmp_path, whole):
    with pytest.raises(RequestError, match="does not exist"):
        split_store(tmp_path / "no.h5", tmp_path / "out", parts=2)
    with pytest.raises(RequestError, match=r"f.h5 is a file; the parts need a folder"):
        split_store(whole, whole, parts=2)
    empty = write(tmp_path / "e.h5", [OUTPUT], {"output": np.zeros((0, 1), "f4")})
    with pytest.raises(RequestError, match="has no images"):
        split_store(empty, tmp_path / "out", rows=2)


def test_changed_ids_are_not_passed_on(tmp_path, whole):
    with h5py.File(whole, "r+") as f:
        f["images/id"][3] = b"other"
    with pytest.raises(WorkError, match=r"is not what was written \(images/id\)"):
        split_store(whole, tmp_path / "out", parts=2)


def test_what_cannot_be_read_is_one_line(tmp_path, whole):
    with h5py.File(whole, "r+") as f:
        del f["images/sha256"]
    with pytest.raises(WorkError, match=r"is not what was written \(images/sha256\)"):
        split_store(whole, tmp_path / "out", parts=2)
    with h5py.File(whole, "r+") as f:
        del f["metadata_checksums"]
    with pytest.raises(WorkError, match=r"f.h5 cannot be read: .*sha256.*; see: resmem-extract"):
        split_store(whole, tmp_path / "out", parts=2)


@pytest.mark.parametrize("how", [{"column": "label"}, {"parts": 5}])
def test_damaged_rows_are_not_passed_on(tmp_path, arrays, how):
    layouts = choose_layouts([LAYER], 8)
    whole = write(
        tmp_path / "f.h5", [LAYER], {LAYER.path: arrays[LAYER.path]}, layouts=layouts,
        columns={"label": ["a", "b"] * 18 + ["a"]},
    )  # fmt: skip
    with h5py.File(whole) as f:
        place = f["features"][LAYER.path].id.get_chunk_info(2).byte_offset
    with whole.open("r+b") as f:
        f.seek(place + 40)
        f.write(b"\x7f")
    with pytest.raises(WorkError, match=r"f.h5 is damaged: /features/.*rows 16 to 23"):
        split_store(whole, tmp_path / "out", **how)


def test_the_file_itself_is_left_as_it_is(tmp_path, whole):
    before = everything(whole)
    split_store(whole, tmp_path, parts=2)
    assert everything(whole) == before
