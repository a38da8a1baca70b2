"""Networks made ready for images: in this process, or on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import RunOptions
from ..types import NO_REDUCTION, CompileChoice, Reduction
from .compiling import compiled_if_worthwhile, should_compile
from .devices import DeviceWork, device_processes
from .plan import Plan, choose_plan, common_plan, plan_for_devices
from .run import Runner, Tell, runner

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["Network", "ReadyNetworks", "ready_networks"]


@dataclass(frozen=True)
class Network:
    """A model, what is captured of it, and what the user asked for."""

    model: Model
    capture: Capture
    modules: tuple[str, ...]
    compile: CompileChoice | None = None
    """Where that is settled already, by work that is continued; else as the user asked."""

    def asked(self, asked: RunOptions) -> RunOptions:
        """Return what is asked of this network."""
        return asked if self.compile is None else asked.model_copy(update={"compile": self.compile})


@dataclass(frozen=True)
class ReadyNetworks:
    """What `run.batches` needs, and what is recorded of it."""

    runners: tuple[Runner, ...]
    """One a network."""
    plan: Plan
    engines: tuple[str, ...]
    """One a network."""
    device: str
    """`cpu`, or `cuda:0,cuda:1`."""


@contextmanager
def ready_networks(
    networks: Sequence[Network],
    asked: RunOptions,
    n_images: int,
    tell: Tell,
    reduction: Reduction = NO_REDUCTION,
) -> Iterator[ReadyNetworks]:
    """Compile what pays, start a process a device where there are several, and tell the plan."""
    from ..capture import split_devices

    devices = split_devices(asked.device)
    if len(devices) == 1:
        ready = _here(networks, asked, n_images, tell, reduction)
        tell(str(ready.plan))
        yield ready
        return
    plan = plan_for_devices(choose_plan(networks[0].capture, asked), asked, len(devices))
    works = [
        DeviceWork(
            network.model,
            network.modules,
            asked.model_copy(
                update={
                    "device": devices[0],
                    "engine": network.capture.engine,
                    "transform": None,  # the model has it; a function of its own may not travel
                }
            ),
            reduction,
            plan.batch_size
            if should_compile(
                network.model, network.capture, plan, network.asked(asked), n_images, tell
            )
            else None,
        )
        for network in networks
    ]
    with device_processes(works, devices, plan.threads) as processes:
        for note in processes.notes:
            tell(note)
        plan = replace(plan, streams=processes.streams)
        tell(str(plan))
        runners = (
            Runner(network.model.preprocessing.image, run)
            for network, run in zip(networks, processes.runs, strict=True)
        )
        yield ReadyNetworks(tuple(runners), plan, processes.engines, ",".join(devices))


def _here(
    networks: Sequence[Network],
    asked: RunOptions,
    n_images: int,
    tell: Tell,
    reduction: Reduction,
) -> ReadyNetworks:
    ready = [
        compiled_if_worthwhile(network.model, network.capture, network.asked(asked), n_images, tell)
        for network in networks
    ]
    return ReadyNetworks(
        tuple(
            runner(network.model, capture, reduction)
            for network, (capture, _) in zip(networks, ready, strict=True)
        ),
        common_plan([plan for _, plan in ready]),
        tuple(capture.engine for capture, _ in ready),
        str(networks[0].capture.device),
    )
