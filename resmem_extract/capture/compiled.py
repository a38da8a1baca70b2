"""Capture from a compiled graph: slower to begin with, faster from then on.

The pruned graph is compiled by torch's inductor with its weights frozen into the code: batch
norms are folded into convolutions, and weights are laid out once. A compiled graph takes batches
of one size; a smaller one is padded and cut again. On a processor, convolutions are no faster so
than fused ones (`fused`), which need no compiling; other operations may be.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from .device import arithmetic
from .engine import BOUNDS, COMPILED_TOLERANCE, Capture, Engine, deviation
from .fused import graph_of
from .graph import GraphEngine

__all__ = ["CannotCompileError", "compile_capture", "why_not_compile"]

log = logging.getLogger(__name__)


class CannotCompileError(Exception):
    """Compiling failed, or made numbers that are not those of the graph; says why in one line."""


def why_not_compile(capture: Capture) -> str | None:
    """Say in a few words why a capture cannot be compiled here, if it cannot."""
    if graph_of(capture.run) is None:
        return f"engine {capture.engine} has no graph"
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 1):  # asking inductor costs 100 MB
        return f"torch {torch.__version__} cannot freeze weights"
    if capture.device.type == "mps":
        return "not on mps"
    if capture.device.type == "cpu" and not _has_compiler():
        return "no C++ compiler (g++) on this machine"
    return None


def compile_capture(
    capture: Capture, make_input: Callable[[int], torch.Tensor], batch_size: int, cache: Path
) -> Capture:
    """Return the same capture, compiled for one batch size.

    Parameters
    ----------
    capture : Capture
        One that has a graph; see `why_not_compile`.
    make_input : callable
        Returns inputs for a number of images, on any device.
    batch_size : int
    cache : Path
        Folder for what is compiled; a later run with the same graph finds it there.

    Raises
    ------
    CannotCompileError
        If compiling fails in whatever way, or if what it computes is further from the graph than
        `COMPILED_TOLERANCE`, or the bound of a reduced precision.
    """
    graph = graph_of(capture.run)
    if graph is None:
        raise CannotCompileError(why_not_compile(capture))
    axes = tuple(captured.batch_axis for captured in capture.captured)
    compiled = replace(
        capture,
        engine="compiled",
        run=_padded(graph, axes, batch_size),
        fallback=capture,
    )
    inputs = make_input(batch_size)
    try:
        with (
            _compiling_into(cache),
            _freezing(),
            arithmetic(capture.precision, capture.device),
            torch.inference_mode(),
        ):
            expected = capture.forward(inputs)
            found = compiled.forward(inputs)
    except Exception as error:  # dynamo, inductor and compilers fail in ways of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotCompileError(reason[:200]) from error
    worst = max(deviation(a.float(), b.float()) for a, b in zip(found, expected, strict=True))
    allowed = max(COMPILED_TOLERANCE, BOUNDS[capture.precision])
    log.info("compiled graph deviates from the graph by %.1e", worst)
    if not worst <= allowed:
        raise CannotCompileError(f"it deviates by {worst:.1e}, more than {allowed:.0e}")
    return compiled


def _padded(graph: GraphEngine, axes: tuple[int, ...], batch_size: int) -> Engine:
    """Return an engine that runs the compiled graph on batches of up to `batch_size` images."""
    compiled = torch.compile(graph.network, dynamic=False, options={"freezing": True})

    def run(inputs: torch.Tensor) -> list[torch.Tensor]:
        n = len(inputs)
        if n < batch_size:
            layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
            padding = inputs[-1:].expand(batch_size - n, *inputs.shape[1:])
            inputs = torch.cat((inputs, padding)).contiguous(memory_format=layout)
        outputs = compiled(inputs)
        return [out.narrow(axis, 0, n) for axis, out in zip(axes, outputs, strict=True)]

    return run


@contextmanager
def _freezing() -> Iterator[None]:
    """Have weights frozen by what traces the graph too, which does not see `options`.

    Without this newer releases hand the weights in as arguments, and nothing can be folded.
    """
    import torch._inductor.config as inductor

    with inductor.patch(freezing=True):
        yield


@contextmanager
def _compiling_into(cache: Path) -> Iterator[None]:
    """Keep what is compiled in our cache, unless the user keeps it elsewhere; be silent."""
    if _unset_or_torchs_own(os.environ.get("TORCHINDUCTOR_CACHE_DIR")):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    chatty = logging.getLogger("torch.utils.cpp_extension")  # warns where there is no CUDA
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chatty.setLevel(level)


def _unset_or_torchs_own(folder: str | None) -> bool:
    """Tell whether no user chose this folder: torch sets the variable itself, by being imported."""
    if folder is None:
        return True
    own = Path(tempfile.gettempdir()) / "torchinductor_"
    return Path(folder).parent == own.parent and Path(folder).name.startswith(own.name)


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None or bool(shutil.which("clang++"))
