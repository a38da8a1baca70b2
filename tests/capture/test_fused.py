"""Fused convolutions: the numbers of plain hooks, whatever surrounds a convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import (
    AFTER,
    LEAVES,
    Lambda,
    TwoHeads,
    convolution,
    images,
    plain_hooks,
    view_then_write,
)
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resmem_extract.capture import BOUNDS, GraphEngine, Target, deviation, in_precision, prepare
from resmem_extract.capture import engine as engine_module
from resmem_extract.capture import fused as fused_module
from resmem_extract.capture.fused import FusedEngine, NothingToFuseError, graph_of
from resmem_extract.capture.fused_conv import (
    ACTIVATIONS,
    RELU,
    Norm,
    OneDNNConv,
    PlainConv,
    folded,
    has_onednn,
)
from resmem_extract.models.resnet import Bottleneck
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")
KINDS = [
    pytest.param(
        True, id="onednn", marks=pytest.mark.skipif(not has_onednn(CPU), reason="no oneDNN")
    ),
    pytest.param(False, id="plain"),
]
both_kinds = pytest.mark.parametrize("onednn", KINDS)


def fuse(network: nn.Module, *names: str | Target, onednn: bool) -> FusedEngine:
    targets = [Target(name, 0) if isinstance(name, str) else name for name in names]
    return FusedEngine(GraphEngine(network, targets), torch.float32, onednn=onednn)


def run(engine: FusedEngine, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return engine(inputs.clone(memory_format=torch.channels_last))


def convolutions(engine: FusedEngine) -> list[PlainConv]:
    return [module for module in engine.network.modules() if isinstance(module, PlainConv)]


def calls(engine: FusedEngine) -> int:
    """Count what is called: a fused convolution is one call, whatever it does."""
    return sum(node.op.startswith("call") for node in engine.network.graph.nodes)


def lively(network: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that matter."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2)
                nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


def equals_plain_hooks(network: nn.Module, onednn: bool) -> None:
    """Capture everything at once, each alone, and the output; compare with plain hooks."""
    inputs = images(2)
    expected = plain_hooks(network, inputs.clone())
    for targets in [list(expected), *([target] for target in expected)]:
        try:
            engine = fuse(network, *targets, onednn=onednn)
        except NothingToFuseError:
            continue
        for _ in range(2):  # nothing that is kept was written over
            for target, found in zip(targets, run(engine, inputs), strict=True):
                assert deviation(found, expected[target]) <= 1e-5, (target, targets)


# --- the weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_folded_weights_equal_those_of_torch(bias: bool, affine: bool, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=bias, groups=groups)
    norm = lively(nn.BatchNorm2d(6, affine=affine, eps=0.1))
    weight, shift = folded(
        conv, Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    )
    expected = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        None if norm.weight is None else norm.weight.double(),
        None if norm.bias is None else norm.bias.double(),
    )
    assert weight.dtype == shift.dtype == torch.float32
    assert deviation(weight.double(), expected[0].detach()) <= 1e-7
    assert deviation(shift.double(), expected[1].detach()) <= 1e-7


# --- what is taken in ----------------------------------------------------------------------------


def stack(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return lively(nn.Sequential(*modules))


@both_kinds
@pytest.mark.parametrize("inplace", [True, False])
def test_norm_and_relu_are_taken_in(onednn: bool, inplace: bool) -> None:
    network = stack(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace))
    engine = fuse(network, "2", onednn=onednn)
    assert calls(engine) == 1
    assert convolutions(engine)[0].activation is RELU
    equals_plain_hooks(network, onednn)


@both_kinds
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("inplace", [True, False])
def test_other_activations(onednn: bool, activation: type[nn.Module], inplace: bool) -> None:
    network = stack(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), activation(inplace=inplace))
    assert calls(fuse(network, "2", onednn=onednn)) == 1
    equals_plain_hooks(network, onednn)
    torch.manual_seed(0)
    summed = lively(nn.Sequential(Sums(lambda self, x: self.body(x) + x), activation(inplace)))
    equals_plain_hooks(summed, onednn)


class FunctionalNorm(nn.Module):
    """A norm and an activation function in one module, with a place for dropout between."""

    def __init__(self, training: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=affine)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)
        self.by_the_batch = training

    def forward(self, x):
        norm = self.norm
        x = functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias,
            self.by_the_batch, 0.1, norm.eps,
        )  # fmt: skip
        return self.act(self.drop(x))


@both_kinds
@pytest.mark.parametrize("affine", [True, False])
def test_functional_norms(onednn: bool, affine: bool) -> None:
    network = stack(nn.Conv2d(4, 4, 3), FunctionalNorm(affine=affine), nn.Dropout(0.5))
    assert calls(fuse(network, "2", onednn=onednn)) == 1
    equals_plain_hooks(network, onednn)
    by_the_batch = stack(nn.Conv2d(4, 4, 3), FunctionalNorm(training=True, affine=affine))
    assert calls(fuse(by_the_batch, "1", onednn=onednn)) == 3


@both_kinds
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["0"], 1),  # the convolution, alone
        (["1"], 1),  # what the norm returns: folded
        (["0", "1"], 2),  # the norm is a target's reader: it stays
        (["0", "2"], 3),
        (["1", "2"], 2),  # the norm folded, the relu not
        (["0", "1", "2"], 3),
    ],
)
def test_a_target_is_what_the_module_returned(onednn: bool, targets, expected) -> None:
    network = stack(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    engine = fuse(network, *targets, onednn=onednn)
    assert calls(engine) == expected
    hooks = plain_hooks(network, images(2))
    for name, found in zip(targets, run(engine, images(2)), strict=True):
        assert deviation(found, hooks[Target(name, 0)]) <= 1e-6


def test_a_plain_convolution_that_is_a_target_is_exact() -> None:
    network = stack(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    found = run(fuse(network, "0", "1", onednn=False), images(2))[0]
    expected = functional.conv2d(
        images(2).contiguous(memory_format=torch.channels_last),
        network[0].weight.contiguous(memory_format=torch.channels_last),
        network[0].bias,
    )
    assert torch.equal(found, expected)


@both_kinds
def test_norms_that_go_by_the_batch_are_not_folded(onednn: bool) -> None:
    torch.manual_seed(0)
    without = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    training = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    training[1].train()
    for network in (without.eval(), training):
        engine = fuse(network, "1", onednn=onednn)
        assert calls(engine) == 2
        (expected,) = GraphEngine(network, [Target("1", 0)])(images(2))
        assert deviation(run(engine, images(2))[0], expected.detach()) <= 1e-5


class SharedNorm(nn.Module):
    """One convolution and one norm, each called twice, in other company."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        y = self.norm(self.other(x))
        return self.relu(self.conv(x) + y)


