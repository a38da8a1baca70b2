"""Networks compared by one call: rsatoolbox's numbers, and nothing extracted twice."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import rsatoolbox
import torch
from PIL import Image
from small_model import draw_many, small

import resmem_extract as rx
from resmem_extract.errors import MissingExtraError, RequestError, UnknownModuleError

N = 12


@pytest.fixture
def images(tmp_path) -> Path:
    return draw_many(tmp_path / "images", N)


@pytest.fixture
def models() -> list[rx.Model]:
    return [small(0, "a"), small(1, "b")]


class Passes:
    """Counts the images that go through a network; the first, dry ones are of its own choosing."""

    def __init__(self, model: rx.Model) -> None:
        self.images = 0
        model.network.register_forward_pre_hook(self._count)

    def _count(self, _network: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self.images += len(inputs[0])


def activations(model: rx.Model, images: Path) -> dict[str, torch.Tensor]:
    """Return what plain calls of the modules give."""
    pictures = [Image.open(path) for path in sorted(images.rglob("*.png"))]
    prepared = np.stack([model.preprocessing.image(picture) for picture in pictures])
    with torch.inference_mode():
        conv = model.network.conv(model.preprocessing.batch(prepared))
        return {"conv": conv, "fc": model.network.fc(conv.mean((2, 3)))}


def rdms(models: list[rx.Model], images: Path) -> dict[str, rsatoolbox.rdm.RDMs]:
    made = {}
    for model in models:
        for module, values in activations(model, images).items():
            dataset = rsatoolbox.data.Dataset(values.flatten(1).double().numpy())
            made[f"{model.name}:{module}"] = rsatoolbox.rdm.calc_rdm(dataset, method="euclidean")
    return made


@pytest.mark.parametrize(("ours", "theirs"), [("spearman", "spearman"), ("tau-a", "tau-a")])
def test_the_matrix_is_that_of_rsatoolbox(ours, theirs, models, images):
    frame = rx.compare_models(
        models, ["conv", "fc"], images, metric="sqeuclidean", compare=ours, engine="reference"
    )
    names = ["a:conv", "a:fc", "b:conv", "b:fc"]
    assert list(frame.index) == list(frame.columns) == names
    made = rdms(models, images)
    for a in names:
        for b in names:
            expected = rsatoolbox.rdm.compare(made[a], made[b], method=theirs).item()
            # Of a module with itself, tied dissimilarities lower tau-a there; here it is 1.
            expected = 1.0 if a == b else expected
            assert frame.loc[a, b] == pytest.approx(expected, abs=1e-6)


def test_modules_of_one_network_and_patterns(models, images):
    frame = rx.compare_models(models, ["a:conv", "b:*"], images, metric="euclidean")
    assert list(frame.index) == ["a:conv", "b:conv", "b:fc", "b:output"]
    frame = rx.compare_models(models, "conv", images, compare="cka", pool="avg")
    ids = [str(k) for k in range(N)]
    pooled = [activations(model, images)["conv"].mean((2, 3)).numpy() for model in models]
    expected = rx.rsa.compare(*(rx.rsa.kernel(x, ids=ids) for x in pooled), "cka").value
    assert frame.loc["a:conv", "b:conv"] == pytest.approx(expected, abs=1e-4)


def test_only_what_is_missing_is_extracted(models, images, tmp_path):
    passes = [Passes(model) for model in models]
    asked = {"images": images, "metric": "euclidean", "folder": tmp_path / "stores"}
    asked["engine"] = "reference"  # which calls the network itself

    def spent() -> list[int]:
        counts = [one.images for one in passes]
        for one in passes:
            one.images = 0
        return counts

    first = rx.compare_models(models, "conv", **asked)
    assert min(spent()) >= N
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stores").iterdir()}
    assert set(files) == {"a.h5", "b.h5"}
    again = rx.compare_models(models, "conv", **asked)
    assert spent() == [0, 0]
    more = rx.compare_models(models, ["conv", "b:fc"], **asked)
    counts = spent()
    assert counts[0] == 0 and counts[1] >= N
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, more.iloc[:2, :2])
    assert list(more.index) == ["a:conv", "b:conv", "b:fc"]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stores").iterdir()}
    assert {name: after[name] for name in files} == files
    (added,) = set(after) - set(files)
    with rx.open_store(tmp_path / "stores" / added) as store:
        assert list(store) == ["fc"]
    rx.compare_models(models, ["conv", "b:fc"], **asked)
    assert max(spent()) < N  # a dry run, before the file is found complete


def test_stores_of_other_requests_are_not_taken_for_these(models, images, tmp_path):
    asked = {"metric": "euclidean", "folder": tmp_path / "stores"}
    rx.compare_models(models, "conv", images, **asked)
    with pytest.raises(RequestError, match=r"a\.h5.*other"):
        rx.compare_models([small(7, "a"), models[1]], "conv", images, **asked)
    (images / "0" / "0000.png").unlink()
    with pytest.raises(RequestError, match=r"a\.h5"):
        rx.compare_models(models, "conv", images, **asked)
    frame = rx.compare_models(models, "conv", images, overwrite=True, **asked)
    with rx.open_store(tmp_path / "stores" / "a.h5") as store:
        assert len(store.image_ids) == N - 1
    assert frame.shape == (2, 2)


def test_wrong_requests_are_refused(models, images, monkeypatch):
    with pytest.raises(RequestError, match="expected networks of different names, got a, a"):
        rx.compare_models([models[0], small(3, "a")], "conv", images)
    with pytest.raises(UnknownModuleError, match="cnov"):
        rx.compare_models(models, "cnov", images)
    with pytest.raises(RequestError, match="no module of b was asked for"):
        rx.compare_models(models, "a:conv", images)
    with pytest.raises(RequestError, match="unknown option 'boostrap'"):
        rx.compare_models(models, "conv", images, boostrap=3)
    with pytest.raises(RequestError, match="'spearmen' is not known"):
        rx.compare_models(models, "conv", images, compare="spearmen")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"resmem-extract\[rsa\]"):
        rx.compare_models(models, "conv", images)
