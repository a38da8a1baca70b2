"""What users of the package resmem do has an equal here; the oracle is that package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resmem_extract as rx
from resmem_extract.errors import ImageError, RequestError, UnknownModuleError

DOCUMENT = Path(__file__).parents[2] / "docs" / "resmem-users.md"


class SaveFeatures:
    """A hook that keeps what a module returned, as in the authors' repository."""

    def __init__(self, module: torch.nn.Module) -> None:
        module.register_forward_hook(self.keep)

    def keep(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        self.features = output.clone()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photographs) -> Path:
    folder = tmp_path_factory.mktemp("users")
    (folder / "photos").mkdir()
    for name, image in zip("abc", photographs, strict=False):
        image.save(folder / "photos" / f"{name}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def scope(folder) -> dict:
    """What the document's code leaves behind."""
    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M):
            exec(compile(block, DOCUMENT.name, "exec"), found)
    return found


@pytest.fixture(scope="module")
def theirs(folder, resmem_oracle) -> dict[str, torch.Tensor]:
    """The same with resmem: inputs, prediction, features, and channel means of all images."""
    import resmem

    layers = [m for m in resmem_oracle.features.modules() if isinstance(m, torch.nn.Conv2d)]
    conv1, deep = SaveFeatures(resmem_oracle.conv1), SaveFeatures(layers[24])
    found: dict[str, torch.Tensor] = {}
    means = []
    with torch.no_grad():
        for path in sorted((folder / "photos").iterdir(), reverse=True):  # a.jpg last
            x = resmem.transformer(Image.open(path).convert("RGB")).view(-1, 3, 227, 227)
            found["prediction"] = resmem_oracle(x)
            means.insert(0, deep.features.mean(dim=(-1, -2)))
    return {**found, "x": x, "conv1": conv1.features, "deep": deep.features,
            "means": torch.cat(means)}  # fmt: skip


def deviation(found, expected: torch.Tensor) -> float:
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found)
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def test_transformer(scope, theirs) -> None:
    assert torch.equal(scope["x"], theirs["x"])


def test_prediction(scope, theirs) -> None:
    assert deviation(scope["memorability"], theirs["prediction"]) <= 1e-6


def test_save_features(scope, theirs) -> None:
    assert deviation(scope["activations"]["conv1"], theirs["conv1"]) <= 1e-5
    assert deviation(scope["activations"]["features.layer2.4.conv1"], theirs["deep"]) <= 1e-5
    assert not any(m._forward_hooks for m in scope["model"].network.modules())


def test_resnet_activation(scope, theirs) -> None:
    expected = theirs["deep"].mean(dim=(-1, -2))
    assert deviation(scope["means"]["features.layer2.4.conv1"], expected) <= 1e-5


def test_the_images_that_excite_a_filter_most(scope, theirs) -> None:
    order = theirs["means"][:, 7].argsort()
    assert scope["strongest"].tolist() == [f"{'abc'[i]}.jpg" for i in order]


def test_transform_converts_what_is_not_rgb(resmem_model, photographs) -> None:
    import resmem

    for mode in ("L", "RGBA", "P", "CMYK"):
        image = photographs[0].convert(mode)
        expected = resmem.transformer(image.convert("RGB"))
        assert torch.equal(resmem_model.transform(image), expected)
    with pytest.raises(ImageError, match="no fixed range"):
        resmem_model.transform(photographs[0].convert("F"))


def test_random_weights(resmem_oracle) -> None:
    network = rx.load_model("resmem@random").network
    assert list(network.state_dict()) == list(resmem_oracle.state_dict())


def test_capture_refuses_what_is_not_there(resmem_model) -> None:
    with pytest.raises(UnknownModuleError, match="did you mean conv1"):
        resmem_model.capture("conv11")
    with pytest.raises(RequestError, match=r"cuda:7|no CUDA"):
        resmem_model.capture("conv1", device="cuda:7")
