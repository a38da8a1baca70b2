"""Images through a network, batch by batch, in bounded memory: what every job shares."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ModelOptions, RunOptions
from ..decoding import LoadedImage, SkippedImage, load_images
from ..errors import ImageError, RequestError, WorkError, counted, given_path, refuse_device, shown
from ..images import Source, StimulusSet, find_images, sample_photographs
from ..models import load_model
from ..types import NO_REDUCTION, Reduction
from .background import in_order
from .plan import Plan

if TYPE_CHECKING:
    from PIL import Image

    from ..capture import Capture
    from ..models.base import Model

__all__ = [
    "Batch",
    "Images",
    "Runner",
    "Tell",
    "as_model",
    "batches",
    "check_any_read",
    "choose_stimuli",
    "place_of",
    "prepare_capture",
    "refuse_inputs",
    "runner",
]

Images = StimulusSet | Source | None
"""What a user may give as images; None for the photographs that ship with other packages."""

Tell = Callable[[str], None]
"""Told, as work begins, what the user should know, one line each."""


def choose_stimuli(images: Images, asked: RunOptions, tell: Tell) -> StimulusSet:
    """Return the images that were asked for."""
    if isinstance(images, StimulusSet):
        return images
    stimuli = sample_photographs() if images is None else find_images(images, id_form=asked.id)
    for note in stimuli.notes:
        tell(note)
    return stimuli


def as_model(model: Model | str, asked: ModelOptions) -> Model:
    """Return the network that was asked for, loaded if it is named.

    Raises
    ------
    RequestError
        If it is neither a name nor a `Model`, or is loaded already and is to be loaded otherwise.
    """
    if isinstance(model, str):
        return load_model(model, **asked.model_options())
    from ..models.base import Model

    if not isinstance(model, Model):
        raise RequestError(
            f"model: expected a name or an rx.Model, got {type(model).__name__}; wrap a network: "
            "rx.Model('mine', 'own', network.eval(), preprocessing), with preprocessing such as "
            "resmem_extract.models.preprocessing.ResizeAndCrop(resize=(256, 256), crop=224)"
        )
    plain = ModelOptions().model_options()
    if given := [name for name, value in asked.model_options().items() if value != plain[name]]:
        raise RequestError(
            f"{given[0]}: {model.name} is loaded already; give {given[0]} to rx.load_model"
        )
    return model


def place_of(out: str | os.PathLike[str], example: str, stimuli: StimulusSet) -> Path:
    """Return where a result is to lie, links followed.

    Raises
    ------
    RequestError
        If nothing can lie there, or what does is no regular file or one of the inputs.
    """
    path = given_path(out, "out")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{shown(path)} cannot be written: {reason}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise RequestError(f"{path} is a folder; name a file, such as {path / example}")
    refuse_device(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    refuse_inputs(path, [*stimuli.paths, Path(stimuli.root)])
    return path


def refuse_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """Raise if the file that would be replaced is one that is read."""
    if not out.exists():
        return
    there = out.stat()
    for path in inputs:
        try:
            same = os.path.samestat(path.stat(), there)
        except (OSError, ValueError):  # reported when it is read
            continue
        if same:
            raise RequestError(f"{shown(out)} is one of the inputs; choose another --out")


def prepare_capture(model: Model, modules: Sequence[str], asked: RunOptions, tell: Tell) -> Capture:
    """Make a model ready to give the activations of modules."""
    from ..capture import check_precision, in_precision, pick_device, prepare, split_devices

    if not isinstance(modules, Iterable) or not all(isinstance(text, str) for text in modules):
        raise RequestError(f"modules: expected paths such as 'features.5.4', got {modules!r}")
    addresses = [address for text in modules for address in model.paths.resolve(text)]
    if not addresses:
        raise RequestError(f"no module was asked for of {model.name}; name at least one of its own")
    device = pick_device(split_devices(asked.device)[0])
    check_precision(asked.precision, device)
    noise = model.noise()
    capture = prepare(model.network, addresses, noise, device=device, engine=asked.engine)
    for note in capture.notes:
        tell(note)
    return in_precision(capture, asked.precision, noise)


@dataclass(frozen=True)
class Runner:
    """One network as images pass through it."""

    prepare: Callable[[Image.Image], npt.NDArray[Any]]
    """From a photograph to an array; called in decoding threads."""
    run: Callable[[npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]]
    """From stacked arrays to activations by canonical path; called by several threads."""


def runner(model: Model, capture: Capture, reduction: Reduction = NO_REDUCTION) -> Runner:
    """Return how images pass through a model in this process."""
    reduction = model.adapt(reduction)
    return Runner(
        prepare=model.preprocessing.image,
        run=lambda pixels: capture(model.preprocessing.batch(pixels), reduction),
    )


@dataclass(frozen=True)
class Batch:
    """Images that went through the networks together, and what came out."""

    loaded: list[LoadedImage]
    """Their pixels are dropped."""
    skipped: list[SkippedImage]
    activations: tuple[Mapping[str, npt.NDArray[Any]], ...]
    """For each network; empty where no image was loaded."""

    @property
    def rows(self) -> range:
        """Rows of the stimuli that it covers, those of skipped images among them."""
        rows = [image.row for image in self.loaded] + [image.row for image in self.skipped]
        return range(min(rows), max(rows) + 1)


def batches(
    runners: Sequence[Runner],
    stimuli: StimulusSet,
    plan: Plan,
    asked: RunOptions,
    rows: range | None = None,
) -> Generator[Batch, None, None]:
    """Yield images in order, each decoded once, whatever the number of networks.

    Batches are always cut at the same rows, whichever images are skipped or asked for; `rows`,
    all by default, should begin and end where a batch does.
    """
    from ..capture import threads_for_each_batch

    images = load_images(
        stimuli,
        lambda image: tuple(one.prepare(image) for one in runners),
        workers=plan.workers,
        ahead=max((plan.streams + 1) * plan.batch_size, 4 * plan.workers),
        on_error=asked.on_error,
        exif_orientation=asked.exif_orientation,
        rows=rows,
    )
    groups = (
        list(group)
        for _, group in itertools.groupby(images, key=lambda image: image.row // plan.batch_size)
    )

    def run(members: list[LoadedImage | SkippedImage]) -> Batch:
        loaded = [image for image in members if isinstance(image, LoadedImage)]
        skipped = [image for image in members if isinstance(image, SkippedImage)]
        if not loaded:
            return Batch(loaded, skipped, ())
        stacks = [np.stack(arrays) for arrays in zip(*(i.pixels for i in loaded), strict=True)]
        activations = tuple(one.run(stack) for one, stack in zip(runners, stacks, strict=True))
        return Batch([replace(image, pixels=()) for image in loaded], skipped, activations)

    with threads_for_each_batch(plan.threads), closing(images):
        try:
            yield from in_order(run, groups, plan.streams)
        except ImageError as error:
            error.args = (f"{error}; --on-error skip leaves out what cannot be read",)
            raise


def check_any_read(stimuli: StimulusSet, skipped: Sequence[tuple[str, str]]) -> None:
    """Raise if all images were skipped: there is no result without any.

    Parameters
    ----------
    stimuli : StimulusSet
    skipped : sequence of (id, reason)

    Raises
    ------
    WorkError
    """
    if len(skipped) == len(stimuli):
        everything = counted(len(stimuli), "image")
        raise WorkError(f"none of {everything} can be read ({skipped[0][1]})")
