"""Whether compiling pays for a run, and doing it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cache import cache_dir, recall, remember
from ..config import RunOptions
from .background import in_order
from .plan import Plan, choose_plan
from .run import Tell

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["compiled_if_worthwhile", "should_compile"]

_FEW_IMAGES = 500
"""Below this compiling does not pay, and finding out takes too long, where nothing is known."""
_GAIN_ON_CPU = {"float32": 1.0, "bfloat16": 1.5, "float16": 1.5}
"""Rate of compiled code over that of the graph in streams, as long as it has not been measured.

Fused convolutions are the same operations in both; docs/performance.md has the figures.
"""
_GAIN_ELSEWHERE = 1.3
_COLD_SECONDS, _COLD_SECONDS_A_NODE = 10.0, 0.2
_WARM_SHARE = 0.5
"""Of the time of a first compilation, what a later one takes that finds its code in the cache."""


@dataclass(frozen=True)
class _Known:
    """What is remembered of compiling a capture."""

    seconds: float
    """That it takes, with the code in the cache."""
    seconds_per_image: float
    """Of the compiled code."""


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
    key = _key(model, capture, compiled_plan)
    known = _recall(key)
    if known is None:
        per_image = _seconds_per_image(model, compiled, compiled_plan, n_batches=1)
        known = _Known(_WARM_SHARE * seconds, per_image)
    else:
        known = replace(known, seconds=seconds)
    _remember(key, known)
    tell(f"compiled in {seconds:.1f} s")
    return compiled, compiled_plan


def _why_not(
    model: Model, capture: Capture, plan: Plan, asked: RunOptions, n_images: int
) -> str | None:
    """Return None if the run is to be compiled, else why not; empty where nobody would ask."""
    if asked.compile == "off":
        return ""
    known = _recall(_key(model, capture, choose_plan(capture, asked, compiled=True)))
    if asked.compile == "auto" and n_images < _FEW_IMAGES and not known:
        return ""
    from ..capture import why_not_compile

    impossible = why_not_compile(capture)
    if asked.compile == "on" or impossible:
        return impossible
    if not known and _expected_gain(capture) <= 1:
        return "compiled code is not expected to be faster here (--compile on finds out)"
    per_image = _seconds_per_image(model, capture, plan, n_batches=2 * plan.streams)
    if known:
        cost, compiled_per_image = known.seconds, known.seconds_per_image
    else:
        cost, compiled_per_image = _cold_seconds(capture), per_image / _expected_gain(capture)
    saved = n_images * (per_image - compiled_per_image)
    if saved > cost:
        return None
    return (
        f"it would save about {max(saved, 0.0):.0f} s of {n_images * per_image:.0f} s, and take "
        f"about {cost:.0f} s (--compile on does it)"
    )


def _expected_gain(capture: Capture) -> float:
    if capture.device.type != "cpu":
        return _GAIN_ELSEWHERE
    return 1.0 if capture.engine == "fused" else _GAIN_ON_CPU[capture.precision]


def _seconds_per_image(model: Model, capture: Capture, plan: Plan, n_batches: int) -> float:
    """Send some batches through a capture that has run before, as the plan has it."""
    from ..capture import threads_for_each_batch

    batch = model.noise()(plan.batch_size)
    started = time.perf_counter()
    with threads_for_each_batch(plan.threads):
        for _ in in_order(capture, [batch] * n_batches, plan.streams):
            pass
    return (time.perf_counter() - started) / (n_batches * plan.batch_size)


def _cold_seconds(capture: Capture) -> float:
    """Estimate what a first compilation takes."""
    from ..capture import graph_of

    graph = graph_of(capture.run)
    nodes = len(graph.network.graph.nodes) if graph else 0
    return _COLD_SECONDS + _COLD_SECONDS_A_NODE * nodes


def _recall(key: str) -> _Known | None:
    text = recall(key)
    try:
        return _Known(*map(float, (text or "").split()))
    except (TypeError, ValueError):  # nothing, or what an older version remembered
        return None


def _remember(key: str, known: _Known) -> None:
    remember(key, f"{known.seconds:.1f} {known.seconds_per_image:.6f}")


def _key(model: Model, capture: Capture, plan: Plan) -> str:
    import torch

    paths = " ".join(captured.path for captured in capture.captured)
    return (
        f"seconds to compile {model.state_dict_sha256} {paths} {capture.precision} "
        f"{capture.device} {plan.batch_size} {plan.threads} torch {torch.__version__}"
    )
