"""Which stage of a run binds, and which flags would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..config import ExtractOptions
from ..errors import RequestError
from ..types import Precision

if TYPE_CHECKING:
    pass

from .bench_job import BenchJob, Stage

__all__ = ["advice_for", "rate_bound", "slowest", "why_far"]

_GAIN_WORTH_NAMING = 1.15


def rate_bound(stages: Sequence[Stage], n_cores: int) -> float:
    """Return the most images a second that stages side by side can reach.

    All stages share the cores, 1000 * cores / (sum of core-milliseconds); and no stage is faster
    than alone. Decoding and transforming share their threads.
    """
    on_cores = sum(stage.core_ms for stage in stages if not stage.on_device)
    return min(1e3 * n_cores / on_cores, *_alone(stages).values())


def slowest(stages: Sequence[Stage]) -> str:
    """Return the stage whose threads are the last to be done, `decode` for decode and transform."""
    alone = _alone(stages)
    return min(alone, key=lambda name: alone[name])


def _alone(stages: Sequence[Stage]) -> dict[str, float]:
    """Return images a second of what runs side by side, each as if the others took no core."""
    rate = {stage.name: stage.images_per_second for stage in stages}
    decoding = 1 / (1 / rate["decode"] + 1 / rate["transform"])
    return {"decode": decoding, "forward": rate["forward"], "write": rate["write"]}


def advice_for(job: BenchJob, stages: Sequence[Stage], binds: str) -> Iterator[str]:
    """Yield the flags that would make the stage that binds faster, one line each."""
    if binds == "forward":
        yield from _faster_forward(job)
    elif binds == "decode":
        yield from _faster_decoding(job, stages)
    else:
        yield from _faster_writing(job.asked)


def _faster_forward(job: BenchJob) -> Iterator[str]:
    """Yield what makes the network faster; of precisions only those that were tried and do."""
    from ..capture import why_not_compile

    asked, device = job.asked, job.capture.device
    if device.type == "cpu" and (other := _gpu()):
        yield f"--device {other}: this machine has one"
    if asked.precision == "float32":
        yield from _faster_precisions(job)
    if job.capture.engine == "graph" and asked.compile != "on" and not why_not_compile(job.capture):
        yield (
            "--compile on: the network as compiled code; takes a while at first, is kept, and "
            "`auto` does it where it pays"
        )
    if device.type == "cpu" and not _gpu():
        yield "a GPU, with --device cuda: nothing else helps as much"


def _faster_precisions(job: BenchJob) -> Iterator[str]:
    from ..capture import check_precision, in_precision

    device = job.capture.device
    if job.capture.engine == "compiled":  # compiled for float32; trying would compile again
        yield "--precision bfloat16: see docs/performance.md for how far it deviates"
        return
    inputs = job.noise()
    usual = job.forward_seconds(inputs)
    precisions: tuple[Precision, ...] = ("bfloat16",) if device.type == "cpu" else _OF_GPUS
    for precision in precisions:
        try:
            check_precision(precision, device)
        except RequestError:
            continue
        capture = in_precision(job.capture, precision, job.model.noise())
        job.forward_seconds(inputs, capture)
        gain = usual / job.forward_seconds(inputs, capture)
        if gain > _GAIN_WORTH_NAMING:
            yield (
                f"--precision {precision}: forward {gain:.1f} times as fast, tried here; see "
                "docs/performance.md for how far it deviates"
            )


_OF_GPUS: tuple[Precision, ...] = ("bfloat16", "tf32")


def _faster_decoding(job: BenchJob, stages: Sequence[Stage]) -> Iterator[str]:
    cost = {stage.name: stage.core_ms for stage in stages}
    if job.asked.workers is None and job.plan.workers < job.cores:
        yield f"--workers {job.cores}: {job.plan.workers} of {job.cores} cores decode now"
    if cost["decode"] > 2 * cost["transform"]:
        yield "smaller copies of the photographs: most of the time goes into unpacking them"
    elif job.plan.workers >= job.cores:
        yield "no flag: all cores decode already"


def _faster_writing(asked: ExtractOptions) -> Iterator[str]:
    if asked.compression != "none":
        yield "--compression none: several times faster to write"
    if asked.pool == "none":
        yield "--pool avg, if averages over space are enough: a fraction of the bytes"
    if asked.dtype == "float32":
        yield "--dtype float16: half of the bytes, three decimal digits"
    yield "--out on a faster disk"


def _gpu() -> str | None:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def why_far(load: float, n_cores: int) -> str:
    """Say why a run stays far below what its stages allow."""
    if load > n_cores / 2:
        return (
            f"other processes took the cores (load {load:.0f} on {n_cores}): measure again when "
            "the machine is quiet"
        )
    return "the whole is far below its bound: try --streams, --threads and --workers"
