from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import AFTER, LEAVES, Lambda, TwoHeads, convolution, images, plain_hooks
from torch import nn
from torch.nn import functional

from resmem_extract.capture import GraphEngine, NotTraceableError, Target, deviation, prepare
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")


def run(engine: GraphEngine, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return engine(inputs.clone())


def equals_plain_hooks(network: nn.Module, *, each_alone: bool = True) -> None:
    """Capture everything at once and each alone, and compare with plain hooks bit for bit."""
    network.eval()
    inputs = images(2)
    expected = plain_hooks(network, inputs.clone())
    groups = [list(expected)] + [[target] for target in expected] * each_alone
    for targets in groups:
        found = run(GraphEngine(network, targets), inputs)
        for target, tensor in zip(targets, found, strict=True):
            assert torch.equal(tensor, expected[target]), (target, targets)


def leaf_calls(network: nn.Module, call) -> Counter[str]:
    """Count what is really run: hooks fire wherever a leaf module is called."""
    counted: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_args, name=name: counted.update([name]))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    call()
    for handle in handles:
        handle.remove()
    return counted


# --- pruning -------------------------------------------------------------------------------------


def test_only_what_features_5_4_needs_is_run_of_resmem(resmem_paths) -> None:
    network = resmem_paths.network
    engine = GraphEngine(network, [Target("features.layer2.4", 0)])
    (shape,) = {tuple(t.shape) for t in run(engine, torch.empty(2, 3, 227, 227, device="meta"))}
    assert shape == (2, 512, 29, 29)
    calls = leaf_calls(network, lambda: run(engine, torch.empty(2, 3, 227, 227, device="meta")))
    stem = ["conv1", "bn1", "relu", "maxpool"]
    blocks = [f"layer1.{i}" for i in range(3)] + [f"layer2.{i}" for i in range(5)]
    expected = Counter({f"features.{name}": 1 for name in stem})
    for block in blocks:
        expected.update({f"features.{block}.{m}{i}": 1 for m in ("conv", "bn") for i in (1, 2, 3)})
        expected[f"features.{block}.relu"] = 3
    for first in ("layer1.0", "layer2.0"):
        expected.update({f"features.{first}.downsample.{i}": 1 for i in (0, 1)})
    assert calls == expected


@pytest.mark.parametrize(
    ("targets", "needed"),
    [
        (["left.0"], ["stem.0", "stem.1", "left.0"]),
        (["right"], ["stem.0", "stem.1", "right.0", "right.1"]),
        (["stem.0"], ["stem.0"]),
        (["stem"], ["stem.0", "stem.1"]),
        (["left.0", "right.0"], ["stem.0", "stem.1", "left.0", "right.0"]),
    ],
)
def test_branches_that_are_not_needed_are_not_run(targets: list[str], needed: list[str]) -> None:
    network = TwoHeads().eval()
    engine = GraphEngine(network, [Target(name, 0) for name in targets])
    assert leaf_calls(network, lambda: run(engine, images(2))) == Counter(needed)


def test_relu_that_overwrites_a_target_is_kept_only_if_it_is_needed() -> None:
    network = nn.Sequential(convolution(), nn.ReLU(inplace=True), convolution()).eval()
    first, last = (GraphEngine(network, [Target(name, 0)]) for name in ("0", "2"))
    assert leaf_calls(network, lambda: run(first, images(2)))["1"] == 0
    assert leaf_calls(network, lambda: run(last, images(2)))["1"] == 1


# --- in-place operations -------------------------------------------------------------------------


@pytest.mark.parametrize("after", AFTER, ids=lambda f: f.__name__)
def test_block_equals_plain_hooks(after) -> None:
    torch.manual_seed(0)
    equals_plain_hooks(nn.Sequential(convolution(), Lambda(after), nn.Sigmoid(), Lambda(after)))


def test_convolution_before_an_inplace_relu_keeps_its_negatives() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)).eval()
    targets = [Target("0", 0), Target("1", 0)]
    before, after = run(GraphEngine(network, targets), images(2))
    expected = functional.conv2d(images(2), network[0].weight, network[0].bias)
    assert (before < 0).any()
    assert torch.allclose(before, expected, atol=1e-6)
    assert torch.equal(after, before.clamp(min=0))


def test_tuples_in_dicts_written_to_after_they_were_made() -> None:
    torch.manual_seed(0)
    equals_plain_hooks(TwoHeads())


