from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import LAYER, OUTPUT, RELU, N, hashes, make_spec, names, write

from resmem_extract.errors import MissingExtraError, OverflowInDtypeError, RequestError, WorkError
from resmem_extract.partial_files import partial_name
from resmem_extract.store import COMPRESSIONS, StoreWriter, check_column_names, open_store

CHECKSUMS = {"checksums", "metadata_checksums"}


def test_schema_as_plain_h5py_reads_it(store_path, arrays):
    with h5py.File(store_path, "r") as f:
        assert f.attrs["format"] == "resmem-extract"
        assert f.attrs["format_version"] == 1
        assert f.attrs["complete"]
        assert set(f) == {"features", "images", "skipped", "provenance", *CHECKSUMS}
        d = f["features/features.layer2.4"]
        assert d.dtype == np.dtype("<f4")
        np.testing.assert_array_equal(d[()], arrays[LAYER.path])
        assert d.attrs["module"] == "features.layer2.4"
        assert d.attrs["requested"] == "features.5.4"
        assert d.attrs["index_path"] == "features.5.4"
        assert (d.attrs["call"], d.attrs["calls"]) == (0, 1)
        assert json.loads(d.attrs["axes"]) == ["image", "channel", "height", "width"]
        assert json.loads(d.attrs["reduce"]) == {"pool": "none", "flatten": False}
        assert isinstance(f["features"].get("features.5.4", getlink=True), h5py.SoftLink)
        assert f["features/features.5.4"] == d
        assert f["features/memorability"].shape == (N, 1)
        for name in ("images/id", "images/sha256", "images/label", "skipped/id", "skipped/reason"):
            assert h5py.check_string_dtype(f[name].dtype).length is not None, name
        assert h5py.check_string_dtype(f["images/id"].dtype).encoding == "utf-8"
        assert h5py.check_string_dtype(f["images/sha256"].dtype) == ("ascii", 64)
        assert f["images/id"].asstr()[:].tolist() == names(N)
        assert f["images/sha256"].asstr()[:].tolist() == hashes(N)
        assert f["images/score"].dtype == np.float64
        assert f["images/row"].dtype == np.int64
        assert f["images/seen"].dtype == np.bool_
        assert f["images/label"].asstr()[1] == "Hündin"
        assert f["skipped/id"].asstr()[:].tolist() == ["kaputt ü.jpg"]
        assert f["provenance"].shape == ()
        assert json.loads(f["provenance"][()])["command"] == "extract --images Bücher"
        assert f["provenance"].asstr()[()].startswith("{")


def test_no_skipped_group_unless_asked_for(tmp_path, arrays):
    path = write(tmp_path / "f.h5", [OUTPUT], {"output": arrays["output"]})
    with h5py.File(path, "r") as f:
        assert set(f) == {"features", "images", "provenance", *CHECKSUMS}
    path = write(tmp_path / "g.h5", [OUTPUT], {"output": arrays["output"]}, skipped=[])
    with h5py.File(path, "r") as f:
        assert f["skipped/id"].shape == (0,)


def test_raw_chunks_can_be_copied(store_path, tmp_path, arrays):
    with h5py.File(store_path) as f, h5py.File(tmp_path / "copy.h5", "w") as g:
        for spec in (LAYER, RELU, OUTPUT):
            d = f["features"][spec.path]
            e = g.create_dataset(spec.path, d.shape, d.dtype, chunks=d.chunks)

            def copy(info, d=d, e=e):
                mask, data = d.id.read_direct_chunk(info.chunk_offset)
                e.id.write_direct_chunk(info.chunk_offset, data, mask)

            d.id.chunk_iter(copy)
            np.testing.assert_array_equal(e[()], arrays[spec.path])


