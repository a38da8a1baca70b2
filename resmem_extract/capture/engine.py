"""A network made ready to turn batches of images into named activations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..errors import OverflowInDtypeError, RequestError, WorkError
from ..path_grammar import Address
from ..types import NO_REDUCTION, EngineName, Precision, Reduction
from .attention import expose_attention
from .device import arithmetic, autocast_dtype
from .dry_run import FEW, MORE, Captured, MakeInput, observe, settle, with_batch_axis
from .fused import FusedEngine, graph_of
from .fused_conv import has_onednn
from .graph import GraphEngine
from .hooks import HookEngine
from .lanes import lane_of_this_thread
from .reduce import reduce

__all__ = [
    "BOUNDS",
    "COMPILED_TOLERANCE",
    "TOLERANCE",
    "Capture",
    "Engine",
    "deviation",
    "in_precision",
    "prepare",
]

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""How far a fast engine may be from the reference, by `deviation`, to be used."""
COMPILED_TOLERANCE = 1e-4
"""How far a compiled graph may be from the graph, in float32."""
BOUNDS: dict[Precision, float] = {
    "float32": TOLERANCE,
    "tf32": 3e-2,
    "float16": 3e-2,
    "bfloat16": 1.6e-1,
}
"""How far each precision stays from float32 on photographs; `benchmarks/precision.py` measures."""

