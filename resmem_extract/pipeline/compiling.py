"""Whether compiling pays for a run, and doing it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..cache import cache_dir, recall, remember
from ..config import RunOptions
from .plan import Plan, choose_plan
from .run import Tell

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["compiled_if_worthwhile", "should_compile"]

_FEW_IMAGES = 500
"""Below this nothing pays: compiling takes many seconds, and so does finding out."""
_SPEEDUP = {("cpu", "float32"): 1.1, ("cpu", "bfloat16"): 1.8, ("cpu", "float16"): 1.5}
"""Rate of a compiled graph over that of the graph in streams; `benchmarks/threads.py`."""
_SPEEDUP_ELSEWHERE = 1.3
_COLD_SECONDS, _COLD_SECONDS_A_NODE = 10.0, 0.2
_WARM_SHARE = 0.25
"""Of the time of a first compilation, what a later one takes that finds its code in the cache."""


def should_compile(
    model: Model, capture: Capture, plan: Plan, asked: RunOptions, n_images: int, tell: Tell
) -> bool:
    """Decide whether a run is to be compiled, and tell why not where there was a choice."""
    why_not = _why_not(model, capture, plan, asked, n_images)
    if why_not:
        tell(f"not compiled: {why_not}")
    return why_not is None


def compiled_if_worthwhile(
    model: Model, capture: Capture, asked: RunOptions, n_images: int, tell: Tell
) -> tuple[Capture, Plan]:
    """Return the capture, compiled where that is asked for or pays, and the plan to run it by.

    Parameters
    ----------
    model, capture, asked
        What runs, and how the user wants it.
    n_images : int
        How many images will go through it.
    tell : callable
        Told what was decided, and why, where there was a choice.
    """
    plan = choose_plan(capture, asked)
    if not should_compile(model, capture, plan, asked, n_images, tell):
        return capture, plan
    from ..capture import CannotCompileError, compile_capture, threads_for_each_batch

    compiled_plan = choose_plan(capture, asked, compiled=True)
    started = time.perf_counter()
    try:
        with threads_for_each_batch(compiled_plan.threads):
            compiled = compile_capture(
                capture, model.noise(), compiled_plan.batch_size, cache_dir() / "inductor"
            )
    except CannotCompileError as error:
        tell(f"not compiled: {error}")
        return capture, plan
    seconds = time.perf_counter() - started
    known = recall(_key(model, capture, compiled_plan)) is not None
    remember(
        _key(model, capture, compiled_plan), f"{seconds if known else _WARM_SHARE * seconds:.1f}"
    )
    tell(f"compiled in {seconds:.1f} s")
    return compiled, compiled_plan


def _why_not(
    model: Model, capture: Capture, plan: Plan, asked: RunOptions, n_images: int
) -> str | None:
    """Return None if the run is to be compiled, else why not; empty where nobody would ask."""
    from ..capture import why_not_compile

    if asked.compile == "off" or (asked.compile == "auto" and n_images < _FEW_IMAGES):
        return ""
    impossible = why_not_compile(capture)
    if asked.compile == "on" or impossible:
        return impossible
    images_seconds = n_images * _seconds_per_image(model, capture, plan)
    speedup = _SPEEDUP.get((capture.device.type, capture.precision), _SPEEDUP_ELSEWHERE)
    saved = images_seconds * (1 - 1 / speedup)
    cost = _compile_seconds(model, capture, choose_plan(capture, asked, compiled=True))
    if saved > cost:
        return None
    return (
        f"it would save about {saved:.0f} s of {images_seconds:.0f} s, and take about {cost:.0f} s "
        "(--compile on does it)"
    )


def _seconds_per_image(model: Model, capture: Capture, plan: Plan) -> float:
    """Time one batch, after one to warm up, and share it among the streams."""
    from ..capture import threads_for_each_batch

    inputs = model.noise()(plan.batch_size)
    with threads_for_each_batch(plan.threads):
        capture(inputs)
        started = time.perf_counter()
        capture(inputs)
        return (time.perf_counter() - started) / plan.batch_size / plan.streams


def _compile_seconds(model: Model, capture: Capture, plan: Plan) -> float:
    known = recall(_key(model, capture, plan))
    if known is not None:
        return float(known)
    nodes = len(capture.run.network.graph.nodes)  # type: ignore[attr-defined]
    return _COLD_SECONDS + _COLD_SECONDS_A_NODE * nodes


def _key(model: Model, capture: Capture, plan: Plan) -> str:
    import torch

    paths = " ".join(captured.path for captured in capture.captured)
    return (
        f"seconds to compile {model.state_dict_sha256} {paths} {capture.precision} "
        f"{capture.device} {plan.batch_size} {plan.threads} torch {torch.__version__}"
    )
