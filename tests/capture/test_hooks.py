from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from small_networks import TwoHeads, images, plain_hooks
from torch import nn

from resmem_extract.capture import HookEngine, Target
from resmem_extract.capture.hooks import hooked
from resmem_extract.errors import WorkError


class Steps(nn.Module):
    """Adds one in each step and keeps a record of the steps that were run."""

    def __init__(self, swallow: type[BaseException] = KeyError) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Identity() for _ in range(4))
        self.swallow = swallow
        self.ran: list[int] = []

    def forward(self, x):
        for i, step in enumerate(self.steps):
            with suppress(self.swallow):
                x = step(x + 1)
            self.ran.append(i)
        return x


def n_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in network.modules())


def test_early_stop_really_stops() -> None:
    network = Steps()
    engine = HookEngine(network, [Target("steps.1", 0), Target("steps.0", 0)], stop_early=True)
    second, first = engine(torch.zeros(2))
    assert (second.tolist(), first.tolist()) == ([2, 2], [1, 1])
    assert network.ran == [0]  # the step after which it stopped never came back
    assert n_hooks(network) == 0


def test_without_early_stop_the_whole_network_runs() -> None:
    network = Steps()
    (first,) = HookEngine(network, [Target("steps.0", 0)], stop_early=False)(torch.zeros(2))
    assert first.tolist() == [1, 1]
    assert network.ran == [0, 1, 2, 3]
    assert n_hooks(network) == 0


def test_network_that_catches_exceptions_does_not_swallow_the_stop() -> None:
    network = Steps(swallow=Exception)
    (second,) = HookEngine(network, [Target("steps.1", 0)], stop_early=True)(torch.zeros(2))
    assert second.tolist() == [2, 2]
    assert network.ran == [0]


def test_network_that_catches_everything_still_gives_right_numbers() -> None:
    network = Steps(swallow=BaseException)
    (second,) = HookEngine(network, [Target("steps.1", 0)], stop_early=True)(torch.zeros(2))
    assert second.tolist() == [2, 2]


def test_same_target_twice_stops_as_well() -> None:
    network = Steps()
    twice = HookEngine(network, [Target("steps.0", 0)] * 2, stop_early=True)(torch.zeros(1))
    assert [t.tolist() for t in twice] == [[1], [1]]
    assert network.ran == []


def test_call_counts_start_anew_with_every_forward_pass() -> None:
    shared = nn.Hardtanh(-1, 1)
    network = nn.Sequential(shared, nn.Linear(2, 2), shared)
    engine = HookEngine(network, [Target("0", 1)], stop_early=True)
    for value in (0.1, 0.2):
        (second,) = engine(torch.full((1, 2), value))
        assert torch.equal(second, network(torch.full((1, 2), value)))


def test_hooks_are_removed_after_an_exception() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ReLU()

        def forward(self, x):
            self.body(x)
            raise RuntimeError("on purpose")

    network = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        HookEngine(network, [Target("output", 0)], stop_early=True)(torch.zeros(1))
    assert n_hooks(network) == 0


def test_course_that_depends_on_the_images_is_named() -> None:
    class Skips(Steps):
        def forward(self, x):
            return self.steps[0](x) if float(x.sum()) > 0 else x

    engine = HookEngine(Skips(), [Target("steps.0", 0)], stop_early=True)
    assert engine(torch.ones(1))[0].tolist() == [1]
    with pytest.raises(WorkError, match=r"made no call 0 of steps\.0 for this batch"):
        engine(-torch.ones(1))


def test_hooked_counts_calls_and_leaves_other_hooks_alone() -> None:
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Identity(), shared)
    own = shared.register_forward_hook(lambda *_args: None)
    seen: list[tuple[str, int]] = []
    with hooked(network, ["0", "output", "0"], lambda name, call, _out: seen.append((name, call))):
        network(torch.zeros(1))
    assert seen == [("0", 0), ("0", 1), ("output", 0)]
    assert n_hooks(network) == 1
    own.remove()


@pytest.mark.parametrize("stop_early", [True, False])
def test_every_target_equals_plain_hooks(stop_early: bool) -> None:
    torch.manual_seed(0)
    network = TwoHeads().eval()
    expected = plain_hooks(network, images(2))
    engine = HookEngine(network, list(expected), stop_early=stop_early)
    with torch.inference_mode():
        found = engine(images(2))
    assert all(torch.equal(a, b) for a, b in zip(found, expected.values(), strict=True))
    left = Target("output", 0, ("both", 0))
    assert (expected[Target("left", 0)] < 0).any() and not (expected[left] < 0).any()
