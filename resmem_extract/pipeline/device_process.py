"""What runs inside the process of one device. `devices.py` starts it and talks to it.

It is told its work, answers whether it is ready, and from then on answers batches of pixels with
activations, until the other side closes the streams or dies.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ..cache import cache_dir
from ..config import RunOptions
from ..errors import ImageError, ResmemExtractError, WorkError
from ..models import load_model
from ..types import NO_REDUCTION, Reduction
from .messages import receive, send
from .run import prepare_capture

if TYPE_CHECKING:
    from ..capture import Capture, Captured
    from ..models.base import Model

__all__ = ["DeviceWork", "Failure", "NamedModel", "Ready", "pack", "serve"]


@dataclass(frozen=True)
class NamedModel:
    """A model that each process loads for itself."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `load_model`."""


@dataclass(frozen=True)
class DeviceWork:
    """What every device does with one network."""

    model: Model | NamedModel
    """A `Model` is sent to each process with its weights, a `NamedModel` only by its name."""
    modules: tuple[str, ...]
    """Module paths, in any form."""
    asked: RunOptions
    """Only `engine` and `precision` count; give the engine that the run's plan has."""
    reduction: Reduction = NO_REDUCTION
    compile_for: int | None = None
    """The size of the batches to compile for; None for no compiling."""


@dataclass(frozen=True)
class Ready:
    """How a process will run one network."""

    captured: tuple[Captured, ...]
    engine: str
    """Apart from compiling."""
    channels_last: bool
    not_compiled: str | None
    """Why compiling failed, if it did."""
    hardware: str
    """Name of the GPU; empty for a processor."""


@dataclass(frozen=True)
class Failure:
    """An error on its way to the parent. Errors themselves do not all survive pickling."""

    kind: str
    """Name of a class in `errors`."""
    line: str
    traceback: str

    @classmethod
    def of(cls, error: Exception, device: str) -> Failure:
        """Return the record of an error; one that nobody foresaw becomes a `WorkError`."""
        line = (str(error).splitlines() or [""])[0]
        kind = WorkError.__name__
        if isinstance(error, ResmemExtractError):
            kinds = (
                c.__name__
                for c in type(error).__mro__
                if c.__module__ == ResmemExtractError.__module__
            )
            kind = next(kinds)
        else:
            line = f"{device}: {type(error).__name__}: {line}".removesuffix(": ")
        return cls(kind, line, "".join(traceback.format_exception(error)))

    def error(self) -> ResmemExtractError:
        """Return the error to raise in the parent."""
        if self.kind == ImageError.__name__:
            image_id, _, reason = self.line.partition(": ")
            return ImageError(image_id, reason)
        error: ResmemExtractError = getattr(sys.modules[ResmemExtractError.__module__], self.kind)(
            self.line
        )
        return error


def pack(works: Sequence[DeviceWork]) -> npt.NDArray[Any]:
    """Return the work of the processes as bytes, networks with their weights among it.

    torch's own format, since a network on one GPU is to arrive on the processor.
    """
    import numpy as np
    import torch

    parcel = io.BytesIO()
    # `replace` leaves behind what a model has found out about itself and can find out again
    bare = [
        work if isinstance(work.model, NamedModel) else replace(work, model=replace(work.model))
        for work in works
    ]
    torch.save(bare, parcel)
    return np.frombuffer(parcel.getbuffer(), np.uint8)


def serve(device: str, threads: int, lanes: Sequence[socket.socket]) -> None:
    """Be the process of a device, until the parent closes the lanes.

    Parameters
    ----------
    device : str
    threads : int
        For each operation on the processor.
    lanes : sequence of socket.socket
        Each carries one batch at a time: one lane's batch travels while another's is computed.
        The first one also carries what comes before the batches.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent sees to it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # On a processor one thread does all that has to do with networks, and has all its cores.
    computing = 1 if device == "cpu" else len(lanes)
    with suppress(EOFError, ConnectionError), ThreadPoolExecutor(computing) as worker:
        parcel = receive(lanes[0])

        def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return worker.submit(function, *arguments).result()
            except Exception as error:  # a network's own code may fail in any way
                return Failure.of(error, device)

        prepared = attempt(_prepare, parcel, device, threads)
        del parcel
        if isinstance(prepared, Failure):
            send(lanes[0], prepared)
            return
        send(lanes[0], [network.ready for network in prepared])
        networks = [
            network if compiled else replace(network, capture=network.capture.fallback)
            for network, compiled in zip(prepared, receive(lanes[0]), strict=True)
        ]

        def answer(lane: socket.socket) -> None:
            with suppress(EOFError, ConnectionError):
                while True:
                    index, pixels = receive(lane)
                    send(lane, attempt(networks[index], pixels))

        with ThreadPoolExecutor(len(lanes)) as answering:
            list(answering.map(answer, lanes))


def _end_with_parent() -> None:
    """End this process with its parent, whatever it is busy with: nobody wants the result."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True)
class _Network:
    model: Model
    capture: Capture
    reduction: Reduction
    ready: Ready

    def __call__(self, pixels: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        return self.capture(self.model.preprocessing.batch(pixels), self.reduction)


def _prepare(parcel: npt.NDArray[Any], device: str, threads: int) -> list[_Network]:
    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    works = torch.load(io.BytesIO(parcel.data), map_location="cpu", weights_only=False)
    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return [_prepare_one(work, device, hardware) for work in works]


def _prepare_one(work: DeviceWork, device: str, hardware: str) -> _Network:
    from ..capture import CannotCompileError, compile_capture

    model = work.model
    if isinstance(model, NamedModel):
        model = load_model(model.name, **model.options)
    asked = work.asked.model_copy(update={"device": device})
    # The parent has told the notes already, of its own capture.
    eager = prepare_capture(model, work.modules, asked, lambda _note: None)
    capture, reason = replace(eager, fallback=eager), None
    if work.compile_for is not None:
        try:
            capture = compile_capture(
                eager, model.noise(), work.compile_for, cache_dir() / "inductor"
            )
        except CannotCompileError as error:
            reason = str(error)
    ready = Ready(eager.captured, eager.engine, eager.channels_last, reason, hardware)
    return _Network(model, capture, model.adapt(work.reduction), ready)
