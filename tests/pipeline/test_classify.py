"""Class probabilities against SciPy and torch; names against torchvision and timm."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.special import softmax

import resmem_extract as rx
from resmem_extract.errors import RequestError, UnknownModuleError, WorkError
from resmem_extract.models.categories import category_names
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

IDS = ["a,b.jpg", "c/ü.jpg", "d.jpg"]


def write(path: Path, outputs: np.ndarray, source: str = "torchvision") -> Path:
    axes = ("image", "unit", "height", "width")[: outputs.ndim]
    spec = ActivationSpec("output", "output", outputs.shape[1:], axes)
    with StoreWriter(path, [spec], len(outputs)) as writer:
        writer.append(IDS, ["0" * 64] * len(IDS), {"output": outputs.astype(np.float32)})
        writer.finish(provenance={"model": "x", "source": source})
    return path


@pytest.fixture
def logits(rng) -> np.ndarray:
    values = 5 * rng.standard_normal((3, 1000)).astype(np.float32)
    values[1, 7] = 900.0  # would overflow without care
    return values


@pytest.fixture
def store(tmp_path, logits) -> Path:
    return write(tmp_path / "f.h5", logits)


def test_probabilities_are_scipys_and_the_order_is_torchs(store, logits) -> None:
    found = rx.classify(store, top=4)
    expected = softmax(logits.astype(np.float64), axis=1)
    indices = torch.from_numpy(logits).topk(4).indices.numpy()
    assert np.array_equal(found.indices, indices)
    values = np.take_along_axis(expected, indices, axis=1)
    np.testing.assert_allclose(found.probabilities, values, rtol=1e-12)
    whole = rx.classify(store, top=5000)
    assert whole.indices.shape == (3, 1000)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1)


def test_tables_hold_the_same_in_both_formats(store, tmp_path) -> None:
    found = rx.classify(store, top=2, out=tmp_path / "new" / "c.csv")
    rx.classify(store, top=2, out=tmp_path / "c.json")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "new" / "c.csv").read_text("utf-8"))))
    records = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert list(rows[0]) == ["image_id", "rank", "index", "class", "probability"]
    assert [row["image_id"] for row in rows] == [i for i in IDS for _ in range(2)]
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    assert rows[2]["class"] == found.names[7] == "cock"
    assert rows[2]["probability"] == "1.00000000"
    for row, record in zip(rows, records, strict=True):
        assert row.keys() == record.keys()
        assert all(type(record[key])(row[key]) == record[key] for key in row)


def test_names_of_imagenet() -> None:
    from torchvision.models import get_model_weights, list_models

    names = category_names("torchvision", 1000)
    assert (names[1], names[151], names[999]) == ("goldfish", "Chihuahua", "toilet tissue")
    for model in ("alexnet", "vit_b_16", "efficientnet_b0", "swin_t"):
        assert model in list_models()
        assert names == tuple(get_model_weights(model).DEFAULT.meta["categories"])
    assert category_names("mine", 1001) == ("background", *names)


def test_names_of_larger_sets_are_timms() -> None:
    timm_data = pytest.importorskip("timm.data")
    names = category_names("timm", 11221)
    info = timm_data.ImageNetInfo("imagenet-21k-miil")
    assert (len(names), names[5]) == (11221, info.index_to_description(5))
    with pytest.raises(RequestError, match="no names are known for 11221 outputs"):
        category_names("torchvision", 11221)


def test_names_of_ones_own(tmp_path, logits) -> None:
    store = write(tmp_path / "f.h5", logits[:, :3], "custom")
    with pytest.raises(RequestError, match=r"for 3 outputs of a network of custom.*--classes"):
        rx.classify(store)
    (tmp_path / "names.txt").write_text("bird\ncat\ndog\n")
    found = rx.classify(store, classes=tmp_path / "names.txt", top=1)
    best = logits[:, :3].argmax(axis=1)
    assert [row["class"] for row in found.rows()] == [["bird", "cat", "dog"][i] for i in best]
    assert rx.classify(store, classes=["x", "y", "z"], top=1).names == ("x", "y", "z")
    with pytest.raises(RequestError, match="2 names for 3 classes"):
        rx.classify(store, classes=["x", "y"])


def test_what_is_no_classifier(tmp_path, logits) -> None:
    maps = write(tmp_path / "m.h5", logits[:, :12].reshape(3, 2, 2, 3))
    with pytest.raises(RequestError, match="output has 2 x 2 x 3 values an image"):
        rx.classify(maps)
    one = write(tmp_path / "o.h5", logits[:, :1], "resmem")
    with pytest.raises(RequestError, match="output has 1 values an image"):
        rx.classify(one)
    retrained = write(tmp_path / "r.h5", logits, "resmem")  # means no categories any more
    with pytest.raises(RequestError, match=r"no names are known for 1000 outputs of .* resmem"):
        rx.classify(retrained)
    with pytest.raises(UnknownModuleError):
        rx.classify(maps, module="fc")


def test_a_table_that_is_there(store, tmp_path) -> None:
    out = tmp_path / "c.csv"
    rx.classify(store, out=out)
    before = out.stat().st_mtime_ns
    rx.classify(store, out=out)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(RequestError, match="holds something else; use --overwrite"):
        rx.classify(store, out=out, top=2)
    rx.classify(store, out=out, top=2, overwrite=True)
    assert len(out.read_text().splitlines()) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top 0: expected a number of classes"),
        ({"out": "c.txt"}, r"c\.txt: expected a name that ends in \.csv or \.json"),
        ({"out": ""}, "out '': empty"),
        ({"classes": "none.txt"}, r"none\.txt cannot be read: No such file"),
    ],
)
def test_wrong_requests(store, options, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        rx.classify(store, **options)


def test_damage_and_values_that_are_no_numbers(store, tmp_path) -> None:
    with h5py.File(store, "r+") as file:
        file["features/output"][1, 5] = np.nan
    with pytest.raises(WorkError, match="damaged: /features/output, rows 0 to 1"):
        rx.classify(store)
    with h5py.File(store, "r+") as file:
        del file["checksums"], file["metadata_checksums"]
    with pytest.raises(RequestError, match=r"output: NaN .* of 1 image \(c/ü\.jpg\)"):
        rx.classify(store)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(RequestError, match=r"pipe\.csv is a device or a pipe"):
        rx.classify(store, out=tmp_path / "pipe.csv", overwrite=True)
