"""Exports, read back by the programs that they are for."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import LAYER, OUTPUT, RELU, N, hashes, make_spec, names, write

from resmem_extract.errors import MissingExtraError, RequestError, UnknownModuleError, WorkError
from resmem_extract.store import choose_layouts, open_store
from resmem_extract.store.export import export_store
from resmem_extract.store.torch_file import tensor_file

SPECS = (LAYER, RELU, OUTPUT)


@pytest.fixture
def arrays(arrays):
    """Half of the values zero, as a ReLU leaves them."""
    return {module: np.maximum(values, 0) for module, values in arrays.items()}


@pytest.fixture
def whole(tmp_path, arrays):
    return write(
        tmp_path / "f.h5", SPECS, arrays, layouts=choose_layouts(SPECS, 8),
        columns={"label": ["Katze", "Hündin,"] * 18 + ["x"], "score": np.arange(N) / 3},
        provenance={"model": "resmem", "command": "extract --images Bücher"},
    )  # fmt: skip


def found(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_npy(tmp_path, whole, arrays):
    told = []
    out = tmp_path / "out"
    results = export_store(whole, out, progress=lambda *pair: told.append(pair))
    assert found(out) == sorted(
        [*(f"f.{spec.path}.npy" for spec in SPECS), "f.images.csv", "f.provenance.json"]
    )
    for result, spec in zip(results, SPECS, strict=False):
        assert result.modules == (spec.path,)
        loaded = np.load(result.path, mmap_mode="r")
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, arrays[spec.path])
    assert told[-1] == (4 * N * 608, 4 * N * 608)


def test_table_and_provenance(tmp_path, whole):
    export_store(whole, tmp_path, modules="output")
    with (tmp_path / "f.images.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image_id"] for row in rows] == names(N)
    assert [row["sha256"] for row in rows] == hashes(N)
    assert [row["label"] for row in rows] == ["Katze", "Hündin,"] * 18 + ["x"]
    assert [float(row["score"]) for row in rows] == [k / 3 for k in range(N)]
    text = (tmp_path / "f.provenance.json").read_text(encoding="utf-8")
    assert json.loads(text)["command"] == "extract --images Bücher"
    assert "Bücher" in text


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("memorability", ["output"]),
        (["features.5.4.6", "features.5.4"], [RELU.path, LAYER.path]),
        ("features.**", [LAYER.path, RELU.path]),
        (["output", "memorability", "**"], ["output", LAYER.path, RELU.path]),
    ],
)
def test_modules_in_any_form(tmp_path, whole, asked, expected):
    results = export_store(whole, tmp_path / "out", modules=asked)
    assert [module for result in results for module in result.modules] == expected


def test_mat_as_matlab_reads_it(tmp_path, whole, arrays):
    mat73 = pytest.importorskip("mat73")
    results = export_store(whole, tmp_path / "out", format="mat")
    for result, spec in zip(results, SPECS, strict=False):
        assert result.path.name == f"f.{spec.path}.mat"
        data = mat73.loadmat(result.path)
        assert set(data) == {"activations", "image_id", "module"}
        # mat73 drops axes of one element, MATLAB does not: h5py tells below.
        np.testing.assert_array_equal(data["activations"], arrays[spec.path].squeeze())
        assert data["image_id"].split("\n") == names(N)
        assert data["module"] == spec.path
        header = result.path.read_bytes()[:128]
        assert header.startswith(b"MATLAB 7.3 MAT-file")
        assert header[124:] == b"\x00\x02IM"
        with h5py.File(result.path) as f:
            stored = f["activations"]
            assert stored.shape == arrays[spec.path].shape[::-1]
            assert stored.attrs["MATLAB_class"] == b"single"
            np.testing.assert_array_equal(stored[()].T, arrays[spec.path])


def test_mat_of_scalars_and_half_precision(tmp_path, rng):
    specs = [make_spec("s", (), dtype="float16"), make_spec("v", (3,), dtype="float16")]
    values = {
        "s": rng.standard_normal(5).astype("f2"), "v": rng.standard_normal((5, 3)).astype("f2")
    }  # fmt: skip
    whole = write(tmp_path / "f.h5", specs, values)
    s, v, *_ = export_store(whole, tmp_path / "out", format="mat")
    with h5py.File(s.path) as f, h5py.File(v.path) as g:
        assert f["activations"].dtype == g["activations"].dtype == np.float32
        np.testing.assert_array_equal(f["activations"][()].T, values["s"][:, None])
        np.testing.assert_array_equal(g["activations"][()].T, values["v"])


def test_pt_as_torch_reads_it(tmp_path, whole, arrays):
    results = export_store(whole, tmp_path / "out", format="pt")
    for result, spec in zip(results, SPECS, strict=False):
        assert result.path.name == f"f.{spec.path}.pt"
        loaded = torch.load(result.path, weights_only=True)
        assert (loaded.dtype, loaded.is_contiguous()) == (torch.float32, True)
        np.testing.assert_array_equal(loaded.numpy(), arrays[spec.path])
        if "mmap" in inspect.signature(torch.load).parameters:
            mapped = torch.load(result.path, weights_only=True, mmap=True)
            assert torch.equal(mapped, loaded)
            assert mapped.data_ptr() % 64 == 0
        torch.save(loaded, tmp_path / "own.pt")
        assert torch.equal(torch.load(tmp_path / "own.pt", weights_only=True), loaded)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 300), max_size=3), half=st.booleans())
def test_any_tensor_is_torchs(shape, half):
    dtype = np.dtype("<f2" if half else "<f4")
    values = np.arange(np.prod(shape, dtype=int) % 10_000 or 1).astype(dtype)
    values = np.resize(values, shape)
    stream = io.BytesIO()
    with tensor_file(stream, values.shape, dtype) as data:
        data.write(values.tobytes())
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    assert (tuple(loaded.shape), loaded.numpy().dtype) == (values.shape, dtype)
    np.testing.assert_array_equal(loaded.numpy(), values)


def test_txt_brings_back_the_very_numbers(tmp_path, whole, arrays):
    results = export_store(whole, tmp_path / "out", format="txt", modules=[RELU.path, "output"])
    for result, spec in zip(results, (RELU, OUTPUT), strict=False):
        loaded = np.loadtxt(result.path, dtype=np.float32, ndmin=2)
        np.testing.assert_array_equal(loaded, arrays[spec.path])
    with pytest.raises(RequestError, match=r"40 x 5 x 3 values an image.*--flatten"):
        export_store(whole, tmp_path / "maps", format="txt")
    assert not (tmp_path / "maps").exists()


def test_zarr_as_xarray_reads_it(tmp_path, whole, arrays):
    zarr, xarray = pytest.importorskip("zarr"), pytest.importorskip("xarray")
    (result, *_) = export_store(whole, tmp_path / "out", format="zarr")
    assert result.path.name == "f.zarr"
    assert result.modules == tuple(spec.path for spec in SPECS)
    group = zarr.open_group(str(result.path), mode="r")
    assert group.attrs["provenance"]["model"] == "resmem"
    assert group[LAYER.path].chunks == (8, 40, 5, 3)
    with open_store(whole) as store, xarray.open_zarr(result.path) as opened:
        expected = store.to_xarray().load()
        assert set(opened) == set(expected)
        for module in expected:
            assert opened[module].dims == expected[module].dims
            np.testing.assert_array_equal(opened[module].values, arrays[module])
        for name in ("image", "label", "score"):
            np.testing.assert_array_equal(opened[name].values, expected[name].values)


@pytest.mark.parametrize(
    "format", ["npy", "mat", "pt", pytest.param("zarr", marks=pytest.mark.needs("zarr"))]
)
def test_existing_files(tmp_path, whole, format):
    out = tmp_path / "out"
    export_store(whole, out, format=format)
    before = found(out)
    with pytest.raises(RequestError, match=r"exists; use --overwrite"):
        export_store(whole, out, format=format)
    export_store(whole, out, format=format, overwrite=True)
    assert found(out) == before


def test_another_format_beside_an_export(tmp_path, whole):
    """The table of images and the provenance are those that lie there, or are left alone."""
    out = tmp_path / "out"
    export_store(whole, out, format="npy")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    export_store(whole, out, format="mat")
    assert {name: (out / name).read_bytes() for name in before} == before
    arrays = [name for name in before if name.endswith(".npy")]
    assert set(found(out)) - before.keys() == {f"{Path(name).stem}.mat" for name in arrays}
    (out / "f.images.csv").write_text("image_id\n")
    with pytest.raises(RequestError, match=r"f\.images\.csv exists; use --overwrite"):
        export_store(whole, out, format="pt")


@pytest.mark.parametrize(
    "format", ["npy", "mat", "pt", "txt", pytest.param("zarr", marks=pytest.mark.needs("zarr"))]
)
def test_damage_is_not_exported(tmp_path, whole, format):
    with h5py.File(whole) as f:
        place = f["features/output"].id.get_chunk_info(2).byte_offset
    with whole.open("r+b") as f:
        f.seek(place + 2)
        f.write(b"\x7f")
    with pytest.raises(WorkError, match=r"f.h5 is damaged: /features/output, rows 16 to 23"):
        export_store(whole, tmp_path / "out", format=format, modules="output")
    assert found(tmp_path) == ["f.h5"]


def test_refusals(tmp_path, whole):
    with pytest.raises(RequestError, match=r"no format 'npz'; did you mean npy\?"):
        export_store(whole, tmp_path / "out", format="npz")
    with pytest.raises(RequestError, match="no format 'csv'; it is one of mat, npy, pt, txt, zarr"):
        export_store(whole, tmp_path / "out", format="csv")
    with pytest.raises(UnknownModuleError, match="did you mean features"):
        export_store(whole, tmp_path / "out", modules="features.layr2.4")
    with pytest.raises(RequestError, match="is a file; an export needs a folder"):
        export_store(whole, whole)
    empty = write(tmp_path / "e.h5", [OUTPUT], {"output": np.zeros((0, 1), "f4")})
    with pytest.raises(RequestError, match="has no images"):
        export_store(empty, tmp_path / "out")
    assert found(tmp_path) == ["e.h5", "f.h5"]
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "f.output.npy")
    with pytest.raises(RequestError, match=r"f\.output\.npy is a device or a pipe"):
        export_store(whole, tmp_path / "out", modules="output", overwrite=True)


def test_without_zarr(tmp_path, whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[zarr\]'"):
        export_store(whole, tmp_path / "out", format="zarr")
    assert found(tmp_path) == ["f.h5"]


def test_a_full_disk(tmp_path, whole):
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(WorkError, match=r"f.features.layer2.4.npy cannot be written: No space left"),
    ):
        export_store(whole, tmp_path / "out")
    assert found(tmp_path) == ["f.h5"]


MEMORY = """
import sys
import numpy as np
from resmem_extract.store import StoreWriter, export_store
from resmem_extract.types import ActivationSpec
folder, n = sys.argv[1], int(sys.argv[2])
spec = ActivationSpec("m", "m", (128, 29, 29), ("image", "channel", "height", "width"))
with StoreWriter(folder + "/f.h5", [spec], n) as writer:
    for i in range(0, n, 8):
        batch = np.full((8, 128, 29, 29), i, "f4")
        writer.append([f"{i}-{j}" for j in range(8)], ["0" * 64] * 8, {"m": batch})
    writer.finish()
export_store(folder + "/f.h5", folder, format=sys.argv[3])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is of /proc")
@pytest.mark.parametrize(
    "format", ["npy", "mat", "pt", pytest.param("zarr", marks=pytest.mark.needs("zarr"))]
)
def test_memory_does_not_grow_with_images(tmp_path, format):
    def kilobytes(n):
        folder = tmp_path / str(n)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(folder), str(n), format],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many = kilobytes(80), kilobytes(320)
    assert many - few < 40_000  # 240 images are 103 MB; the allocator takes some steps
    assert many < 300_000
