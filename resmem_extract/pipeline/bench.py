"""How fast each stage of a run is on this machine, and what would make the whole faster."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions, validated
from ..decoding import LoadedImage, load_images
from ..errors import RequestError
from ..images import StimulusSet
from ..models import load_model
from ..store import StoreWriter, check_free_space, required_bytes
from ..types import ActivationSpec, Precision
from .background import background, in_order
from .compiling import compiled_if_worthwhile
from .plan import Plan, cores
from .run import Images, Tell, batches, choose_stimuli, prepare_capture, runner

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..capture import Capture
    from ..models.base import Model

__all__ = ["BenchResult", "Stage", "bench"]

_GAIN_WORTH_NAMING = 1.15
_FAR_FROM_BOUND = 0.8


@dataclass(frozen=True)
class Stage:
    """One step of the way from a file to the store."""

    name: str
    """`decode`, `transform`, `forward` or `write`."""
    core_ms: float
    """Milliseconds of one core that an image takes; of the device where `on_device`."""
    images_per_second: float
    """Rate if this stage were alone, with the threads that the plan gives it."""
    on_device: bool = False
    """Whether it takes the time of a GPU and none of the cores."""


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
    weights: str | os.PathLike[str] | None = None,
    verify: bool = True,
    tell: Tell | None = None,
    **options: Any,
) -> BenchResult:
    """Time the stages of an extraction, alone and together.

    Parameters
    ----------
    model, modules, images, weights, verify, tell
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
    if isinstance(model, str):
        model = load_model(model, weights=weights, verify=verify)
    modules = [modules] if isinstance(modules, str) else modules
    capture = prepare_capture(model, modules, asked, tell)
    capture, plan = compiled_if_worthwhile(model, capture, asked, n_images, tell)
    tell(str(plan))
    with tempfile.TemporaryDirectory(
        dir=_existing(folder), prefix=".resmem-extract-bench-"
    ) as made:
        job = _Job(model, capture, plan, asked, stimuli, Path(made) / "bench.h5")
        check_free_space(job.out, required_bytes(job.specs, n_images))
        measured = job.measure(rounds, tell)
        tell("measuring what would help")
        stages = job.stages(measured)
        binds = _slowest(stages)
        advice = tuple(_advice(job, stages, binds))
    bound = _bound(stages, job.cores)
    rate = n_images / measured["all"].seconds
    if rate < _FAR_FROM_BOUND * bound:
        advice = (_why_far(load, job.cores), *advice)
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


@dataclass(frozen=True)
class _Took:
    """Time that all images took in one stage."""

    seconds: float
    cpu_seconds: float
    """Of the one thread that worked; what other processes took away is not in it."""