@both_kinds
def test_shared_modules(onednn: bool) -> None:
    torch.manual_seed(0)
    network = lively(SharedNorm())
    assert calls(fuse(network, "output", onednn=onednn)) == 3
    equals_plain_hooks(network, onednn)


@both_kinds
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(4, 4, 3, padding="same"),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        lambda: nn.Conv2d(4, 4, 3).double(),
    ],
)
def test_other_convolutions_stay(onednn: bool, conv: Callable[[], nn.Module]) -> None:
    with pytest.raises(NothingToFuseError):
        fuse(nn.Sequential(conv(), nn.ReLU()).eval(), "1", onednn=onednn)


@both_kinds
def test_a_hook_still_sees_its_module(onednn: bool) -> None:
    network = stack(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    handle = network[1].register_forward_hook(lambda _m, _a, output: output * 2)
    equals_plain_hooks(network, onednn)
    handle.remove()


# --- sums ----------------------------------------------------------------------------------------


@both_kinds
def test_a_bottleneck_is_a_call_a_convolution(onednn: bool) -> None:
    torch.manual_seed(0)
    network = lively(nn.Sequential(Bottleneck(4, 2, 1), Bottleneck(8, 2, 1), Bottleneck(8, 2, 2)))
    engine = fuse(network, "output", onednn=onednn)
    assert calls(engine) == len(convolutions(engine)) == 4 + 3 + 4
    if onednn:
        assert sum(conv.onto_other for conv in convolutions(engine)) == 3
    equals_plain_hooks(network, onednn)


class Sums(nn.Module):
    """Sums a convolution's result with whatever `what` makes of the input."""

    def __init__(self, what) -> None:
        super().__init__()
        self.first, self.body, self.last = convolution(), convolution(), convolution()
        self.what = what

    def forward(self, x):
        return self.what(self, self.first(x))


def the_input_is_read_later(self, x):
    return functional.relu(self.body(x) + x) - x


def a_view_is_read_later(self, x):
    view = x.flatten(1)
    return (self.body(x) + x).flatten(1) * view


def a_fused_convolution_reads_it_later(self, x):
    y = self.last(x)  # stands where the relu below is
    z = self.body(x) + x
    return torch.cat((torch.relu(y), z))


def both_are_convolutions(self, x):
    return torch.relu(self.body(x) + self.last(x))


def doubled(self, x):
    y = self.body(x)
    return y + y


def summed_with_less(self, x):
    return self.body(x) + x.mean((2, 3), keepdim=True)


def summed_with_more(self, x):
    return torch.relu(self.body(x).mean((2, 3), keepdim=True) + self.last(x))


def summed_with_a_number(self, x):
    return torch.relu(self.body(x) + 1)


def scaled_sum(self, x):
    return torch.add(self.body(x), x, alpha=3)


def the_input_is_written_between(self, x):
    y = self.body(x)
    x.mul_(-1)
    return torch.relu(y) + x


def the_other_is_written_between(self, x):
    z = x * 1
    y = self.body(x) + z
    z.mul_(-1)
    return torch.relu(y) + z


def the_sum_is_another_convolutions_too(self, x):
    y = self.last(x) + self.body(x)
    return torch.relu(y) + y


SUMS = (
    the_input_is_read_later,
    a_view_is_read_later,
    a_fused_convolution_reads_it_later,
    both_are_convolutions,
    doubled,
    summed_with_less,
    summed_with_more,
    summed_with_a_number,
    scaled_sum,
    the_input_is_written_between,
    the_other_is_written_between,
    the_sum_is_another_convolutions_too,
)


@both_kinds
@pytest.mark.parametrize("what", SUMS, ids=lambda f: f.__name__)
def test_sums_equal_plain_hooks(onednn: bool, what) -> None:
    torch.manual_seed(0)
    equals_plain_hooks(lively(Sums(what)), onednn)


def test_what_is_read_later_is_not_written_over() -> None:
    kept = (the_input_is_read_later, a_view_is_read_later, a_fused_convolution_reads_it_later)
    for what in (*kept, both_are_convolutions):
        engine = fuse(lively(Sums(what)), "output", onednn=True)
        over = [c for c in convolutions(engine) if isinstance(c, OneDNNConv) and c.onto_other]
        assert len(over) == (what is both_are_convolutions), what


blocks = st.one_of(
    # `view` fails on channels-last input, which fused convolutions have.
    st.sampled_from([after for after in AFTER if after is not view_then_write]).map(
        lambda after: lambda: Lambda(after)
    ),
    st.sampled_from([what for what in SUMS if what is not a_view_is_read_later]).map(
        lambda what: lambda: Sums(what)
    ),
    st.sampled_from(LEAVES),
    st.just(convolution),
    st.just(lambda: nn.Conv2d(4, 4, 1, bias=False)),
    st.just(lambda: nn.BatchNorm2d(4)),
)


@both_kinds
@settings(max_examples=25, deadline=None)
@given(made=st.lists(blocks, min_size=1, max_size=5), seed=st.integers(0, 99), data=st.data())
def test_random_networks_equal_plain_hooks(onednn: bool, made, seed: int, data) -> None:
    torch.manual_seed(seed)
    modules = [make() for make in made]
    again = data.draw(st.lists(st.sampled_from(modules), max_size=2))
    network = lively(nn.Sequential(*modules, *again))
    equals_plain_hooks(network, onednn)


@both_kinds
def test_heads_that_are_written_to(onednn: bool) -> None:
    torch.manual_seed(0)
    equals_plain_hooks(lively(TwoHeads()), onednn)


# --- in use --------------------------------------------------------------------------------------


def capture_of(network: nn.Module, *texts: str, engine: str = "auto"):
    addresses = [a for text in texts for a in ModulePaths(network).resolve(text)]
    return prepare(network, addresses, images, device=CPU, engine=engine)


def test_wrong_numbers_are_not_used(monkeypatch) -> None:
    network = stack(convolution(), nn.ReLU())
    expected = plain_hooks(network, images(5))[Target("1", 0)]
    wrong = lambda conv, norm: tuple(1.001 * t for t in folded(conv, norm))  # noqa: E731
    monkeypatch.setattr(fused_module, "folded", wrong)
    capture = capture_of(network, "1")
    assert capture.engine == "graph"
    assert deviation(torch.from_numpy(capture(images(5))["1"]), expected) <= 1e-6


def test_nothing_to_fuse() -> None:
    assert capture_of(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval(), "1").engine == "graph"


def test_the_networks_own_weights_stay_as_they_are() -> None:
    network = stack(convolution(), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture = capture_of(network, "1")
    capture(images(2))
    assert capture.engine == "fused"
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert network[0][0].weight.is_contiguous()
    graph = graph_of(capture.run)
    assert graph is not None
    assert capture.weight_bytes == sum(4 * p.numel() for p in network.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precisions_have_convolutions_of_their_own(precision: str) -> None:
    network = stack(convolution(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    usual = capture_of(network, "1", "4")
    if precision == "float16" and not torch.autocast("cpu", torch.float16)._enabled:
        pytest.skip("this torch computes in no float16 on processors")
    reduced = in_precision(usual, precision, images)
    assert (usual.engine, reduced.engine, reduced.precision) == ("fused", "fused", precision)
    (conv,) = convolutions(reduced.run)
    assert conv.bias.dtype == getattr(torch, precision)
    found, expected = reduced(images(5)), usual(images(5))
    for path, b in expected.items():
        assert 1e-5 < deviation(*map(torch.from_numpy, (found[path], b))) <= BOUNDS[precision]


def test_a_reduced_precision_out_of_its_bound_is_left_to_the_graph(monkeypatch) -> None:
    usual = capture_of(stack(convolution(), nn.ReLU()), "1")
    monkeypatch.setitem(engine_module.BOUNDS, "bfloat16", 1e-9)
    reduced = in_precision(usual, "bfloat16", images)
    assert (reduced.engine, reduced.run) == ("graph", graph_of(usual.run))
    assert reduced(images(2))["1"].shape == (2, 4, 6, 6)


def test_other_engines_only_change_the_arithmetic() -> None:
    usual = capture_of(stack(convolution(), nn.ReLU()), "1", engine="hooks")
    reduced = in_precision(usual, "bfloat16", images)
    assert (reduced.engine, reduced.run, reduced.precision) == ("hooks", usual.run, "bfloat16")
