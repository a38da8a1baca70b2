"""Images through a network, batch by batch, in bounded memory: what every job shares."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import RunOptions
from ..decoding import LoadedImage, SkippedImage, load_images
from ..errors import RequestError
from ..image_lists import shown
from ..images import StimulusSet, find_images, sample_photographs
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
    "batches",
    "choose_stimuli",
    "is_file",
    "prepare_capture",
    "runner",
]

Images = StimulusSet | str | os.PathLike[str] | None
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


def is_file(out: Path, example: str) -> bool:
    """Tell whether something lies under the name of a result.

    Raises
    ------
    RequestError
        If that is a folder, or nothing can lie there.
    """
    try:
        if out.is_dir():
            raise RequestError(f"{out} is a folder; name a file, such as {out / example}")
        return out.exists()
    except OSError as error:
        raise RequestError(f"{shown(out)} cannot be written: {error.strerror}") from error


def prepare_capture(model: Model, modules: Sequence[str], asked: RunOptions, tell: Tell) -> Capture:
    """Make a model ready to give the activations of modules."""
    from ..capture import check_precision, pick_device, prepare

    addresses = [address for text in modules for address in model.paths.resolve(text)]
    if not addresses:
        raise RequestError("no module was asked for; name at least one, such as features.5.4")
    device = pick_device(asked.device)
    check_precision(asked.precision, device)
    capture = prepare(model.network, addresses, model.noise(), device=device, engine=asked.engine)
    for note in capture.notes:
        tell(note)
    return replace(capture, precision=asked.precision)


@dataclass(frozen=True)
class Runner:
    """One network as images pass through it."""

    prepare: Callable[[Image.Image], npt.NDArray[Any]]
    """From a photograph to an array; called in decoding threads."""
    run: Callable[[npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]]
    """From stacked arrays to activations by canonical path; called by several threads."""


def runner(model: Model, capture: Capture, reduction: Reduction = NO_REDUCTION) -> Runner:
    """Return how images pass through a model in this process."""
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


def batches(
    runners: Sequence[Runner], stimuli: StimulusSet, plan: Plan, asked: RunOptions
) -> Iterator[Batch]:
    """Yield all images in order, each decoded once, whatever the number of networks.

    Batches are always cut at the same rows, whichever images are skipped.
    """
    from ..capture import threads_for_each_batch

    images = load_images(
        stimuli,
        lambda image: tuple(one.prepare(image) for one in runners),
        workers=plan.workers,
        ahead=max((plan.streams + 1) * plan.batch_size, 4 * plan.workers),
        on_error=asked.on_error,
        exif_orientation=asked.exif_orientation,
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
        yield from in_order(run, groups, plan.streams)
