"""The stages of a run, each made to run alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions
from ..decoding import LoadedImage, load_images
from ..images import StimulusSet
from ..store import StoreWriter
from ..types import ActivationSpec
from .background import background, in_order
from .plan import Plan, cores
from .run import Tell, batches, runner

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..capture import Capture, Captured
    from ..models.base import Model

__all__ = ["BenchJob", "Stage"]


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


class BenchJob:
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
        self.specs = [_spec(captured, model, asked) for captured in capture.captured]

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
        self, inputs: Sequence[torch.Tensor], capture: Capture | None = None
    ) -> float:
        """Return the time that inputs take through the network, as the plan has it."""
        from ..capture import threads_for_each_batch

        capture = capture or self.capture

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


def _spec(captured: Captured, model: Model, asked: ExtractOptions) -> ActivationSpec:
    from ..capture import reduced_shape

    reduction = model.adapt(asked.reduction)
    stored, axes = reduced_shape(captured.shape, reduction, is_attention=captured.is_attention)
    path = captured.path
    return ActivationSpec(path, path, stored, ("image", *axes), asked.dtype)
