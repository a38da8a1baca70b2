"""Every engine against plain hooks on photographs, on a network with all kinds of layers of ResMem.

ResMem itself, whose layers are many more of the same kinds, is held against the package of its
authors in ``tests/models``; ``benchmarks/precision.py`` compiles it over its whole depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import plain_hooks
from torch import nn

from resmem_extract.capture import COMPILED_TOLERANCE, TOLERANCE, Capture, compile_capture, prepare
from resmem_extract.models.resnet import ResNet
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")
MODULES = (
    "conv1",
    "lrn1",
    "conv2",
    "pool2",
    "features.conv1",
    "features.bn1",
    "features.maxpool",
    "features.layer1.0.conv2",
    "features.layer1.0.bn2",
    "features.layer1.0.relu@0",
    "features.layer1.0.relu@1",
    "features.layer1.0.downsample",
    "features.layer1.0",
    "features.layer2.1",
    "features.layer3.0",
    "features.layer4.0",
    "features.avgpool",
    "features.fc",
    "fc",
    "output",
)


class AllKinds(nn.Module):
    """Two branches as ResMem has them, with few blocks and few units."""

    def __init__(self) -> None:
        super().__init__()
        self.features = ResNet((1, 2, 1, 1))
        self.conv1, self.relu1 = nn.Conv2d(3, 48, 11, 4), nn.ReLU()
        self.pool1, self.lrn1 = nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5)
        self.conv2 = nn.Conv2d(48, 64, 5, padding=2, groups=2)
        self.relu2, self.pool2 = nn.ReLU(), nn.AdaptiveAvgPool2d((3, 3))
        self.fc, self.sigmoid = nn.Linear(576 + 1000, 8), nn.Sigmoid()

    def forward(self, x):
        branch = self.lrn1(self.pool1(self.relu1(self.conv1(x))))
        branch = self.pool2(self.relu2(self.conv2(branch)))
        hidden = torch.cat((torch.flatten(branch, 1), self.features(x)), 1)
        return self.sigmoid(self.fc(hidden))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = AllKinds().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(photographs) -> torch.Tensor:
    from resmem_extract import load_model

    preprocessing = load_model("resmem", pretrained=False).preprocessing
    return preprocessing.batch(np.stack([preprocessing.image(image) for image in photographs]))


@pytest.fixture(scope="module")
def expected(network, inputs) -> dict[str, np.ndarray]:
    """Return what plain hooks on the network as it is see, by canonical path."""
    seen = plain_hooks(network, inputs)
    paths = {text: next(iter(ModulePaths(network).resolve(text))) for text in MODULES}
    calls = {target.module: target.call for target in seen}  # the last call of each
    return {
        text: next(
            tensor.numpy()
            for target, tensor in seen.items()
            if target.module == address.module
            and target.call == (calls[target.module] if address.call is None else address.call)
        )
        for text, address in paths.items()
    }


def capture_of(network: nn.Module, engine: str) -> Capture:
    addresses = [a for text in MODULES for a in ModulePaths(network).resolve(text)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, 3, 227, 227, generator=generator)
    return prepare(network, addresses, lambda n: noise[:n], device=CPU, engine=engine)


def worst(capture: Capture, inputs: torch.Tensor, expected: dict[str, np.ndarray]) -> float:
    found = capture(inputs)
    assert list(found) == list(expected)
    return max(float(np.abs(found[p] - b).max() / np.abs(b).max()) for p, b in expected.items())


@pytest.mark.parametrize("engine", ["fused", "graph", "hooks"])
def test_engines_stay_within_the_norm(network, inputs, expected, engine: str) -> None:
    capture = capture_of(network, engine)
    assert capture.engine == engine
    assert worst(capture, inputs, expected) <= TOLERANCE


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    yield tmp_path
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    if before is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


@pytest.mark.freezing
@pytest.mark.slow
def test_compiled_code_stays_within_the_norm(network, inputs, expected, cache: Path) -> None:
    capture = capture_of(network, "auto")
    compiled = compile_capture(capture, lambda n: inputs[:n], len(inputs), cache)
    assert compiled.engine == "compiled"
    assert worst(compiled, inputs, expected) <= COMPILED_TOLERANCE
