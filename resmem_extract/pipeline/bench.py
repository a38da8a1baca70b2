"""How fast each stage of a run is on this machine, and what would make the whole faster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ExtractOptions, validated
from ..errors import RequestError
from ..images import StimulusSet
from ..store import check_free_space, required_bytes
from .bench_advice import advice_for, rate_bound, slowest, why_far
from .bench_job import BenchJob, Stage
from .compiling import compiled_if_worthwhile
from .plan import Plan
from .run import Images, Tell, as_model, choose_stimuli, prepare_capture

if TYPE_CHECKING:
    from ..models.base import Model

__all__ = ["BenchResult", "Stage", "bench"]

_FAR_FROM_BOUND = 0.8


@dataclass(frozen=True)
class BenchResult:
    """What `bench` measured."""

    model: str
    modules: tuple[str, ...]
    """Canonical paths."""
    images: int
    """How many went through every stage, in every round."""
    device: str
    engine: str
    precision: str
    plan: Plan
    cores: int
    stages: tuple[Stage, ...]
    """In the order in which an image passes them."""
    bytes_per_image: int
    """What an image takes in the store."""
    bound: float
    """Images a second that the cores, and each stage with its threads, allow at most."""
    binds: str
    """The stage that limits the rate."""
    measured: float
    """Images a second of the whole pipeline, writing included."""
    load: float
    """Processes that wanted a core, on average, in the minute before."""
    advice: tuple[str, ...]
    """What would help, one line each; the most promising first."""

    @property
    def ratio(self) -> float:
        """Share of the bound that the pipeline reaches."""
        return self.measured / self.bound


def bench(
    model: Model | str,
    modules: str | Sequence[str],
    images: Images = None,
    *,
    n_images: int = 64,
    rounds: int = 3,
    folder: str | os.PathLike[str] = ".",
    tell: Tell | None = None,
    **options: Any,
) -> BenchResult:
    """Time the stages of an extraction, alone and together.

    Parameters
    ----------
    model, modules, images, tell
        As for `extract`.
    n_images : int
        How many images to use: spread over those given, repeated if there are fewer.
    rounds : int
        How often everything is measured, in turn; medians count.
    folder : path
        On the disk that activations are to be written to; what is written is removed again.
    **options
        As for `extract`; `compile` is `off` unless it is given.

    Returns
    -------
    BenchResult

    Raises
    ------
    RequestError
        If the request is wrong.
    WorkError
        If an image cannot be read, or the disk fills up.
    """
    asked: ExtractOptions = validated(ExtractOptions, {"compile": "off", **options}, "bench")
    if n_images < 1 or rounds < 1:
        raise RequestError("bench needs at least one image and one round")
    tell = tell or (lambda _line: None)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    stimuli = _as_many(choose_stimuli(images, asked, tell), n_images)
    model = as_model(model, asked)
    modules = [modules] if isinstance(modules, str) else modules
    capture = prepare_capture(model, modules, asked, tell)
    capture, plan = compiled_if_worthwhile(model, capture, asked, n_images, tell)
    tell(str(plan))
    with tempfile.TemporaryDirectory(
        dir=_existing(folder), prefix=".resmem-extract-bench-"
    ) as made:
        job = BenchJob(model, capture, plan, asked, stimuli, Path(made) / "bench.h5")
        check_free_space(
            job.out, required_bytes(job.specs, n_images), "ask for fewer modules or images"
        )
        measured = job.measure(rounds, tell)
        tell("measuring what would help")
        stages = job.stages(measured)
        binds = slowest(stages)
        advice = tuple(advice_for(job, stages, binds))
    bound = rate_bound(stages, job.cores)
    rate = n_images / measured["all"].seconds
    if rate < _FAR_FROM_BOUND * bound:
        advice = (why_far(load, job.cores), *advice)
    return BenchResult(
        model=model.name,
        modules=tuple(captured.path for captured in capture.captured),
        images=n_images,
        device=str(capture.device),
        engine=capture.engine,
        precision=capture.precision,
        plan=plan,
        cores=job.cores,
        stages=stages,
        bytes_per_image=sum(spec.nbytes_per_image for spec in job.specs),
        bound=bound,
        binds=binds,
        measured=rate,
        load=load,
        advice=advice,
    )


def _as_many(stimuli: StimulusSet, n: int) -> StimulusSet:
    """Return `n` images spread evenly over those given, or all of them again and again."""
    if len(stimuli) >= n:
        return stimuli.take([row * len(stimuli) // n for row in range(n)])
    ids = (f"{i // len(stimuli)}/{stimuli.ids[i % len(stimuli)]}" for i in range(n))
    images = (stimuli.images[i % len(stimuli)] for i in range(n))
    return StimulusSet(tuple(ids), tuple(images), root=stimuli.root)


def _existing(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder).absolute()
    while not path.is_dir() and path != path.parent:  # --out may name folders that are to be made
        path = path.parent
    if not os.access(path, os.W_OK):
        raise RequestError(f"{path} cannot be written; name another place with --out")
    return path
