"""The main job, in process: numbers, rows, reductions, repeated and refused requests."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pictures import NAMES, draw
from torch import nn

import resmem_extract as rx
from resmem_extract.errors import (
    ImageError,
    OverflowInDtypeError,
    RequestError,
    UnknownModelError,
    UnknownModuleError,
    WeightsError,
    WorkError,
)
from resmem_extract.weights import LocatedWeights


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- numbers ---


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_activations_are_those_of_the_pypi_package(tmp_path, photos, resmem, oracle, engine):
    out = tmp_path / "f.h5"
    modules = ["features.5.4", "conv1", "resnet_layers[154]", "memorability"]
    summary = rx.extract(resmem, modules, photos, out=out, engine=engine, batch_size=2)
    want = oracle(
        [photos / n for n in NAMES], "features.layer2.4", "conv1", "features.layer4.2.conv2"
    )
    assert summary.engine == {"auto": "fused"}.get(engine, engine)
    with rx.open_store(out) as store:
        assert deviation(store["features.5.4"][:], want["features.layer2.4"]) < 1e-5
        assert deviation(store["conv1"][:], want["conv1"]) < 1e-5
        assert store["conv1"][:].min() < 0  # a later in-place ReLU has not reached it
        assert np.abs(store["memorability"][:] - want["output"]).max() < 1e-6
        assert store["resnet_layers[154]"].shape[0] == len(NAMES)


def test_reductions_and_dtype_are_those_of_numpy(tmp_path, photos, resmem):
    def stored(**options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        out = tmp_path / "r.h5"
        rx.extract(resmem, "conv1", photos, out=out, overwrite=True, **options)
        with h5py.File(out) as file:
            return file["features/conv1"][:], dict(file["features/conv1"].attrs)

    full, attributes = stored()
    assert (full.shape, full.dtype) == ((5, 48, 55, 55), np.float32)
    assert attributes["axes"] == '["image", "channel", "height", "width"]'
    pooled, attributes = stored(pool="avg")
    np.testing.assert_allclose(pooled, full.mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert attributes["axes"] == '["image", "channel"]'
    assert attributes["reduce"] == '{"pool": "avg", "flatten": false}'
    assert np.array_equal(stored(pool="max")[0], full.max((2, 3)))
    assert np.array_equal(stored(flatten=True)[0], full.reshape(5, -1))
    half = stored(dtype="float16")[0]
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))
    assert np.array_equal(stored(compression="bitshuffle-lz4")[0], full)


# --- rows ---


def test_a_folder_is_sorted_and_labelled(tmp_path, resmem):
    for seed, name in enumerate(("z/1.png", "b.png", "a/2.png")):
        draw(tmp_path / "in" / name, seed)
    rx.extract(resmem, "conv1", tmp_path / "in", out=tmp_path / "f.h5", pool="avg")
    with rx.open_store(tmp_path / "f.h5") as store:
        assert store.image_ids.tolist() == ["a/2.png", "b.png", "z/1.png"]
        assert store.columns["label"].tolist() == ["a", "", "z"]
        assert store.sha256.tolist() == [digest(tmp_path / "in" / i) for i in store.image_ids]


def test_rows_follow_a_csv_and_a_list(tmp_path, photos, resmem):
    def stored(source: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
        out = tmp_path / f"{source.name}.h5"
        rx.extract(resmem, "conv1", source, out=out, pool="avg", batch_size=1)
        with rx.open_store(out) as store:
            columns = {name: store.columns[name].tolist() for name in store.columns}
            return store.image_ids.tolist(), store["conv1"][:], columns

    table = tmp_path / "t.csv"
    table.write_text("path,image_id,rating\nphotos/d.png,D,0.5\nphotos/a.jpg,A,1\n")
    listing = tmp_path / "l.txt"
    listing.write_text("photos/d.png\nphotos/a.jpg\n")
    _, every, _ = stored(photos)
    ids, rows, columns = stored(table)
    assert (ids, columns) == (["D", "A"], {"rating": [0.5, 1.0]})
    assert np.array_equal(rows, every[[3, 0]])
    ids, listed, columns = stored(listing)
    assert (ids, columns) == (["photos/d.png", "photos/a.jpg"], {})
    assert np.array_equal(listed, rows)


def test_skipped_images_change_no_other_row(tmp_path, photos, resmem):
    rx.extract(resmem, "conv1", photos, out=tmp_path / "all.h5", batch_size=2)
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:200])
    (photos / "c.jpg").write_text("no image")
    told: list[tuple[int, int]] = []
    summary = rx.extract(
        resmem,
        "conv1",
        photos,
        out=tmp_path / "some.h5",
        batch_size=2,
        on_error="skip",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert (summary.images, [i for i, _ in summary.skipped]) == (3, ["b.png", "c.jpg"])
    with rx.open_store(tmp_path / "all.h5") as every, rx.open_store(tmp_path / "some.h5") as some:
        assert some.image_ids.tolist() == ["a.jpg", "d.png", "e.jpg"]
        assert deviation(some["conv1"][:], every["conv1"][:][[0, 3, 4]]) < 1e-6
        assert some.skipped[1] == ("c.jpg", summary.skipped[1][1])
        assert "not an image" in some.skipped[1][1]


def test_an_image_that_cannot_be_read_stops_the_run_and_leaves_nothing(tmp_path, photos, resmem):
    (photos / "d.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^d\.png: the file is empty; --on-error skip leaves out"):
        rx.extract(resmem, "conv1", photos, out=tmp_path / "f.h5", batch_size=1)
    assert entries(tmp_path) == ["photos"]
    for name in NAMES:
        (photos / name).write_bytes(b"")
    with pytest.raises(WorkError, match="none of 5 images can be read"):
        rx.extract(resmem, "conv1", photos, out=tmp_path / "f.h5", on_error="skip")
    assert entries(tmp_path) == ["photos"]


# --- a result that exists ---


@pytest.fixture
def made(tmp_path, photos, resmem) -> Path:
    rx.extract(resmem, "features.conv1", photos, out=tmp_path / "f.h5", pool="avg")
    return tmp_path / "f.h5"


def test_the_very_same_request_is_complete(made, photos, resmem):
    before = made.read_bytes(), made.stat().st_mtime_ns
    summary = rx.extract(resmem, "features.conv1", photos, out=made, pool="avg")
    assert (summary.already_complete, summary.images, summary.seconds) == (True, 5, 0.0)
    assert (made.read_bytes(), made.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("modules", "options", "difference"),
    [
        ("conv1", {}, "modules: features.conv1 only there, conv1 only asked"),
        ("features.conv1", {"dtype": "float16"}, "float32 (64,) there, float16 (64,) asked"),
        ("features.conv1", {"pool": "none"}, "(64,) there, float32 (64, 114, 114) asked"),
        ("features.conv1", {"exif_orientation": True}, "exif orientation: False there, True asked"),
        ("features.conv1", {"engine": "hooks"}, "engine: fused there, hooks asked"),
        ("features.conv1", {"batch_size": 3}, " there, 3 asked"),
        ("features.0", {}, "features.conv1: is not named features.0 there"),
    ],
)
def test_another_request_is_refused(made, photos, resmem, modules, options, difference):
    before = made.read_bytes()
    with pytest.raises(RequestError) as caught:
        rx.extract(resmem, modules, photos, out=made, **{"pool": "avg", **options})
    assert difference in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert made.read_bytes() == before
    assert entries(made.parent) == ["f.h5", "photos"]


def test_other_images_are_refused(made, photos, resmem):
    def refusal() -> str:
        with pytest.raises(RequestError) as caught:
            rx.extract(resmem, "features.conv1", photos, out=made, pool="avg")
        return str(caught.value)

    draw(photos / "a.jpg", 99)
    assert "images: the same ids, but other contents" in refusal()
    (photos / "a.jpg").unlink()
    assert "images: 5 there, 4 asked" in refusal()


def test_other_weights_are_refused(made, photos, resmem):
    other = replace(resmem)
    other.__dict__["state_dict_sha256"] = "0" * 64
    with pytest.raises(RequestError, match=r"state dict sha256: 882d07533c09\.\.\. there, 0000"):
        rx.extract(other, "features.conv1", photos, out=made, pool="avg")


def test_other_columns_are_refused(tmp_path, photos, resmem):
    table, out = tmp_path / "t.csv", tmp_path / "f.h5"

    def run(text: str) -> rx.ExtractSummary:
        table.write_text(text)
        return rx.extract(resmem, "conv1", table, out=out, pool="avg")

    run("path,x\nphotos/a.jpg,1.5\nphotos/b.png,\n")
    assert run("path,x\nphotos/a.jpg,1.5\nphotos/b.png,\n").already_complete
    with pytest.raises(RequestError, match="other values in the columns x"):
        run("path,x\nphotos/a.jpg,1.5\nphotos/b.png,2\n")
    with pytest.raises(RequestError, match="columns: x there, y asked"):
        run("path,y\nphotos/a.jpg,1.5\nphotos/b.png,\n")


def test_skipped_images_are_part_of_the_request(tmp_path, photos, resmem):
    intact = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(b"")

    def run(on_error: str) -> rx.ExtractSummary:
        return rx.extract(
            resmem, "conv1", photos, out=tmp_path / "f.h5", pool="avg", on_error=on_error
        )

    first = run("skip")
    again = run("skip")
    assert (again.already_complete, again.skipped) == (True, first.skipped)
    with pytest.raises(RequestError, match="1 image was skipped there"):
        run("stop")
    (photos / "b.png").write_bytes(intact)
    with pytest.raises(RequestError, match=r"b\.png was skipped there and can be read now"):
        run("skip")


def test_overwrite_replaces(made, photos, resmem):
    assert not rx.extract(resmem, "conv1", photos, out=made, overwrite=True).already_complete
    with rx.open_store(made) as store:
        assert store.modules == ("conv1",)


def test_a_foreign_file_is_left_alone(tmp_path, photos, resmem):
    out = tmp_path / "f.h5"
    out.write_text("my thesis")
    with pytest.raises(RequestError, match="--overwrite replaces it"):
        rx.extract(resmem, "conv1", photos, out=out)
    assert out.read_text() == "my thesis"
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["x"] = 1
    before = (tmp_path / "g.h5").read_bytes()
    with pytest.raises(RequestError, match="--overwrite replaces it"):
        rx.extract(resmem, "conv1", photos, out=tmp_path / "g.h5")
    assert (tmp_path / "g.h5").read_bytes() == before


# --- what is refused ---


@pytest.mark.parametrize(
    ("modules", "options", "error", "message"),
    [
        ("features.layr2", {}, UnknownModuleError, "features has children conv1 to fc|layer2"),
        ("conv11", {}, UnknownModuleError, "did you mean conv1"),
        ("drp7", {}, UnknownModuleError, "'drp7' exists, but the forward pass never calls it"),
        ("features.layer1.0.relu@7", {}, UnknownModuleError, "3 times; expected @0 to @2"),
        ("@7", {}, RequestError, "no module '@7'"),
        ("zzz.*", {}, UnknownModuleError, "no module matches"),
        ([], {}, RequestError, "no module was asked for"),
        ("conv1", {"dtype": "float64"}, RequestError, "dtype 'float64': should be 'float32' or"),
        ("conv1", {"pool": "median"}, RequestError, "'none', 'avg' or 'max'"),
        ("conv1", {"batch_size": 0}, RequestError, "batch_size 0: should be greater than 0"),
        ("conv1", {"workers": -1}, RequestError, "workers -1: should be greater than or"),
        ("conv1", {"batchsize": 1}, RequestError, "'batchsize'; did you mean batch_size"),
        ("conv1", {"device": "tpu"}, RequestError, "expected auto, cpu, cuda"),
        ("conv1", {"device": "cuda:77"}, RequestError, "not on this machine, which has: cpu"),
        ("conv1", {"engine": "fast"}, RequestError, "'graph', 'hooks' or 'reference'"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, photos, resmem, modules, options, error, message):
    with pytest.raises(error, match=message) as caught:
        rx.extract(resmem, modules, photos, out=tmp_path / "f.h5", **options)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()
    assert entries(tmp_path) == ["photos"]


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path, photos):
    with pytest.raises(UnknownModelError, match="no model 'resmen': did you mean resmem"):
        rx.extract("resmen", "conv1", photos, out=tmp_path / "f.h5")


def test_missing_and_corrupt_weights(tmp_path, photos, monkeypatch):
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESMEM_EXTRACT_WEIGHTS", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("resmem_extract.weights._in_distribution", lambda _record: [])
        with pytest.raises(WeightsError, match=r"no weights of resmem .*get_weights\.sh"):
            rx.extract("resmem", "conv1", photos, out=tmp_path / "f.h5")
    garbage = tmp_path / "mine.pt"
    garbage.write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="not the released weights file of resmem"):
        rx.extract("resmem", "conv1", photos, out=tmp_path / "f.h5", weights=garbage)
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        rx.extract("resmem", "conv1", photos, out=tmp_path / "f.h5", weights=garbage, verify=False)
    torch.save({"x": torch.zeros(1)}, garbage)
    with pytest.raises(WeightsError, match="weights of another network than ResMem"):
        rx.extract("resmem", "conv1", photos, out=tmp_path / "f.h5", weights=garbage, verify=False)
    assert not (tmp_path / "f.h5").exists()


def test_names_that_cannot_be_written(tmp_path, photos, resmem):
    def refusal(out: Path) -> str:
        with pytest.raises(RequestError) as caught:
            rx.extract(resmem, "conv1", photos, out=out)
        return str(caught.value)

    assert "is a folder; name a file" in refusal(photos)
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(tmp_path / "file" / "f.h5")


def test_a_disk_that_is_too_small_is_told_before(tmp_path, photos, resmem, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(RequestError, match=r"needs \d.* MB and .* has 10\.0 kB free"):
        rx.extract(resmem, "conv1", photos, out=tmp_path / "f.h5")
    assert entries(tmp_path) == ["photos"]


class Huge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 2, 3)
        self.big = nn.Conv2d(2, 2, 1)
        nn.init.constant_(self.big.bias, 1e6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.big(self.small(x)).mean((2, 3))


def test_overflow_names_the_module(tmp_path, photos, resmem):
    torch.manual_seed(0)
    model = rx.Model("huge", "own", Huge().eval(), resmem.preprocessing)
    with pytest.raises(OverflowInDtypeError, match=r"^big: .* does not fit in float16"):
        rx.extract(model, ["small", "big"], photos, out=tmp_path / "f.h5", dtype="float16")
    assert entries(tmp_path) == ["photos"]
    rx.extract(model, ["small", "big", "output"], photos, out=tmp_path / "f.h5")
    with rx.open_store(tmp_path / "f.h5") as store:
        assert store["output"].shape == (5, 2)
        assert store["big"][:].min() > 9e5


# --- where a result may lie ---


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("job", [rx.score, partial(rx.extract, modules="conv1")])
def test_inputs_are_never_replaced(tmp_path, photos, resmem, job, overwrite):
    table, weights = tmp_path / "t.csv", tmp_path / "w.pt"
    table.write_text("path\nphotos/a.jpg\n")
    weights.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(photos / "a.jpg")
    (tmp_path / "hard").hardlink_to(photos / "a.jpg")
    for out in (table, photos / "a.jpg", tmp_path / "link", tmp_path / "hard"):
        before = out.read_bytes()
        with pytest.raises(RequestError, match="is one of the inputs; choose another --out"):
            job(resmem, images=table, out=out, overwrite=overwrite)
        assert out.read_bytes() == before
    with pytest.raises(RequestError, match="is one of the inputs"):
        job("resmem", images=photos, out=weights, weights=weights, overwrite=overwrite)
    own = replace(resmem, weights=LocatedWeights(weights, "0" * 64, "environment"))
    with pytest.raises(RequestError, match="is one of the inputs"):
        job(own, images=photos, out=weights, overwrite=overwrite)
    assert weights.read_bytes() == b"weights"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("job", [rx.score, partial(rx.extract, modules="conv1")])
def test_devices_and_pipes_are_refused(tmp_path, photos, resmem, job, overwrite):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for out in (tmp_path / "pipe", tmp_path / "link", "/dev/null"):
        with pytest.raises(RequestError, match="is a device or a pipe, not a file"):
            job(resmem, images=photos, out=out, overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("job", [rx.score, partial(rx.extract, modules="conv", pool="avg")])
def test_links_are_followed(tmp_path, photos, predictor, job):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to("disk/result")
    assert not job(predictor, images=photos, out=link).already_complete
    assert job(predictor, images=photos, out=link).already_complete
    job(predictor, images=photos, out=link, overwrite=True)
    assert (link.is_symlink(), (tmp_path / "disk" / "result").is_file()) == (True, True)


def test_what_scientists_try_first(tmp_path, photos, resmem):
    out = tmp_path / "f.h5"
    chosen = [photos / "d.png", str(photos / "a.jpg")]
    rx.extract(resmem, ["alexnet_layers[0]@0"], chosen, out=out, pool="avg", dtype=np.float16)
    with rx.open_store(out) as store:
        assert store.image_ids.tolist() == [str(path) for path in chosen]
        for text in ("conv1", "alexnet_layers[0]", "conv1@0"):
            assert (store[text].module, store[text].dtype) == ("conv1", np.float16)
    for model, modules, message in (
        (resmem.network, "conv1", r"model: expected a name or an rx\.Model, got ResMem; wrap a"),
        (resmem, None, "modules: expected paths such as 'features.5.4', got None"),
        (resmem, ["conv1", 3], "modules: expected paths"),
    ):
        with pytest.raises(RequestError, match=message):
            rx.extract(model, modules, photos, out=tmp_path / "g.h5")
    for bad in ("", b"g.h5", None):
        with pytest.raises(RequestError, match=r"^out"):
            rx.extract(resmem, "conv1", photos, out=bad)


def test_another_pooling_of_the_same_shape_is_named(made, photos, resmem):
    with pytest.raises(RequestError, match="pool: avg there, max asked"):
        rx.extract(resmem, "features.conv1", photos, out=made, pool="max")