class _Watch:
    """Adds up the time of one thread, block by block."""

    def __init__(self) -> None:
        self.took = _Took(0.0, 0.0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        started, cpu_started = time.perf_counter(), time.thread_time()
        yield
        self.took = _Took(
            self.took.seconds + time.perf_counter() - started,
            self.took.cpu_seconds + time.thread_time() - cpu_started,
        )


class _Job:
    """All that a stage needs to be run alone."""

    def __init__(
        self,
        model: Model,
        capture: Capture,
        plan: Plan,
        asked: ExtractOptions,
        stimuli: StimulusSet,
        out: Path,
    ) -> None:
        self.model, self.capture, self.plan, self.asked = model, capture, plan, asked
        self.stimuli, self.out = stimuli, out
        self.cores = cores()
        self.specs = [_spec(captured.path, captured.shape, asked) for captured in capture.captured]

    def measure(self, rounds: int, tell: Tell) -> dict[str, _Took]:
        """Return the median times of every stage, and of `all` together, for all images."""
        self._warm_up()
        taken: dict[str, list[_Took]] = {}
        for number in range(1, rounds + 1):
            tell(f"round {number} of {rounds}")
            for name, took in self._round():
                taken.setdefault(name, []).append(took)
        return {
            name: _Took(
                statistics.median(took.seconds for took in all_of_it),
                statistics.median(took.cpu_seconds for took in all_of_it),
            )
            for name, all_of_it in taken.items()
        }

    def stages(self, measured: Mapping[str, _Took]) -> tuple[Stage, ...]:
        """Return the stages with their rates under the plan."""
        n, plan = len(self.stimuli), self.plan
        decoding = min(max(plan.workers, 1), self.cores)

        def on_cores(name: str, threads: int) -> Stage:
            took = measured[name]
            return Stage(name, 1e3 * took.cpu_seconds / n, threads * n / took.seconds)

        seconds = measured["forward"].seconds
        on_device = self.capture.device.type != "cpu"
        used = 1 if on_device else min(self.cores, plan.streams * plan.threads)
        return (
            on_cores("decode", decoding),
            on_cores("transform", decoding),
            Stage("forward", 1e3 * used * seconds / n, n / seconds, on_device),
            on_cores("write", 1),
        )

    def forward_seconds(
        self, inputs: Sequence[torch.Tensor], precision: Precision | None = None
    ) -> float:
        """Return the time that inputs take through the network, as the plan has it."""
        from ..capture import threads_for_each_batch

        capture = replace(self.capture, precision=precision or self.capture.precision)

        def run(batch: torch.Tensor) -> None:
            capture(batch, self.asked.reduction)

        with threads_for_each_batch(self.plan.threads):
            started = time.perf_counter()
            for _ in in_order(run, inputs, self.plan.streams):
                pass
            return time.perf_counter() - started

    def noise(self) -> list[torch.Tensor]:
        """Return a batch for every stream, and as many again."""
        batch = self.model.noise()(self.plan.batch_size)
        return [batch] * (2 * self.plan.streams)

    def _warm_up(self) -> None:
        self.forward_seconds(self.noise())

    def _round(self) -> Iterator[tuple[str, _Took]]:
        """Yield every stage alone, then the whole."""
        transforming, writing = _Watch(), _Watch()
        pixels, decoding = self._decode(transforming)
        size = self.plan.batch_size
        with transforming():
            inputs = [
                self.model.preprocessing.batch(np.stack(pixels[start : start + size]))
                for start in range(0, len(pixels), size)
            ]
        yield "decode", decoding
        yield "transform", transforming.took
        yield "forward", _Took(self.forward_seconds(inputs), 0.0)
        activations = self.capture(inputs[0], self.asked.reduction)
        del pixels, inputs
        with writing():
            self._write(activations, min(size, len(self.stimuli)))
        yield "write", writing.took
        started = time.perf_counter()
        self._everything()
        yield "all", _Took(time.perf_counter() - started, 0.0)

    def _decode(self, transforming: _Watch) -> tuple[list[npt.NDArray[Any]], _Took]:
        """Prepare all images in this thread; return them, and what reading and decoding took."""

        def prepare(image: Image.Image) -> npt.NDArray[Any]:
            with transforming():
                return self.model.preprocessing.image(image)

        both = _Watch()
        with both():
            images = load_images(
                self.stimuli,
                prepare,
                workers=0,
                on_error="stop",
                exif_orientation=self.asked.exif_orientation,
            )
            pixels = [image.pixels for image in images if isinstance(image, LoadedImage)]
        return pixels, _Took(
            both.took.seconds - transforming.took.seconds,
            both.took.cpu_seconds - transforming.took.cpu_seconds,
        )

    def _write(self, activations: Mapping[str, npt.NDArray[Any]], size: int) -> None:
        """Write as many rows as there are images, and bring them to the disk."""
        n = len(self.stimuli)
        with self._writer() as writer:
            for start in range(0, n, size):
                ids = self.stimuli.ids[start : start + size]
                rows = {path: values[: len(ids)] for path, values in activations.items()}
                writer.append(ids, ["0" * 64] * len(ids), rows)
            writer.finish()
        self.out.unlink()

    def _everything(self) -> None:
        """Do what `extract` does once it is under way."""
        one = runner(self.model, self.capture, self.asked.reduction)
        with self._writer() as writer, background(writer.append) as append:
            for batch in batches([one], self.stimuli, self.plan, self.asked):
                ids = [image.id for image in batch.loaded]
                sha256s = [image.sha256 for image in batch.loaded]
                for activations in batch.activations:
                    append(ids, sha256s, activations)
            append.join()
            writer.finish()
        self.out.unlink()

    def _writer(self) -> StoreWriter:
        compression = None if self.asked.compression == "none" else self.asked.compression
        return StoreWriter(self.out, self.specs, len(self.stimuli), compression=compression)


def _spec(path: str, shape: tuple[int, ...], asked: ExtractOptions) -> ActivationSpec:
    from ..capture import reduced_shape

    stored, axes = reduced_shape(shape, asked.reduction)
    return ActivationSpec(path, path, stored, ("image", *axes), asked.dtype)


def _as_many(stimuli: StimulusSet, n: int) -> StimulusSet:
    """Return `n` images spread evenly over those given, or all of them again and again."""
    if len(stimuli) >= n:
        return stimuli.take([row * len(stimuli) // n for row in range(n)])
    ids = (f"{i // len(stimuli)}/{stimuli.ids[i % len(stimuli)]}" for i in range(n))
    paths = (stimuli.paths[i % len(stimuli)] for i in range(n))
    return StimulusSet(tuple(ids), tuple(paths), root=stimuli.root)


def _existing(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder).absolute()
    while not path.is_dir() and path != path.parent:  # --out may name folders that are to be made
        path = path.parent
    if not os.access(path, os.W_OK):
        raise RequestError(f"{path} cannot be written; name another place with --out")
    return path


# --- what binds ----------------------------------------------------------------------------------


def _bound(stages: Sequence[Stage], n_cores: int) -> float:
    """Return the most images a second that stages side by side can reach.

    All stages share the cores, 1000 * cores / (sum of core-milliseconds); and no stage is faster
    than alone. Decoding and transforming share their threads.
    """
    on_cores = sum(stage.core_ms for stage in stages if not stage.on_device)
    return min(1e3 * n_cores / on_cores, *_alone(stages).values())


def _slowest(stages: Sequence[Stage]) -> str:
    """Return the stage whose threads are the last to be done, `decode` for decode and transform."""
    alone = _alone(stages)
    return min(alone, key=lambda name: alone[name])


def _alone(stages: Sequence[Stage]) -> dict[str, float]:
    """Return images a second of what runs side by side, each as if the others took no core."""
    rate = {stage.name: stage.images_per_second for stage in stages}
    decoding = 1 / (1 / rate["decode"] + 1 / rate["transform"])
    return {"decode": decoding, "forward": rate["forward"], "write": rate["write"]}


# --- what helps ----------------------------------------------------------------------------------


def _advice(job: _Job, stages: Sequence[Stage], binds: str) -> Iterator[str]:
    if binds == "forward":
        yield from _faster_forward(job)
    elif binds == "decode":
        yield from _faster_decoding(job, stages)
    else:
        yield from _faster_writing(job.asked)


def _faster_forward(job: _Job) -> Iterator[str]:
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


def _faster_precisions(job: _Job) -> Iterator[str]:
    from ..capture import check_precision

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
        job.forward_seconds(inputs, precision)
        gain = usual / job.forward_seconds(inputs, precision)
        if gain > _GAIN_WORTH_NAMING:
            yield (
                f"--precision {precision}: forward {gain:.1f} times as fast, tried here; see "
                "docs/performance.md for how far it deviates"
            )


_OF_GPUS: tuple[Precision, ...] = ("bfloat16", "tf32")


def _faster_decoding(job: _Job, stages: Sequence[Stage]) -> Iterator[str]:
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


def _why_far(load: float, n_cores: int) -> str:
    if load > n_cores / 2:
        return (
            f"other processes took the cores (load {load:.0f} on {n_cores}): measure again when "
            "the machine is quiet"
        )
    return "the whole is far below its bound: try --streams, --threads and --workers"