Engine = Callable[[torch.Tensor], list[torch.Tensor]]


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max|a - b| / max|b|, the measure of all comparisons of activations.

    Zero where both are equal everywhere, also where both are zero; NaN where either has NaN.
    """
    if torch.equal(a, b):
        return 0.0
    return float((a - b).abs().max() / b.abs().max())


@dataclass(frozen=True)
class Capture:
    """Turns batches of inputs into named activations. Made by `prepare`."""

    captured: tuple[Captured, ...]
    """What is captured, in the order of the request."""
    engine: str
    """`compiled`, `fused`, `graph`, `hooks` or `reference`."""
    device: torch.device
    notes: tuple[str, ...]
    """What the user should be told, one line each."""
    channels_last: bool
    run: Engine
    """From a batch of inputs to raw tensors, in the order of `captured`."""
    precision: Precision = "float32"
    """Of the arithmetic; what comes out is float32 all the same."""
    fallback: Capture | None = None
    """What to use for other batch sizes, where `run` takes one alone."""
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __call__(
        self, inputs: torch.Tensor, reduction: Reduction = NO_REDUCTION
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the activations of one batch by canonical path; several threads may call this.

        On a GPU that runs out of memory the batch is halved until it fits.

        Parameters
        ----------
        inputs : torch.Tensor, shape [n, channels, height, width]
        reduction : Reduction

        Returns
        -------
        dict of str to numpy.ndarray, shape [n, ...]
            C-contiguous, the image axis first.

        Raises
        ------
        WorkError
            If a single image does not fit into the memory of the GPU.
        OverflowInDtypeError
            If activations are too large for a float16 arithmetic.
        """
        try:
            lane = lane_of_this_thread(self.device)
            with lane.entered(), torch.inference_mode(), arithmetic(self.precision, self.device):
                outputs = zip(self.captured, self.forward(inputs), strict=True)
                return lane.fetch(
                    {
                        c.path: self._as_stored(
                            c, reduce(output, reduction, is_attention=c.is_attention)
                        )
                        for c, output in outputs
                    }
                )
        except torch.cuda.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise WorkError(
                    f"{self.device} has not enough memory for one image; use --device cpu"
                ) from error
        torch.cuda.empty_cache()
        half = (len(inputs) + 1) // 2
        log.warning("out of memory on %s: trying batches of %d", self.device, half)
        smaller = self.fallback or self
        parts = [smaller(part, reduction) for part in torch.split(inputs, half)]
        return {path: np.concatenate([p[path] for p in parts]) for path in parts[0]}

    @property
    def concurrent(self) -> bool:
        """Whether calls by several threads go side by side; hooks and compiled code take turns."""
        return self.engine in ("fused", "graph")

    @property
    def weight_bytes(self) -> int:
        """Size of all parameters that a forward pass reads; 0 where the engine has no graph."""
        graph = graph_of(self.run)
        if graph is None:
            return 0
        return sum(p.numel() * p.element_size() for p in graph.network.parameters())

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the activations on the device, the image axis first."""
        with nullcontext() if self.concurrent else self._alone:
            outputs = self.run(_to_device(inputs, self.device, self.channels_last))
        return [
            raw.movedim(captured.batch_axis, 0)
            for captured, raw in zip(self.captured, outputs, strict=True)
        ]

    def _as_stored(self, captured: Captured, batch: torch.Tensor) -> torch.Tensor:
        """Return a contiguous tensor, reduced precisions as float32."""
        if self.precision == "float16" and not batch.isfinite().all():
            raise OverflowInDtypeError(
                f"{captured.path}: activations are too large for float16 arithmetic; "
                "use --precision bfloat16 or float32"
            )
        dtype = torch.float32 if batch.dtype in (torch.bfloat16, torch.float16) else batch.dtype
        return batch.to(dtype, memory_format=torch.contiguous_format).contiguous()


def prepare(
    network: nn.Module,
    addresses: Sequence[Address],
    make_input: MakeInput,
    *,
    device: torch.device,
    engine: EngineName = "auto",
) -> Capture:
    """Make a network ready for capture, by the fastest engine that equals the reference.

    The full network runs once under plain hooks, which settles what the addresses mean; then the
    engines are tried, fastest first, and the first one whose activations agree with the
    reference within `TOLERANCE` is taken. The network is moved to the device, put into
    evaluation mode, and its convolution weights may be laid out channels-last.

    Parameters
    ----------
    network : torch.nn.Module
    addresses : sequence of Address
        What to capture; from `module_path.ModulePaths.resolve`.
    make_input : callable
        Returns inputs for a number of images, on any device.
    device : torch.device
    engine : {"auto", "fused", "graph", "hooks", "reference"}
        `reference` runs the full network under plain hooks, as it came.

    Raises
    ------
    UnknownModuleError
        If a module is never called, or has no such call or part.
    RequestError
        If an activation has no batch axis, or the engine asked for cannot be used.
    """
    network, addresses = expose_attention(network.to(device).eval(), addresses)
    few, more = (_to_device(make_input(n), device) for n in (FEW, MORE))
    with torch.inference_mode(), arithmetic("float32", device):
        seen = observe(network, few, dict.fromkeys(address.module for address in addresses))
        settled, notes = settle(addresses, seen)
        del seen
        for name, channels_last, build in _candidates(network, settled, device):
            if name != engine != "auto":
                continue
            try:
                with torch.inference_mode(False):  # a change of layout must leave true parameters
                    run = build()
                outputs = run(_to_device(more, device, channels_last))
            except Exception as error:  # a trace that went astray may fail in any way when run
                if name == "reference":
                    raise
                log.info("engine %s cannot be used: %s", name, error)
                continue
            captured = tuple(
                with_batch_axis(c, tensor.shape, output.shape)
                for (c, tensor), output in zip(settled, outputs, strict=True)
            )
            deviations = [
                deviation(output.narrow(c.batch_axis, 0, FEW), tensor)
                for c, (_, tensor), output in zip(captured, settled, outputs, strict=True)
            ]
            worst = float(np.max(deviations))  # which keeps NaN, as `max` does not
            log.info("engine %s deviates from the reference by %.1e", name, worst)
            if worst <= TOLERANCE or name == "reference":
                break
        else:
            raise RequestError(
                f"engine {engine!r} cannot run this network within {TOLERANCE:.0e} of the "
                "reference; use --engine auto"
            )
        if not worst <= TOLERANCE:  # of the same images in the same batch, is it a third thing?
            rerun = run(_to_device(more, device, channels_last))
            again = [deviation(a, b) for a, b in zip(rerun, outputs, strict=True)]
            notes.append(_unlike(worst, float(np.fmax.reduce(again))))
    return Capture(captured, name, device, tuple(notes), channels_last, run)


def in_precision(capture: Capture, precision: Precision, make_input: MakeInput) -> Capture:
    """Return a float32 capture in another arithmetic.

    Fused convolutions are made anew for it. They are used only where they stay within the bound
    of the precision on noise; else the graph runs as it is, under autocast.

    Parameters
    ----------
    capture : Capture
        From `prepare`.
    precision : Precision
        One that the device has, see `check_precision`.
    make_input : callable
        As for `prepare`.
    """
    changed = replace(capture, precision=precision)
    dtype = autocast_dtype(precision)
    if not isinstance(capture.run, FusedEngine) or dtype is None:
        return changed
    graph, inputs = capture.run.graph, make_input(FEW)
    with torch.inference_mode(), arithmetic("float32", capture.device):
        expected = capture.forward(inputs)
    for onednn in (True, False) if has_onednn(capture.device) else (False,):
        try:
            with torch.inference_mode(False):
                fused = replace(changed, run=FusedEngine(graph, dtype, onednn=onednn))
            with torch.inference_mode(), arithmetic(precision, capture.device):
                outputs = fused.forward(inputs)
        except RuntimeError as error:  # a processor may lack the instructions
            log.info("no fused convolutions in %s: %s", precision, error)
            continue
        worst = max(deviation(a.float(), b) for a, b in zip(outputs, expected, strict=True))
        log.info("fused convolutions in %s deviate by %.1e", precision, worst)
        if worst <= BOUNDS[precision]:
            return fused
    graph.network.to(memory_format=torch.channels_last)
    return replace(changed, engine="graph", run=graph)


def _unlike(others: float, again: float) -> str:
    """Return what to say of activations that are others among other images of a batch.

    Parameters
    ----------
    others, again : float
        How far they are from those among others, and from those of the same batch once more.
    """
    if again > TOLERANCE:
        return (
            f"activations of the same images differ from run to run (by {again:.1e}), and cannot "
            "be reproduced: the network draws random numbers, as with dropout that is always on"
        )
    return f"activations depend on the other images of a batch (by {others:.1e})"


Settled = list[tuple[Captured, torch.Tensor]]


def _candidates(
    network: nn.Module, settled: Settled, device: torch.device
) -> Iterator[tuple[EngineName, bool, Callable[[], Engine]]]:
    """Yield (name, whether channels-last, how to build it) of the engines, fastest first.

    A network with ``view`` in its forward may fail on channels-last input: the graph is also
    offered with the plain layout.
    """
    targets = [captured.target for captured, _ in settled]

    def fused(onednn: bool) -> Engine:
        return FusedEngine(GraphEngine(network, targets), torch.float32, onednn=onednn)

    def graph(layout: torch.memory_format) -> Engine:
        pruned = GraphEngine(network, targets)
        pruned.network.to(memory_format=layout)
        return pruned

    def hooks() -> Engine:
        return HookEngine(network, targets, stop_early=True)

    def reference() -> Engine:
        return HookEngine(network, targets, stop_early=False)

    if has_onednn(device):
        yield "fused", True, lambda: fused(True)
    yield "fused", True, lambda: fused(False)
    yield "graph", True, lambda: graph(torch.channels_last)
    yield "graph", False, lambda: graph(torch.contiguous_format)
    yield "hooks", False, hooks
    yield "reference", False, reference


def _to_device(
    inputs: torch.Tensor, device: torch.device, channels_last: bool = False
) -> torch.Tensor:
    """Return a copy on the device: a network may write on its input, or return it."""
    layout = torch.channels_last if channels_last and inputs.ndim == 4 else torch.contiguous_format
    return lane_of_this_thread(device).send(inputs).clone(memory_format=layout)
