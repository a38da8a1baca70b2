"""How a run uses the machine: decided once, told, recorded, and the same for all images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import RunOptions

if TYPE_CHECKING:
    from ..capture import Capture

__all__ = ["Plan", "choose_plan", "choose_workers", "common_plan", "cores", "plan_for_devices"]

_GPU_STREAMS = 2  # one batch is copied while another is computed
_MOST_STREAMS = 8  # each holds the activations of a batch
_MOST_WORKERS = 16
_LARGE_WEIGHTS = 2**26


@dataclass(frozen=True)
class Plan:
    """How many images, batches and threads are at work at the same time.

    On a processor, `streams` batches go through the network side by side, each with few threads:
    cores that work on different batches never wait for one another, as they do within each layer
    of one batch. `benchmarks/threads.py` shows what that gives. On a GPU, one of them is copied to
    or from the device while another is computed.
    """

    batch_size: int
    """Images in one forward pass; batches are cut at multiples of it, whatever is skipped."""
    streams: int
    """Batches in the network at the same time."""
    threads: int
    """Threads that work on one batch."""
    workers: int
    """Threads that decode images."""

    def __str__(self) -> str:
        return (
            f"batches of {self.batch_size}, {self.streams} at a time, {self.threads} "
            f"thread{'s'[: self.threads > 1]} each; {self.workers} "
            f"thread{'s'[: self.workers > 1]} decoding"
        )


def choose_plan(capture: Capture, asked: RunOptions, *, compiled: bool = False) -> Plan:
    """Choose from the machine what the user left open.

    On a processor a compiled graph is run by one batch at a time: its code keeps Python's lock
    while it works.
    """
    available = cores()
    on_cpu = capture.device.type == "cpu"
    usual = {"cpu": min(available, _MOST_STREAMS), "cuda": _GPU_STREAMS}
    streams = asked.streams or usual.get(capture.device.type, 1)
    if on_cpu and (compiled or not capture.concurrent):
        streams = 1
    return Plan(
        batch_size=asked.batch_size or (_images_on_cpu(capture, streams) if on_cpu else 64),
        streams=streams,
        threads=asked.threads or max(1, available // streams),
        workers=choose_workers(asked) if on_cpu or asked.workers is not None else available,
    )


def _images_on_cpu(capture: Capture, streams: int) -> int:
    """Return a batch size for a processor.

    Two images a stream leave activations in the caches and memory flat; where a network's weights
    are too large for the caches, more images have to share each reading of them.
    """
    if streams == 1:
        return 16
    return 2 if capture.weight_bytes < _LARGE_WEIGHTS else 8


def plan_for_devices(plan: Plan, asked: RunOptions, n_devices: int) -> Plan:
    """Return a plan for several devices, each with a process and a share of the cores."""
    threads = asked.threads or max(1, cores() // n_devices)
    return replace(plan, streams=n_devices, threads=threads)


def common_plan(plans: Sequence[Plan]) -> Plan:
    """Return the plan for several networks that see the same batches: the most careful one."""
    return min(plans, key=lambda plan: (plan.streams, -plan.threads))


def choose_workers(asked: RunOptions) -> int:
    """Return how many threads decode: half the cores by default, as the network needs them more."""
    if asked.workers is not None:
        return asked.workers
    return max(1, min(_MOST_WORKERS, cores() // 2))


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