shapes = st.lists(st.integers(1, 9), max_size=3).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    n=st.integers(1, 40),
    missing=st.integers(0, 12),
    dtype=st.sampled_from(["float32", "float16"]),
    compression=st.sampled_from([None, *COMPRESSIONS]),
    target=st.sampled_from([16, 256, 4096, 2**20]),
    splits=st.lists(st.integers(0, 17), max_size=6),
    order=st.sampled_from("CF"),
)
def test_what_was_appended_is_read_back(
    tmp_path_factory, shape, n, missing, dtype, compression, target, splits, order
):
    path = tmp_path_factory.mktemp("w") / "f.h5"
    spec = make_spec("m", shape, dtype=dtype)
    values = np.random.default_rng(n).standard_normal((n, *shape)).astype("f4", order=order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resmem_extract.store.chunks.TARGET_BYTES", target)
        with StoreWriter(path, [spec], n + missing, compression=compression) as writer:
            start = 0
            for size in [*splits, n]:
                rows = slice(start, min(start + size, n))
                writer.append(names(n)[rows], hashes(n)[rows], {"m": values[rows]})
                start = rows.stop
            writer.finish()
    with h5py.File(path, "r") as f:
        np.testing.assert_array_equal(f["features/m"][()], values.astype(dtype))
        assert f["images/id"].asstr()[:].tolist() == names(n)
    with open_store(path) as store:
        np.testing.assert_array_equal(store["m"][:], values.astype(dtype))
        np.testing.assert_array_equal(store["m"][[n - 1, 0]], values.astype(dtype)[[n - 1, 0]])


def test_store_without_rows(tmp_path):
    with StoreWriter(tmp_path / "f.h5", [OUTPUT], 5) as writer:
        writer.finish(columns={"label": [], "x": np.array([])}, skipped=[("a", "b")])
    with open_store(tmp_path / "f.h5") as store:
        assert len(store) == 0
        assert store["output"][:].shape == (0, 1)
        assert store.image_ids.tolist() == store.columns["label"].tolist() == []


def test_nothing_under_the_final_name_before_finish(tmp_path):
    path = tmp_path / "f.h5"
    with StoreWriter(path, [OUTPUT], 2) as writer:
        writer.append(["a"], ["0" * 64], {"output": np.ones((1, 1), "f4")})
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".f.h5.") and partial.name.endswith(".partial")
        writer.finish()
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_writing_leaves_nothing(tmp_path, error):
    with pytest.raises(error), StoreWriter(tmp_path / "f.h5", [OUTPUT], 2) as writer:
        writer.append(["a"], ["0" * 64], {"output": np.ones((1, 1), "f4")})
        raise error
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_older_file(store_path):
    before = store_path.read_bytes()
    with pytest.raises(OverflowInDtypeError), StoreWriter(store_path, [HALF], 2) as writer:
        writer.append(["a"], ["0" * 64], {"h": np.full((1, 3), 1e6, "f4")})
    assert store_path.read_bytes() == before


def test_leftovers_of_a_killed_run_are_removed(tmp_path, arrays):
    code = (
        "import sys, pathlib, resmem_extract.partial_files as p\n"
        "for name in ('f.h5', 'g.h5'): p.partial_name(pathlib.Path(sys.argv[1], name)).touch()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    kept = [partial_name(tmp_path / "f.h5"), tmp_path / ".f.h5.1-00000000.partial"]
    kept += tmp_path.glob(".g.h5.*")
    for path in kept:  # of a living process, of another machine, of another file
        path.touch()
    path = write(tmp_path / "f.h5", [OUTPUT], {"output": arrays["output"]})
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])
    with open_store(path) as store:
        np.testing.assert_array_equal(store["output"], arrays["output"])


def test_new_folders_go_with_a_failure(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyError), StoreWriter(tmp_path / "old/a/b/f.h5", [OUTPUT], 2):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


HALF = make_spec("h", (3,), dtype="float16")


def test_float16_overflow_names_module_and_value(tmp_path):
    with StoreWriter(tmp_path / "f.h5", [HALF], 4) as writer:
        writer.append(["a"], ["0" * 64], {"h": np.float32([[np.inf, np.nan, 65504]])})
        with pytest.raises(OverflowInDtypeError, match=r"^h: -70000 does not fit.*float32"):
            writer.append(["b"], ["1" * 64], {"h": np.float32([[1, -70000, np.inf]])})


@pytest.mark.parametrize(
    ("ids", "sha256s", "values", "words"),
    [
        (["a"], [], np.ones((1, 1), "f4"), "1 ids and 0 hashes"),
        (["a"], ["0"], np.ones((2, 1), "f4"), r"got shape \(2, 1\), expected \(1, 1\)"),
        (["a"], ["0"], np.ones((1, 1), "f8"), "got float64, expected float32"),
        (["a"] * 3, ["0"] * 3, np.ones((3, 1), "f4"), "more than the 2 rows"),
    ],
)
def test_wrong_batches(tmp_path, ids, sha256s, values, words):
    with StoreWriter(tmp_path / "f.h5", [OUTPUT], 2) as writer:
        with pytest.raises(ValueError, match=words):
            writer.append(ids, sha256s, {"output": values})
        with pytest.raises(ValueError, match="expected"):
            writer.append([], [], {"other": values})
        assert writer.n_written == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1]}, "1 values, 0 rows"),
        ({"id": []}, "one of that name"),
    ],
)
def test_wrong_columns(tmp_path, columns, words):
    with (
        pytest.raises(ValueError, match=words),
        StoreWriter(tmp_path / "f.h5", [OUTPUT], 2) as writer,
    ):
        writer.finish(columns=columns)
    assert list(tmp_path.iterdir()) == []


def test_mixed_column(tmp_path, arrays):
    with pytest.raises(ValueError, match="'x' holds values other than"):
        write(
            tmp_path / "f.h5",
            [OUTPUT],
            {"output": arrays["output"]},
            columns={"x": np.array([None, "a"] * 18 + [1], dtype=object)},
        )


@pytest.mark.parametrize("names", [["id"], ["a", "row"], ["sha256"], ["x", "x"]])
def test_column_names_are_checked_early(names):
    with pytest.raises(RequestError, match="rename it"):
        check_column_names(names)
    check_column_names(["label", "score", ""])


