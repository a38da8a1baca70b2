from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_networks import convolution, images, plain_hooks
from torch import nn
from torch.nn import functional

from resmem_extract.capture import deviation, pick_device, prepare, reduced_shape
from resmem_extract.capture.reduce import reduce
from resmem_extract.errors import RequestError, WorkError
from resmem_extract.module_path import ModulePaths
from resmem_extract.types import Reduction, TokenLayout

CPU = torch.device("cpu")


def capture_of(network: nn.Module, *texts: str, make_input=images, engine: str = "auto"):
    addresses = [a for text in texts for a in ModulePaths(network).resolve(text)]
    return prepare(network, addresses, make_input, device=CPU, engine=engine)


# --- deviation -----------------------------------------------------------------------------------

finite = hnp.arrays(np.float32, (2, 3), elements=st.floats(-1e3, 1e3, width=32))


@given(finite, finite)
def test_deviation_equals_its_formula(a: np.ndarray, b: np.ndarray) -> None:
    found = deviation(torch.from_numpy(a), torch.from_numpy(b))
    if np.array_equal(a, b):
        assert found == 0
    elif not b.any():
        assert found == math.inf
    else:
        with np.errstate(over="ignore"):
            expected = np.abs(a - b).max() / np.abs(b).max()
        assert found == pytest.approx(expected, rel=1e-6)


def test_deviation_of_special_cases() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert deviation(zero, zero) == 0
    assert deviation(one, zero) == math.inf
    assert deviation(zero, one) == 1
    assert math.isnan(deviation(torch.tensor([math.nan, 1]), one))
    assert math.isnan(deviation(one, torch.tensor([math.nan, 1])))


# --- the choice of an engine ---------------------------------------------------------------------


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolution()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.body(x)
        return self.head(y.mean((2, 3)) if float(y.abs().sum()) < 1e9 else y[..., 0, 0])


def traceable() -> nn.Module:
    return nn.Sequential(convolution(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("engine", ["auto", "fused", "graph", "hooks", "reference"])
def test_engines_agree(engine: str) -> None:
    torch.manual_seed(0)
    network = traceable().eval()
    expected = plain_hooks(network, images(5))
    capture = capture_of(network, "**", engine=engine)
    assert capture.engine == ("fused" if engine == "auto" else engine)
    assert capture.channels_last == (capture.engine in ("fused", "graph"))
    found = capture(images(5))
    assert list(found) == ["0", "0.0", "0.1", "1", "2", "3", "output"]
    for captured in capture.captured:
        assert deviation(torch.from_numpy(found[captured.path]), expected[captured.target]) <= 1e-5
        assert found[captured.path].flags.c_contiguous


@pytest.mark.parametrize(("asked", "used"), [("auto", "hooks"), ("reference", "reference")])
def test_engine_of_an_untraceable_network(asked: str, used: str) -> None:
    capture = capture_of(Untraceable(), "body", "output", engine=asked)
    assert (capture.engine, capture.channels_last, capture.notes) == (used, False, ())


def test_engine_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"engine 'graph' cannot run this network .*--engine auto"
    ):
        capture_of(Untraceable(), "body", engine="graph")


def test_network_is_put_into_evaluation_mode() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(convolution(), nn.Dropout(0.5)).train()
    capture = capture_of(network, "1")
    assert not network.training
    assert np.array_equal(capture(images(2))["1"], capture(images(2))["1"])


# --- what cannot be relied on --------------------------------------------------------------------


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_batch_dependent_network_is_told() -> None:
    capture = capture_of(nn.Sequential(Centred(), nn.ReLU()), "0", "1")
    assert capture.engine == "reference"
    (note,) = capture.notes
    assert note.startswith("activations depend on the other images of a batch (by ")
    inputs = images(2)
    assert abs(capture(inputs)["0"] - (inputs - inputs.mean(0)).numpy()).max() < 1e-6


def test_network_that_draws_random_numbers_is_told() -> None:
    class AlwaysDropout(nn.Module):
        def forward(self, x):
            return functional.dropout(x, training=True)

    network = nn.Sequential(nn.ReLU(), AlwaysDropout())
    (note,) = capture_of(network, "0", "1").notes
    assert note.startswith("activations of the same images differ from run to run (by ")
    assert capture_of(network, "0").notes == ()


def test_nan_in_a_later_module_is_not_overlooked() -> None:
    class NaNOfThree(nn.Module):
        def forward(self, x):
            return x * (float("nan") if len(x) == 3 else 1)

    capture = capture_of(nn.Sequential(nn.ReLU(), NaNOfThree()), "0", "1")
    assert capture.notes == ("activations depend on the other images of a batch (by nan)",)


def test_network_that_writes_on_its_input() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(inplace=True), convolution()).eval()
    stack = images(8)
    before = stack.clone()
    capture = capture_of(network, "0", "1", make_input=lambda n: stack[:n])
    assert (capture.engine, capture.notes) == ("fused", ())
    found = capture(stack)
    assert torch.equal(stack, before)
    assert np.array_equal(found["0"], before.clamp(min=0).numpy())