def test_shared_block_called_again() -> None:
    torch.manual_seed(0)
    shared = Lambda(AFTER[0])
    equals_plain_hooks(nn.Sequential(shared, nn.ReLU(inplace=True), shared))


class Scratch(nn.Module):
    """Writes to a buffer of its own and reads it again under a second look-up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.zeros(4, 6, 6))
        self.body = convolution()

    def forward(self, x):
        self.scratch.copy_(self.body(x)[0])
        return self.scratch * 2


def test_write_to_a_buffer_is_kept() -> None:
    torch.manual_seed(0)
    network = Scratch().eval()
    engine = GraphEngine(network, [Target("output", 0)])
    for inputs in (images(2), images(2) + 1):
        with torch.inference_mode():
            expected = network.body(inputs)[0] * 2
        assert torch.equal(run(engine, inputs)[0], expected)


blocks = st.one_of(
    st.sampled_from(AFTER).map(lambda after: lambda: Lambda(after)),
    st.sampled_from(LEAVES),
    st.just(convolution),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=5), st.integers(0, 99), st.data())
def test_random_networks_equal_plain_hooks(made: list, seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    modules = [make() for make in made]
    again = data.draw(st.lists(st.sampled_from(modules), max_size=2))
    equals_plain_hooks(nn.Sequential(*modules, *again))


# --- what cannot be traced -----------------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolution()

    def forward(self, x):
        y = self.body(x)
        return y * 2 if float(y.sum()) > 1e9 else y


class SetItem(Branching):
    def forward(self, x):
        y = self.body(x)
        y[:, 0] = 7.0
        return y


class OptionalMask(Branching):
    """A trace takes the mask for given, and fails only when it is run without one."""

    def forward(self, x, mask=None):
        y = self.body(x)
        return y if mask is None else y * mask.to(y.dtype)


class Alias(Branching):
    """A trace takes `+=` for a new tensor, and so misses that `z` changes."""

    def forward(self, x):
        y = z = self.body(x)
        y += 1
        return z


class View(nn.Module):
    """Fails on channels-last input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolution()
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.body(x).view(-1, 4 * 36))


def captured_by(network: nn.Module, names: list[str], engine: str = "auto"):
    """Prepare, run on other images than the probes, and compare with plain hooks."""
    network.eval()
    untouched = copy.deepcopy(network)
    addresses = [a for name in names for a in ModulePaths(network).resolve(name)]
    capture = prepare(network, addresses, images, device=CPU, engine=engine)
    inputs = images(5).flip(0) + 0.5
    found = capture(inputs)
    expected = plain_hooks(untouched, inputs.clone())
    for c in capture.captured:
        assert deviation(torch.from_numpy(found[c.path]), expected[c.target]) <= 1e-5
    return capture


def test_branching_network_raises_and_falls_back_to_hooks() -> None:
    torch.manual_seed(0)
    network = Branching()
    with pytest.raises(NotTraceableError, match=r"\ATypeError: [^\n]+\Z"):
        GraphEngine(network, [Target("body", 0)])
    assert captured_by(network, ["body", "output"]).engine == "hooks"


def test_call_that_the_trace_lacks() -> None:
    with pytest.raises(NotTraceableError, match="lacks call 1 of 0"):
        GraphEngine(nn.Sequential(nn.ReLU()), [Target("0", 1)])


@pytest.mark.parametrize("kind", [SetItem, OptionalMask, Alias])
def test_trace_that_goes_astray_still_gives_right_numbers(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    captured_by(kind(), ["body", "output"])
    captured_by(kind(), ["body.0"])


def test_view_that_fails_channels_last_keeps_the_graph_in_the_plain_layout() -> None:
    torch.manual_seed(0)
    network = View()
    capture = captured_by(network, ["body.0", "output"])
    assert (capture.engine, capture.channels_last) == ("graph", False)
    assert network.body[0].weight.is_contiguous()


def test_resmem_of_pypi_falls_back_from_channels_last(resmem_oracle, resmem_pixels) -> None:
    with torch.inference_mode():
        expected = resmem_oracle(resmem_pixels).numpy()
    addresses = ModulePaths(resmem_oracle).resolve("output")
    capture = prepare(resmem_oracle, addresses, lambda n: resmem_pixels[:n], device=CPU)
    assert (capture.engine, capture.channels_last) == ("graph", False)
    assert abs(capture(resmem_pixels)["output"] - expected).max() <= 1e-6
