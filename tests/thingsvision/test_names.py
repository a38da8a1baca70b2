"""Networks that answer to paths; thingsvision itself is not needed for that."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from resmem_extract import load_model
from resmem_extract.module_path import ModulePaths
from resmem_extract.thingsvision.names import answer_to_paths


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * self.scale


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def test_all_forms_of_all_paths_of_resmem_are_listed() -> None:
    model = load_model("resmem", structure_only=True)
    exact = dict(model.network.named_modules())
    listed = dict(answer_to_paths(model.paths).named_modules())
    assert {name: listed[name] for name in exact} == exact
    for text in ("features.5.4", "features.layer2.4", "features.5.4.conv1", "resnet_layers[24]",
                 "resnet_layers[154]", "alexnet_layers[0]", "output", "memorability"):  # fmt: skip
        (address,) = model.paths.resolve(text)
        assert listed[text] is model.paths.module(address.module)


def test_network_is_the_same_object_and_torch_sees_no_difference(small: Small) -> None:
    names = [name for name, _ in small.named_parameters()]
    state, modules = small.state_dict(), list(small.modules())
    x = torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        expected = small(x)
    paths = ModulePaths(small, lists={"convolutions": ["body.0", "body.1.1"]})
    network = answer_to_paths(paths)
    assert network is small
    assert isinstance(network, Small)
    assert repr(network).startswith("Small(")
    assert [name for name, _ in network.named_parameters()] == names
    assert [name for name, _ in network.named_buffers()] == ["scale"]
    assert list(network.state_dict()) == list(state)
    assert list(network.modules()) == modules
    with torch.no_grad():
        assert torch.equal(network(x), expected)


def test_hooks_by_other_names_and_in_a_copy(small: Small) -> None:
    network = answer_to_paths(ModulePaths(small, lists={"convolutions": ["body.0", "body.1.1"]}))
    twin = copy.deepcopy(network)
    kept = []
    listed = dict(twin.named_modules())
    for name in ("convolutions[1]", "body.1.1", "output"):
        listed[name].register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        out = twin(torch.rand(1, 3, 5, 5))
        network(torch.rand(1, 3, 5, 5))  # hooks are on the copy alone
    assert len(kept) == 3
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[2], out)


def test_as_a_part_of_another_network_it_has_exact_names_alone(small: Small) -> None:
    exact = [f"part.{name}".rstrip(".") for name, _ in small.named_modules()]
    whole = nn.ModuleDict({"part": answer_to_paths(ModulePaths(small))})
    assert [name for name, _ in whole.named_modules() if name] == exact
