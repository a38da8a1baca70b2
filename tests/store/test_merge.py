"""Merging: the inverse of splitting, other stores joined by id, and every refusal."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_stores import PROVENANCE, everything, provenance, random_stores
from store_data import LAYER, OUTPUT, RELU, N, hashes, make_spec, names, write
from test_writer import run

from resmem_extract.errors import RequestError, StoreError, WorkError
from resmem_extract.store import StoreWriter, choose_layouts, open_store
from resmem_extract.store.merge import merge_stores
from resmem_extract.store.schema import object_name
from resmem_extract.store.split import split_store
from resmem_extract.store.stream import FeatureStream

SPECS = (LAYER, RELU, OUTPUT)


@pytest.fixture
def whole(tmp_path, arrays):
    return write(
        tmp_path / "f.h5", SPECS, arrays,
        columns={"label": ["b", "a"] * 18 + ["x"], "score": np.linspace(0, 1, N)},
        skipped=[("kaputt.jpg", "truncated")], provenance=PROVENANCE,
    )  # fmt: skip


def some(path, arrays, rows, specs=(OUTPUT,), **finish):
    """Write some rows of the arrays, as an extraction of other images would."""
    rows = list(rows)
    finish = {"provenance": PROVENANCE, **finish}
    with StoreWriter(path, specs, len(rows)) as writer:
        ids, sha256s = ([values(N)[row] for row in rows] for values in (names, hashes))
        writer.append(ids, sha256s, {spec.path: arrays[spec.path][rows] for spec in specs})
        writer.finish(**finish)
    return path


ways = st.one_of(
    st.integers(1, 40).map(lambda k: {"parts": k}),
    st.integers(1, 43).map(lambda k: {"rows": k}),
    st.sampled_from([{"column": "label"}, {"module": True}]),
)


@mock.patch("os.fsync", new=mock.Mock())
@settings(max_examples=25, deadline=None)
@given(store=random_stores(), way=ways, seed=st.integers(0, 9), batch=st.sampled_from([1, 500]))
def test_split_and_merge_are_inverses(tmp_path_factory, store, way, seed, batch):
    folder = tmp_path_factory.mktemp("m")
    whole = store.write(folder / "f.h5")
    if "parts" in way:
        way = {"parts": min(way["parts"], store.n)}
    parts = split_store(whole, folder / "out", **way)
    random.Random(seed).shuffle(parts)
    with mock.patch("resmem_extract.store.gather._BATCH_BYTES", batch):
        merged = merge_stores(parts, folder / "m.h5", delete_parts=True)
    assert everything(merged) == everything(whole)
    assert (merged.kind, merged.restored) == ("parts", True)
    assert (merged.images, merged.modules) == (store.n, tuple(spec.path for spec in store.specs))
    assert merged.bytes == (folder / "m.h5").stat().st_size
    assert list((folder / "out").iterdir()) == []


@mock.patch("os.fsync", new=mock.Mock())
@settings(max_examples=12, deadline=None)
@given(store=random_stores(max_images=20), ways=st.tuples(ways, ways), seed=st.integers(0, 9))
def test_parts_of_parts(tmp_path_factory, store, ways, seed):
    folder = tmp_path_factory.mktemp("n")
    whole = store.write(folder / "f.h5")
    outer, inner = ({**way, "parts": 1} if "parts" in way else way for way in ways)
    parts = split_store(whole, folder / "1", **outer)
    part = random.Random(seed).choice(parts)
    merged = merge_stores(split_store(part, folder / "2", **inner), folder / "m.h5")
    assert everything(merged) == everything(part.path)
    others = [other for other in parts if other is not part]
    assert everything(merge_stores([merged, *others], folder / "w.h5")) == everything(whole)


@mock.patch("os.fsync", new=mock.Mock())
@settings(max_examples=20, deadline=None)
@given(store=random_stores(), cuts=st.lists(st.integers(0, 40), max_size=3), flip=st.booleans())
def test_other_images_come_in_the_order_given(tmp_path_factory, store, cuts, flip):
    folder = tmp_path_factory.mktemp("i")
    bounds = [0, *sorted(cut % (store.n + 1) for cut in cuts), store.n]
    runs = [range(a, b) for a, b in itertools.pairwise(bounds)]
    runs = runs[::-1] if flip else runs
    files = [
        some(
            folder / f"{k}.h5", store.arrays, rows, store.specs, skipped=store.skipped,
            columns={name: [values[r] for r in rows] for name, values in store.columns.items()},
        )
        for k, rows in enumerate(runs)
    ]  # fmt: skip
    merged = merge_stores(files, folder / "m.h5")
    order = [row for rows in runs for row in rows]
    with open_store(merged) as opened:
        assert opened.image_ids.tolist() == [names(N + 9)[row] for row in order]
        assert opened.sha256.tolist() == [hashes(N + 9)[row] for row in order]
        for spec in store.specs:
            links = tuple(object_name(link) for link in spec.links)
            assert opened.specs[spec.path] == replace(spec, links=links)
            np.testing.assert_array_equal(opened[spec.path][:], store.arrays[spec.path][order])
        for name, values in store.columns.items():
            np.testing.assert_array_equal(opened.columns[name], [values[row] for row in order])
        assert opened.skipped == tuple(store.skipped or ())
        assert [m["file"] for m in opened.provenance["merged"]] == [str(path) for path in files]
    assert (merged.kind, merged.restored, merged.deleted) == ("images", False, ())
    assert all(path.exists() for path in files)


@pytest.mark.parametrize("shuffled", [False, True])
def test_other_modules_of_the_same_images(tmp_path, arrays, shuffled):
    order = np.random.default_rng(0).permutation(N) if shuffled else np.arange(N)
    first = some(tmp_path / "a.h5", arrays, range(N), (LAYER,), columns={"x": np.arange(N)})
    second = some(
        tmp_path / "b.h5", arrays, order, (OUTPUT, RELU),
        columns={"x": order, "y": -order}, skipped=[("z.jpg", "gone")],
    )  # fmt: skip
    merged = merge_stores([first, second], tmp_path / "m.h5")
    assert (merged.kind, merged.modules) == ("modules", (LAYER.path, OUTPUT.path, RELU.path))
    with open_store(merged) as store:
        assert store.image_ids.tolist() == names(N)
        assert store.sha256.tolist() == hashes(N)
        for spec in SPECS:
            np.testing.assert_array_equal(store[spec.path][:], arrays[spec.path])
        assert store.columns["x"].tolist() == list(range(N))
        assert store.columns["y"].tolist() == [-row for row in range(N)]
        assert store.skipped == (("z.jpg", "gone"),)
        assert store["features.5.4"].module == LAYER.path


def test_one_image_was_skipped_in_one_file_and_read_in_another(tmp_path, arrays):
    a = some(tmp_path / "a.h5", arrays, range(4), skipped=[(names(N)[4], "gone"), ("z", "bad")])
    b = some(tmp_path / "b.h5", arrays, range(4, 8))
    with open_store(merge_stores([a, b], tmp_path / "m.h5")) as store:
        assert len(store) == 8
        assert store.skipped == (("z", "bad"),)


def test_missing_parts(tmp_path, whole):
    parts = split_store(whole, tmp_path / "out", parts=5)
    with pytest.raises(
        RequestError, match=r"16 images of .*f.h5 are in no file given \(part 2, 4 of 5\); give all"
    ):
        merge_stores(parts[::2], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()
    some_parts = merge_stores(parts[::-2], tmp_path / "m.h5", partial=True)
    assert (some_parts.kind, some_parts.restored) == ("parts", False)
    rows = [*range(7), *range(15, 22), *range(30, 37)]
    with open_store(some_parts) as store, open_store(whole) as original:
        np.testing.assert_array_equal(store.columns["row"], rows)
        np.testing.assert_array_equal(store[LAYER.path][:], original[LAYER.path][rows])
        assert store.provenance["split"][0]["part"] == [1, 3, 5]
    assert everything(
        merge_stores([parts[3], some_parts, parts[1]], tmp_path / "w.h5")
    ) == everything(whole)


def test_missing_modules(tmp_path, whole):
    parts = split_store(whole, tmp_path / "out", module=True)
    for few in (parts[:1], parts[::2]):
        with pytest.raises(RequestError, match=r"that no part here has .*features.layer2.4.relu@2"):
            merge_stores(few, tmp_path / "m.h5")
    partial = merge_stores(parts[::-2], tmp_path / "m.h5", partial=True)
    assert partial.modules == (LAYER.path, OUTPUT.path)
    assert everything(merge_stores([parts[1], partial], tmp_path / "w.h5")) == everything(whole)


def test_parts_of_two_ways_of_splitting(tmp_path, whole):
    parts = [
        *split_store(whole, tmp_path / "a", rows=10)[:2],
        *split_store(whole, tmp_path / "b", rows=20)[1:],
    ]
    assert everything(merge_stores(parts, tmp_path / "m.h5")) == everything(whole)
    with pytest.raises(RequestError, match=r"both have row 10 of .*f.h5; give each once"):
        merge_stores([*split_store(whole, tmp_path / "b", rows=20), parts[1]], tmp_path / "n.h5")
    modules = split_store(whole, tmp_path / "c", module=True)
    with pytest.raises(RequestError, match="the same modules, and another file has others"):
        merge_stores([*parts, *modules], tmp_path / "n.h5")


def test_a_part_beside_another_file_is_like_any_store(tmp_path, arrays, whole):
    part = split_store(whole, tmp_path / "a", rows=10)[0]
    columns = {"label": ["b", "a"], "score": np.zeros(2)}
    other = some(tmp_path / "o.h5", arrays, [20, 21], SPECS, columns=columns)
    merged = merge_stores([other, part], tmp_path / "m.h5")
    with open_store(merged) as store:
        assert merged.kind == "images"
        assert store.image_ids.tolist() == [names(N)[row] for row in (20, 21, *range(10))]
        assert set(store.columns) == {"label", "score"}
        assert "split" not in store.provenance


# Refusals


def changed(key, value):
    return {"provenance": {**PROVENANCE, key: value}}


OTHER = {
    "model": (changed("model", "other"), "model resmem and other"),
    "weights": (changed("state_dict_sha256", "a" * 64), "sha256 8e8e8e8e8e8e... and aaaaaaaaaaaa"),
    "preprocessing": (
        changed("preprocessing", {**PROVENANCE["preprocessing"], "crop": 224}),
        "preprocessing crop 227 and 224$",
    ),
    "precision": (changed("precision", "bfloat16"), "precision float32 and bfloat16"),
    "exif": (changed("exif_orientation", True), "exif orientation False and True"),
    "no provenance": ({"provenance": {}}, "model resmem and None"),
    "column": ({"columns": {"x": np.zeros(2)}}, r"column 'x' is only in .*b.h5"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_making(tmp_path, arrays, case):
    finish, message = OTHER[case]
    a = some(tmp_path / "a.h5", arrays, [0, 1])
    b = some(tmp_path / "b.h5", arrays, [2, 3], **finish)
    with pytest.raises(RequestError, match=f"a.h5 and .*b.h5 cannot be merged: .*{message}"):
        merge_stores([a, b], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (make_spec("output", (2,)), r"output: shape \(1,\) and \(2,\)"),
        (make_spec("output", (1,), dtype="float16"), "output: dtype float32 and float16"),
        (
            make_spec("output", (1,), reduce={"pool": "avg", "flatten": False}),
            "output: reduce pool none and avg",
        ),
        (make_spec("output", (1,), calls=2), "output: calls 1 and 2"),
    ],
)
def test_other_shapes(tmp_path, arrays, spec, message):
    a = some(tmp_path / "a.h5", arrays, [0, 1])
    b = some(tmp_path / "b.h5", {"output": np.zeros((N, *spec.shape), spec.dtype)}, [2], (spec,))
    with pytest.raises(RequestError, match=message):
        merge_stores([a, b], tmp_path / "m.h5")


def test_images_that_overlap_or_are_missing(tmp_path, arrays):
    a = some(tmp_path / "a.h5", arrays, [0, 1, 2])
    b = some(tmp_path / "b.h5", arrays, [2, 3])
    with pytest.raises(RequestError, match=r"1 image in both \(katze/00002 ä.jpg\)"):
        merge_stores([a, b], tmp_path / "m.h5")
    c = some(tmp_path / "c.h5", arrays, [0, 1], (RELU,))
    for files in ([a, c], [c, a]):
        with pytest.raises(RequestError, match=r"1 image only in .*a.h5 \(katze/00002"):
            merge_stores(files, tmp_path / "m.h5")
    d = some(tmp_path / "d.h5", arrays, [0, 1, 2], (RELU, LAYER))
    with pytest.raises(RequestError, match=r"both have features.layer2.4.relu@2, but only one"):
        merge_stores([a, c, d], tmp_path / "m.h5")


def test_an_image_that_was_changed(tmp_path, arrays):
    a = some(tmp_path / "a.h5", arrays, [0, 1])
    with StoreWriter(tmp_path / "b.h5", [RELU], 2) as writer:
        writer.append(names(2), ["0" * 64, "f" * 64], {RELU.path: arrays[RELU.path][:2]})
        writer.finish(provenance=PROVENANCE)
    with pytest.raises(RequestError, match=r"image katze/00001 ä.jpg has another SHA-256 in each"):
        merge_stores([a, tmp_path / "b.h5"], tmp_path / "m.h5")
    c = some(tmp_path / "c.h5", arrays, [0, 1], (RELU,), columns={"x": [1, 2]})
    d = some(tmp_path / "d.h5", arrays, [1, 0], (LAYER,), columns={"x": [1, 2]})
    with pytest.raises(RequestError, match="column 'x' has other values in each"):
        merge_stores([c, d], tmp_path / "m.h5")
    e = some(tmp_path / "e.h5", arrays, [2, 3], (RELU,), columns={"x": ["1", "2"]})
    with pytest.raises(RequestError, match="column 'x' holds whole numbers and strings"):
        merge_stores([c, e], tmp_path / "m.h5")


def test_files_that_cannot_be_merged(tmp_path, whole, arrays):
    link = tmp_path / "link.h5"
    link.symlink_to(whole)
    (tmp_path / "d").mkdir()
    (tmp_path / "t.h5").write_text("x")
    cases = [
        ([], "no file was given"),
        ("f.h5", "expected a list of files"),
        ([whole, link], "is given twice"),
        ([tmp_path / "no.h5"], "does not exist"),
        ([tmp_path / "t.h5"], "is not an HDF5 file"),
    ]
    for files, message in cases:
        with pytest.raises((RequestError, StoreError), match=message):
            merge_stores(files, tmp_path / "m.h5")
    with pytest.raises(RequestError, match="is one of the files to be merged"):
        merge_stores([whole], link)
    with pytest.raises(RequestError, match="is a folder; name a file"):
        merge_stores([whole], tmp_path / "d")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="pipe is a device or a pipe"):
        merge_stores([whole], tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()
    assert not (tmp_path / "m.h5").exists()


# What is there already, and what is deleted


def test_an_existing_result(tmp_path, whole, arrays):
    parts = split_store(whole, tmp_path / "out", parts=3)
    out = tmp_path / "m.h5"
    merge_stores(parts, out)
    time = out.stat().st_mtime_ns
    assert merge_stores(parts[::-1], out).already_complete
    assert out.stat().st_mtime_ns == time
    with pytest.raises(RequestError, match=r"m.h5 exists and is not the merger .* --overwrite"):
        merge_stores(parts[:2], out, partial=True)
    merge_stores(parts[:2], out, partial=True, overwrite=True)
    assert merge_stores(parts[:2], out, partial=True).already_complete
    a, b = (some(tmp_path / f"{k}.h5", arrays, [k]) for k in (0, 1))
    merge_stores([a, b], out, overwrite=True)
    assert merge_stores([a, b], out).already_complete
    with pytest.raises(RequestError, match="exists and is not the merger"):
        merge_stores([b, a], out)
    out.write_text("mine")
    with pytest.raises(RequestError, match="exists and is not the merger"):
        merge_stores([b, a], out)
    assert out.read_text() == "mine"


def test_after_an_interrupted_deletion_of_parts(tmp_path, whole):
    parts = split_store(whole, tmp_path / "out", parts=3)
    merge_stores(parts, tmp_path / "m.h5")
    parts[0].path.unlink()
    message = (
        r"part-1-of-3.h5 does not exist \(1 of 3 files do not\); .*m.h5 exists: was its merger"
    )
    with pytest.raises(RequestError, match=message):
        merge_stores(parts, tmp_path / "m.h5", delete_parts=True)
    assert parts[1].path.exists()


def test_a_link_is_followed(tmp_path, whole):
    parts = split_store(whole, tmp_path / "out", parts=2)
    (tmp_path / "link.h5").symlink_to(tmp_path / "far.h5")
    merged = merge_stores(parts, tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert everything(tmp_path / "far.h5") == everything(whole)
    assert merged.path == tmp_path / "far.h5"


def test_parts_stay_if_the_result_is_not_what_it_should_be(tmp_path, whole):
    parts = split_store(whole, tmp_path / "out", parts=3)
    with h5py.File(parts[1], "r+") as f:  # changed by someone, with checksums taken out
        f["images/label"][0] = b"z"
        del f["checksums"], f["metadata_checksums"]
    with pytest.raises(
        WorkError, match=r"not those of the file that was split; .*m.h5 was removed, and no part"
    ):
        merge_stores(parts, tmp_path / "m.h5", delete_parts=True)
    assert all(part.path.exists() for part in parts)
    assert not merge_stores(parts, tmp_path / "n.h5").restored


@pytest.mark.parametrize("how", [{"parts": 3}, {"column": "label"}])
def test_a_damaged_part_is_not_deleted(tmp_path, arrays, how):
    layouts = choose_layouts([LAYER], 8)
    whole = write(
        tmp_path / "f.h5", [LAYER], {LAYER.path: arrays[LAYER.path]}, layouts=layouts,
        columns={"label": ["a", "b"] * 18 + ["a"]},
    )  # fmt: skip
    parts = split_store(whole, tmp_path / "out", **how)
    with h5py.File(parts[1]) as f:
        place = f["features"][LAYER.path].id.get_chunk_info(0).byte_offset
    with parts[1].path.open("r+b") as f:
        f.seek(place + 40)
        f.write(b"\x7f")
    with pytest.raises(WorkError, match=r"is damaged: /features/features.layer2.4, rows 0 to 7"):
        merge_stores(parts, tmp_path / "m.h5", delete_parts=True)
    assert all(part.path.exists() for part in parts)
    assert not (tmp_path / "m.h5").exists()  # nobody is to take it for the result


def test_result_that_was_damaged_on_the_way(tmp_path, whole):
    copy = FeatureStream._copy_blocks

    def spoil(stream, source, first, n_blocks):
        yield from copy(stream, source, first, n_blocks)
        stream._dataset[stream._start - 1] += 1

    layouts = choose_layouts([OUTPUT], 8)
    a = tmp_path / "a.h5"
    with open_store(whole) as store, StoreWriter(a, [OUTPUT], N, layouts=layouts) as writer:
        writer.append_store(store)
        writer.finish(provenance=PROVENANCE)
    parts = split_store(a, tmp_path / "b", parts=1)
    with (
        mock.patch.object(FeatureStream, "_copy_blocks", spoil),
        pytest.raises(WorkError, match=r"m.h5 is damaged"),
    ):
        merge_stores(parts, tmp_path / "m.h5", delete_parts=True)
    assert parts[0].path.exists()


def test_more_parts_than_may_be_open(tmp_path, whole):
    with mock.patch("resmem_extract.store.merge._MOST_OPEN", 2):
        parts = split_store(whole, tmp_path / "out", column="score")
        assert len(parts) == N
        assert everything(merge_stores(parts, tmp_path / "m.h5")) == everything(whole)


def test_progress_counts_all_bytes(tmp_path, whole):
    nbytes = N * 4 * (40 * 5 * 3 + 7 + 1)
    for how, passes in (({"parts": 3}, 2), ({"column": "label"}, 3), ({"module": True}, 2)):
        told = []
        parts = split_store(whole, tmp_path / "out", **how)
        merge_stores(
            parts, tmp_path / "m.h5", delete_parts=True, overwrite=True,
            progress=lambda *pair, told=told: told.append(pair),
        )  # fmt: skip
        assert told[-1] == (passes * nbytes, passes * nbytes)
        assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_what_the_user_is_told(tmp_path, arrays):
    a = some(tmp_path / "a.h5", arrays, [0, 1])
    b = some(tmp_path / "b.h5", arrays, [2, 3], provenance={**PROVENANCE, "engine": "hooks"})
    told = []
    merged = merge_stores([a, b], tmp_path / "m.h5", tell=told.append)
    assert told == [
        "2 files of different images, in the order given: 4 images, 1 module",
        "the files differ in engine (graph, hooks): last bits may differ",
    ]
    assert provenance(merged)["merged"][1]["provenance"] == {"engine": "hooks"}


MEMORY = """
    import sys
    import numpy as np
    from resmem_extract.store import StoreWriter
    from resmem_extract.store.merge import merge_stores
    from resmem_extract.store.split import split_store
    from resmem_extract.types import ActivationSpec
    folder, n, column = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "column"
    spec = ActivationSpec("m", "m", (128, 29, 29), ("image", "channel", "height", "width"))
    with StoreWriter(folder + "/f.h5", [spec], n) as writer:
        for i in range(0, n, 8):
            batch = np.full((8, 128, 29, 29), i, "f4")
            writer.append([f"{i}-{j}" for j in range(8)], ["0" * 64] * 8, {"m": batch})
        writer.finish({"label": [i % 3 for i in range(n)]})
    how = {"column": "label"} if column else {"parts": 3}
    parts = split_store(folder + "/f.h5", folder + "/out", **how)
    merge_stores(parts, folder + "/m.h5", delete_parts=True)
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is of /proc")
@pytest.mark.parametrize("how", ["parts", "column"])
def test_memory_does_not_grow_with_images(tmp_path, how):
    def kilobytes(n):
        folder = tmp_path / str(n)
        folder.mkdir()
        return int(run(MEMORY, folder, n, how).stdout)

    few, many = kilobytes(160), kilobytes(480)
    assert many - few < 40_000  # kB; 320 images are 138 MB; the allocator takes some steps
    assert many < 300_000


def test_torch_is_not_needed():
    code = (
        "import sys, resmem_extract.store.merge, resmem_extract.store.split\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