@pytest.mark.parametrize("engine", ["graph", "hooks", "reference"])
def test_result_does_not_share_memory_with_the_input(engine: str) -> None:
    capture = capture_of(nn.Sequential(nn.Identity()), "0", engine=engine)
    inputs = images(2)
    found = capture(inputs)["0"]
    inputs.zero_()
    assert np.array_equal(found, images(2).numpy())


@pytest.mark.parametrize("engine", ["fused", "graph", "hooks", "reference"])
def test_network_can_still_be_trained_afterwards(engine: str) -> None:
    torch.manual_seed(0)
    network = traceable()
    parameters = list(network.parameters())
    capture = capture_of(network, "3", engine=engine)
    assert isinstance(capture(images(2))["3"], np.ndarray)
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    assert not any(p.is_inference() or p.grad is not None for p in parameters)
    network.train()(images(2)).sum().backward()
    assert all(p.grad is not None for p in parameters)


# --- arithmetic and devices ----------------------------------------------------------------------


class SeesFlags(nn.Module):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []
        self.fails = fails

    def forward(self, x):
        self.seen.append(flags())
        if self.fails:
            raise ValueError("on purpose")
        return x * 2


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_flags(values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = values


@pytest.fixture
def tf32():
    """Sets both flags; `monkeypatch` cannot undo what torch keeps behind properties."""
    original = flags()
    yield set_flags
    set_flags(original)


@pytest.mark.parametrize("before", [(True, True), (True, False), (False, False)])
def test_tf32_is_off_while_it_runs_and_restored(before: tuple[bool, bool], tf32) -> None:
    tf32(before)
    network = SeesFlags()
    capture = capture_of(network, "output", engine="reference")
    assert flags() == before
    capture(images(2))
    assert flags() == before
    assert set(network.seen) == {(False, False)}
    network.fails = True
    with pytest.raises(ValueError, match="on purpose"):
        capture(images(2))
    assert flags() == before


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device() == pick_device("auto")
    with pytest.raises(RequestError) as raised:
        pick_device("cuda:99")
    assert str(raised.value).startswith("device 'cuda:99' is not on this machine, which has: cpu")
    with pytest.raises(RequestError, match="device 'gpu' is not known; expected auto, cpu, cuda"):
        pick_device("gpu")
    with pytest.raises(RequestError, match="device 'meta' is not on this machine"):
        pick_device("meta")


# --- out of memory -------------------------------------------------------------------------------


class Limited(nn.Module):
    """Has memory for `limit` images."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 100
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.limit:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return x.flatten(1) * 3


@pytest.mark.parametrize(
    ("n", "limit", "batches"),
    [
        (8, 100, [8]),
        (8, 4, [8, 4, 4]),
        (7, 3, [7, 4, 2, 2, 3]),
        (5, 1, [5, 3, 2, 1, 1, 1, 2, 1, 1]),
    ],
)
def test_batch_is_halved_until_it_fits(n: int, limit: int, batches: list[int]) -> None:
    network = Limited()
    capture = capture_of(network, "output")
    network.limit = limit
    network.batches.clear()
    found = capture(images(n), Reduction(flatten=True))["output"]
    assert network.batches == batches
    assert np.array_equal(found, images(n).flatten(1).numpy() * 3)


def test_single_image_that_does_not_fit() -> None:
    network = Limited()
    capture = capture_of(network, "output")
    network.limit = 0
    with pytest.raises(WorkError) as raised:
        capture(images(4))
    assert str(raised.value) == "cpu has not enough memory for one image; use --device cpu"


# --- reductions ----------------------------------------------------------------------------------

batches = hnp.array_shapes(min_dims=1, max_dims=5, max_side=4).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32))
)
POOLED_AXES = {1: (), 2: (), 3: (1,), 4: (2, 3), 5: (2, 3, 4)}


@settings(max_examples=200, deadline=None)
@given(batches, st.sampled_from(["none", "avg", "max"]), st.booleans())
def test_reduction_equals_numpy(batch: np.ndarray, pool: str, flatten: bool) -> None:
    found = reduce(torch.from_numpy(batch), Reduction(pool, flatten)).numpy()
    expected = batch
    axes = POOLED_AXES[batch.ndim]
    if batch.ndim == 4 and batch.shape[1] == batch.shape[2] != batch.shape[3]:
        axes = (1, 2)  # channels last
    if pool != "none" and axes:
        expected = batch.mean(axes) if pool == "avg" else batch.max(axes)
    if batch.ndim == 1 or flatten:
        expected = expected.reshape(len(batch), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    shape, names = reduced_shape(batch.shape[1:], Reduction(pool, flatten))
    assert (len(batch), *shape) == found.shape
    assert len(names) == len(shape)


CLS, AXES = TokenLayout(1, True), ("channel", "height", "width")


@pytest.mark.parametrize(
    ("shape", "reduction", "expected"),
    [
        ((), Reduction(), ((1,), ("unit",))),
        ((5,), Reduction("avg", True), ((5,), ("unit",))),
        ((7, 5), Reduction(), ((7, 5), ("token", "unit"))),
        ((7, 5), Reduction("max"), ((5,), ("unit",))),
        ((8, 3, 2), Reduction(), ((8, 3, 2), ("channel", "height", "width"))),
        ((8, 3, 2), Reduction("avg"), ((8,), ("channel",))),
        ((8, 3, 2), Reduction("none", True), ((48,), ("unit",))),
        ((7, 7, 96), Reduction(), ((7, 7, 96), ("height", "width", "channel"))),
        ((7, 7, 96), Reduction("avg"), ((96,), ("channel",))),
        ((7, 7, 7), Reduction("avg"), ((7,), ("channel",))),
        ((7, 5), Reduction(tokens="mean"), ((5,), ("unit",))),
        ((7, 5), Reduction(tokens="cls+mean", layout=CLS), ((10,), ("unit",))),
        ((7, 5), Reduction("avg", True, "cls", CLS), ((5,), ("unit",))),
        ((8, 3, 2), Reduction("none", False, "cls", CLS), ((8, 3, 2), AXES)),
        ((8, 3, 2, 2), Reduction(), ((8, 3, 2, 2), ("channel", "axis2", "axis3", "axis4"))),
        ((8, 3, 2, 2), Reduction("avg", True), ((8,), ("channel",))),
    ],
)
def test_shapes_and_axis_names(shape: tuple, reduction: Reduction, expected: tuple) -> None:
    assert reduced_shape(shape, reduction) == expected


def test_flattening_of_channels_last_follows_the_order_of_the_axes() -> None:
    torch.manual_seed(0)
    network = convolution().eval()
    expected = plain_hooks(network, images(3))
    capture = capture_of(network, "0")
    assert capture.channels_last
    found = capture(images(3), Reduction(flatten=True))["0"]
    (target,) = (c.target for c in capture.captured)
    assert abs(found - expected[target].numpy().reshape(3, -1)).max() < 1e-6
