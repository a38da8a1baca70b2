from __future__ import annotations

import hashlib
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resmem_extract import load_model
from resmem_extract.capture import Target, deviation, prepare
from resmem_extract.errors import WeightsError
from resmem_extract.models.checkpoint import state_dict_sha256
from resmem_extract.models.resmem import RELEASED, ResMem

STATE_DICT_SHA256 = "882d07533c09a31a4d10b438d7b4cf9d09252310b83eee7e239ab0dcfe9ef3cd"


@pytest.fixture(scope="module")
def ours(resmem_model, photographs) -> torch.Tensor:
    """The photographs by our own preprocessing."""
    preprocessing = resmem_model.preprocessing
    return preprocessing.batch(np.stack([preprocessing.image(image) for image in photographs]))


@pytest.fixture(scope="module")
def oracle(resmem_oracle, resmem_pixels) -> dict[Target, torch.Tensor]:
    """Every output of every module of PyPI's `resmem`, by plain hooks on the full network."""
    seen: dict[Target, torch.Tensor] = {}
    calls: dict[str, int] = defaultdict(int)

    def hook(name: str):
        def keep(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            seen[Target(name, calls[name])] = output.clone()
            calls[name] += 1

        return keep

    wanted = {"output", *(t.module for t in TARGETS.values())}
    modules = {name or "output": module for name, module in resmem_oracle.named_modules()}
    handles = [modules[name].register_forward_hook(hook(name)) for name in wanted]
    with torch.inference_mode():
        resmem_oracle(resmem_pixels)
    for handle in handles:
        handle.remove()
    return seen


# What is typed -> where PyPI's resmem has the same. Its ReLUs outside the ResNet are functions:
# dropout, which does nothing in evaluation, returns what came out of them.
TARGETS = {
    "features.5.4": Target("features.layer2.4", 0),
    "conv1": Target("conv1", 0),
    "features.layer1.0.relu@0": Target("features.layer1.0.relu", 0),
    "features.layer1.0.relu@1": Target("features.layer1.0.relu", 1),
    "features.layer1.0.relu@2": Target("features.layer1.0.relu", 2),
    "resnet_layers[0]": Target("features.conv1", 0),
    "resnet_layers[24]": Target("features.layer2.4.conv1", 0),
    "resnet_layers[154]": Target("features.layer4.2.conv3", 0),
    "features.layer1.0.bn3": Target("features.layer1.0.bn3", 0),
    "features.avgpool": Target("features.avgpool", 0),
    "features.fc": Target("features.fc", 0),
    "alexnet_layers[4]": Target("conv5", 0),
    "lrn2": Target("lrn2", 0),
    "pool5": Target("pool5", 0),
    "fc6": Target("fc6", 0),
    "relu6": Target("drp6", 0),
    "drp6": Target("drp6", 0),
    "relu7": Target("drp8", 0),
    "fc12": Target("fc12", 0),
    "memorability": Target("output", 0),
}


# --- equal to PyPI's resmem ----------------------------------------------------------------------


def test_preprocessing_is_torchvisions_to_the_last_bit(ours, resmem_pixels) -> None:
    assert ours.dtype == resmem_pixels.dtype == torch.float32
    assert torch.equal(ours, resmem_pixels)


def test_parameters_are_those_of_pypi_resmem(resmem_model, resmem_oracle) -> None:
    state, expected = resmem_model.network.state_dict(), resmem_oracle.state_dict()
    assert sorted(state) == sorted(expected)
    assert len(state) == 956
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_forward_equals_pypi_resmem(resmem_model, ours, oracle) -> None:
    with torch.inference_mode():
        scores = resmem_model.network(ours)
    assert scores.shape == (4, 1)
    assert (scores - oracle[Target("output", 0)]).abs().max() <= 1e-6
    assert scores.min() > 0.3 and scores.max() < 1 and scores.std() > 0.01


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_activations_equal_pypi_resmem_in_one_pass(resmem_model, ours, oracle, engine) -> None:
    addresses = [a for text in TARGETS for a in resmem_model.paths.resolve(text)]
    capture = prepare(
        resmem_model.network,
        addresses,
        resmem_model.noise(),
        device=torch.device("cpu"),
        engine=engine,
    )
    assert capture.engine == ("fused" if engine == "auto" else engine)
    assert capture.notes == ()
    found = capture(ours)
    by_request = {name: c.path for c in capture.captured for name in (c.requested, *c.links)}
    for text, target in TARGETS.items():
        assert deviation(torch.from_numpy(found[by_request[text]]), oracle[target]) <= 1e-5, text
    assert found["conv1"].min() < 0


@pytest.mark.parametrize(
    "text",
    [
        "features.5.4",
        "conv1",
        "features.layer1.0.relu@0",
        "memorability",
    ],
)
def test_activations_equal_pypi_resmem_alone(resmem_model, ours, oracle, text: str) -> None:
    capture = prepare(
        resmem_model.network,
        resmem_model.paths.resolve(text),
        resmem_model.noise(),
        device=torch.device("cpu"),
    )
    (found,) = capture(ours).values()
    assert (capture.engine, capture.channels_last) == ("fused", True)
    assert deviation(torch.from_numpy(found), oracle[TARGETS[text]]) <= 1e-5


def test_noise_of_more_images_begins_with_the_same(resmem_model) -> None:
    make = resmem_model.noise()
    assert make(3).shape == (3, 3, 227, 227)
    assert torch.equal(make(3)[:2], make(2))
    assert not torch.equal(make(2)[0], make(2)[1])


# --- weights -------------------------------------------------------------------------------------


def test_hash_of_the_released_weights(resmem_model) -> None:
    assert resmem_model.weights.sha256 == RELEASED.sha256
    assert state_dict_sha256(resmem_model.network.state_dict()) == STATE_DICT_SHA256
    assert resmem_model.state_dict_sha256 == STATE_DICT_SHA256


def test_another_file_is_refused_unless_it_is_said_to_be_ones_own(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = ResMem()
    state = {  # zeros of one element spread out: a small file
        name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in
        network.state_dict().items()
    }  # fmt: skip
    path = tmp_path / "retrained.pt"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"is not the released weights file of resmem.*verify"):
        load_model("resmem", weights=path)
    model = load_model("resmem", weights=path, verify=False)
    assert model.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with torch.inference_mode():
        scores = model.network(torch.rand(1, 3, 227, 227))
    assert scores.tolist() == [[0.5]]  # the sigmoid of 0


def test_missing_weights_file() -> None:
    with pytest.raises(WeightsError) as raised:
        load_model("resmem", weights="/nowhere/model.pt")
    assert str(raised.value) == (
        "no weights file /nowhere/model.pt; give the path of a checkpoint, or none"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({"x": torch.zeros(1)}, "holds the weights of another network than ResMem"),
        (None, "cannot be read as a checkpoint"),
    ],
)
def test_file_that_is_no_checkpoint_of_resmem(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "other.pt"
    if content is None:
        path.write_text("no checkpoint")
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError) as raised:
        load_model("resmem", weights=path, verify=False)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_advice_to_unpickle_anything(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    for content in (b"no checkpoint", pickle.dumps(print, protocol=2), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(WeightsError) as raised:
            load_model("resmem", weights=path, verify=False)
        assert "weights_only" not in str(raised.value)
        assert "expected a state dict saved by torch.save" in str(raised.value)
