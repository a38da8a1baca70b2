"""How batches travel to a device and back.

Batches are sent by several threads, and on a CUDA device each thread has a stream of its own. All
that a batch needs, the copy in, the network and the copy out, is queued on that one stream, so
that within a batch everything happens in order; between batches nothing is ordered, so that one is
copied while another is computed. Both copies are from and to pinned memory, the only kind that a
device copies without the processor.

Why nothing is overwritten too early: a tensor on the device is allocated, used and freed on the
same stream, and torch gives its memory only to later work of that stream. Pinned memory that is
freed while a copy from it is under way is kept by torch until the copy is done. The weights come
from the default stream; a lane waits for it once, when it is made. What is copied out is read only
after an event behind the copy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch

__all__ = ["Lane", "lane_of_this_thread"]


class Lane:
    """The way to a device that shares its memory with this process, or hides how it copies."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Queue what the block does on this lane."""
        yield

    def send(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs on the device; as they are where they are there already."""
        return inputs.to(self.device)

    def fetch(self, results: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
        """Return contiguous tensors of the device as arrays, once they are computed."""
        return {name: result.cpu().numpy() for name, result in results.items()}


class _CudaLane(Lane):
    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.default_stream(device))

    @contextmanager
    def entered(self) -> Iterator[None]:
        with torch.cuda.stream(self._stream):
            yield

    def send(self, inputs: torch.Tensor) -> torch.Tensor:
        pinned = inputs.pin_memory() if inputs.device.type == "cpu" else inputs
        return pinned.to(self.device, non_blocking=True)

    def fetch(self, results: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
        fetched = {
            name: torch.empty(result.shape, dtype=result.dtype, pin_memory=True).copy_(
                result, non_blocking=True
            )
            for name, result in results.items()
        }
        # Blocking, not spinning: the processor has images to decode meanwhile.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(self._stream)
        done.synchronize()
        return {name: tensor.numpy() for name, tensor in fetched.items()}


_lanes = threading.local()


def lane_of_this_thread(device: torch.device) -> Lane:
    """Return the lane by which this thread reaches a device; always the same one."""
    if device.type != "cuda":
        return Lane(device)
    mine: dict[torch.device, Lane] = _lanes.__dict__.setdefault("by_device", {})
    if device not in mine:
        mine[device] = _CudaLane(device)
    return mine[device]
