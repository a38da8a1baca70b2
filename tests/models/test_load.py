"""`load_model`: weights, seeds, structure alone, and what excludes what."""

from __future__ import annotations

import pytest
import torch

from resmem_extract import load_model
from resmem_extract.errors import RequestError


def test_structure_alone_has_no_weights() -> None:
    model = load_model("resmem", structure_only=True)
    assert (model.name, model.source, model.weights) == ("resmem", "resmem", None)
    assert {p.device.type for p in model.network.parameters()} == {"meta"}
    assert not model.network.training


def test_released_weights_are_told() -> None:
    model = load_model("resmem")
    assert (model.weights_tag, model.seed) == ("released", None)
    assert model.licence.startswith("non-commercial")


@pytest.mark.slow
def test_random_weights_follow_the_seed_and_nothing_else() -> None:
    first = load_model("resmem", pretrained=False, seed=3)
    torch.rand(7)
    before = torch.random.get_rng_state()
    second = load_model("resmem@random3")
    assert torch.equal(torch.random.get_rng_state(), before)
    other = load_model("resmem", pretrained=False)
    assert [m.name for m in (first, second, other)] == [
        "resmem@random3", "resmem@random3", "resmem@random"
    ]  # fmt: skip
    assert [(m.weights_tag, m.seed) for m in (first, other)] == [("random", 3), ("random", 0)]
    a, b, c = (m.network.fc12.weight for m in (first, second, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": False, "weights": "x.pt"}, "random weights and --weights exclude each"),
        ({"seed": -1}, "seed -1: expected a whole number from 0"),
        ({"seed": 3}, "resmem is to have trained ones; ask for resmem@random3, or leave"),
        ({"name": "resmem@random3", "seed": 4}, "resmem@random3 and seed 4 contradict each other"),
        ({"transform": "imagnet"}, "no transform 'imagnet': did you mean imagenet?"),
    ],
)
def test_contradictions(arguments, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        load_model(**{"name": "resmem", **arguments})
    assert message in str(raised.value)