def test_awkward_names(tmp_path, arrays):
    specs = [
        make_spec("a/b", (1,), links=("x/y", ".", "a/b")),
        make_spec("c", (1,), links=("résumé [0]@1",)),
    ]
    data = {"a/b": arrays["output"], "c": -arrays["output"]}
    columns = {"": np.arange(N), "H/FA": np.arange(N)}
    with open_store(write(tmp_path / "f.h5", specs, data, columns=columns)) as store:
        assert store.modules == ("a/b", "c")
        for name in ("a/b", "x/y", "."):
            np.testing.assert_array_equal(store[name], arrays["output"])
        np.testing.assert_array_equal(store["résumé [0]@1"], -arrays["output"])
        assert store.columns["H/FA"].tolist() == list(range(N))


def test_one_alias_for_two_modules(tmp_path):
    specs = [make_spec("a", (1,), links=("x",)), make_spec("b", (1,), links=("x",))]
    with (
        pytest.raises(ValueError, match="'x' cannot stand for 'b'"),
        StoreWriter(tmp_path / "f.h5", specs, 1),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unknown_compression(tmp_path):
    with pytest.raises(RequestError, match="'zip' is not known; use one of bitshuffle-lz4"):
        StoreWriter(tmp_path / "f.h5", [OUTPUT], 1, compression="zip")


def test_compression_without_the_plugin(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[compression\]'"):
        StoreWriter(tmp_path / "f.h5", [OUTPUT], 1, compression="bitshuffle-lz4")


def test_folder_as_name_and_missing_folders(tmp_path, arrays):
    with pytest.raises(RequestError, match="is a folder"), StoreWriter(tmp_path, [OUTPUT], 1):
        pass
    path = write(tmp_path / "a" / "b" / "f.h5", [OUTPUT], {"output": arrays["output"]})
    assert path.is_file()
    with (
        pytest.raises(RequestError, match="cannot be written"),
        StoreWriter(path / "f.h5", [OUTPUT], 1),
    ):
        pass


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )


FULL = """
    import resource, sys
    import numpy as np
    from resmem_extract.errors import WorkError
    from resmem_extract.store import StoreWriter
    from resmem_extract.types import ActivationSpec
    spec = ActivationSpec("m", "m", (64, 32, 32), ("image", "channel", "height", "width"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    batch = np.ones((16, 64, 32, 32), "f4")
    compression = sys.argv[2] if sys.argv[2] != "None" else None
    try:
        with StoreWriter(sys.argv[1], [spec], 64, compression=compression) as writer:
            for i in range(4):
                writer.append([f"{i}-{j}" for j in range(16)], ["0" * 64] * 16, {"m": batch})
            writer.finish()
    except WorkError as error:
        print(error)
"""


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("limit", [6_000_000, 10_000])
def test_full_disk(tmp_path, compression, limit):
    done = run(FULL, tmp_path / "f.h5", compression, limit)
    if compression and limit > 10_000:
        assert done.stdout == ""  # ones compress well
        return
    assert done.returncode == 0, done.stderr
    assert "f.h5 failed after" in done.stdout and "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 500, 1500, 3000])
def test_a_disk_that_is_full_at_the_end(tmp_path, missing):
    """Where ids and provenance are written: HDF5's own buffer would swallow what fails there."""
    assert run(FULL, tmp_path / "whole.h5", None, 10**8).stdout == ""
    size = (tmp_path / "whole.h5").stat().st_size
    done = run(FULL, tmp_path / "f.h5", None, size - missing)
    assert "f.h5 failed after 64 images: File too large" in done.stdout
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert not (tmp_path / "f.h5").exists()


MEMORY = """
    import sys
    import numpy as np
    from resmem_extract.store import StoreWriter
    from resmem_extract.types import ActivationSpec
    spec = ActivationSpec("m", "m", (128, 29, 29), ("image", "channel", "height", "width"))
    n = int(sys.argv[2])
    batch = np.ones((12, 128, 29, 29), "f4")
    with StoreWriter(sys.argv[1], [spec], n) as writer:
        for i in range(0, n, 12):
            writer.append([f"{i}-{j}" for j in range(12)], ["0" * 64] * 12, {"m": batch})
        writer.finish()
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is of /proc")
def test_memory_does_not_grow_with_images(tmp_path):
    few, many = (int(run(MEMORY, tmp_path / "f.h5", n).stdout) for n in (120, 480))
    assert many - few < 8_000  # kB; 360 images are 155 MB


def test_work_error_is_one_line(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    words = r"f\.h5 failed after 0 images: Input/output error; [^\n]*$"
    with (
        pytest.raises(WorkError, match=words),
        StoreWriter(tmp_path / "f.h5", [OUTPUT], 2) as writer,
    ):
        writer.finish()
    assert list(tmp_path.iterdir()) == []
