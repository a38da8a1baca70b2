"""The main job: activations of modules for images, into a feature store."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ExtractOptions, validated
from ..errors import RequestError, given_path
from ..images import StimulusSet
from ..types import Progress
from .existing import Wanted, look
from .making import Job, MovedError
from .produce import produce
from .run import Images, Tell, as_model, choose_stimuli, place_of, refuse_inputs
from .summary import ExtractSummary

if TYPE_CHECKING:
    from ..models.base import Model

__all__ = ["extract", "extract_many"]

_TRIES = 5


def extract(
    model: Model | str,
    modules: str | Sequence[str],
    images: Images = None,
    *,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> ExtractSummary:
    """Store the activations of modules for images.

    Parameters
    ----------
    model : Model or str
        From `load_model`, or its name.
    modules : str or sequence of str
        Module paths, in any form of `resmem_extract.module_path`.
    images : path, paths, pictures, arrays or StimulusSet, optional
        Whatever `find_images` takes; by default the photographs that ship inside scikit-image and
        scikit-learn.
    out : path
        The HDF5 file; it appears under this name only when it is complete.
    progress : callable, optional
        Called with the numbers of images done and of all images.
    tell : callable, optional
        Called with what the user should know, one line each.
    **options
        The fields of `resmem_extract.config.ExtractOptions`: `batch_size`, `streams`, `threads`,
        `workers`, `device`, `engine`, `on_error`, `id`, `exif_orientation`, `dtype`, `pool`,
        `tokens`, `flatten`, `compression`, `overwrite`, `restart`, `extend`, `shard`; and, where
        `model` is a name, those of `load_model`: `weights`, `verify`, `transform`, `pretrained`,
        `seed`, `trust`.

    Returns
    -------
    ExtractSummary

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If an image cannot be read, the disk fills up, or activations overflow the dtype. What
        was done is kept beside `out`, and the same call continues.
    """
    asked: ExtractOptions = validated(ExtractOptions, options, "extract")
    tell = tell or _nobody
    _check(asked)
    stimuli = choose_stimuli(images, asked, tell)
    if asked.weights is not None:
        refuse_inputs(given_path(out, "out"), [asked.weights])
    place = place_of(out, "activations.h5", stimuli)
    model = as_model(model, asked)
    wanted = Wanted(model, (modules,) if isinstance(modules, str) else modules, place)
    (summary,) = _extract([wanted], stimuli, asked, progress, tell)
    return summary


def extract_many(
    models: Sequence[Model | str],
    modules: str | Sequence[str],
    images: Images = None,
    *,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> list[ExtractSummary]:
    """Store the activations of several networks for the same images, each image decoded once.

    Parameters
    ----------
    models : sequence of Model or str
        At least one, all of different names.
    modules : str or sequence of str
        Module paths. ``resmem:features.5.4`` is of the network `resmem` alone, a path without a
        name is of every network.
    images, progress, tell
        As for `extract`.
    out : path
        A folder; it gets one file a network, ``resmem.h5``, with '/' and ':' in a name turned to
        '_'.
    **options
        As for `extract`.

    Returns
    -------
    list of ExtractSummary
        In the order of `models`. A file that was there already, from the very same request, stays
        as it is.

    Raises
    ------
    RequestError, WorkError
        As for `extract`.
    """
    asked: ExtractOptions = validated(ExtractOptions, options, "extract")
    tell = tell or _nobody
    _check(asked)
    folder = given_path(out, "out")
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; several networks need a folder, one file each")
    if asked.weights is not None and len(models) > 1:
        raise RequestError("weights: a file is of one network; give one network, or no file")
    stimuli = choose_stimuli(images, asked, tell)
    loaded = [as_model(model, asked) for model in models]
    names = [model.name for model in loaded]
    if len(set(names)) < len(names):
        raise RequestError(f"the networks {', '.join(names)} are not all different; name each once")
    wanted = _modules_of(names, [modules] if isinstance(modules, str) else modules)
    wants = []
    for model in loaded:
        name = f"{re.sub('[/:]', '_', model.name)}.h5"
        place = place_of(folder / name, name, stimuli)
        wants.append(Wanted(model, wanted[model.name], place))
    return _extract(wants, stimuli, asked, progress, tell)


def _nobody(_line: str) -> None:
    """Be told, and do nothing."""


def _modules_of(names: Sequence[str], modules: Sequence[str]) -> dict[str, list[str]]:
    """Share module paths out among networks: ``resmem:conv1`` to one, ``conv1`` to all."""
    wanted: dict[str, list[str]] = {name: [] for name in names}
    for text in modules:
        owner = next((name for name in names if text.startswith(f"{name}:")), None)
        for name in [owner] if owner else names:
            wanted[name].append(text.removeprefix(f"{name}:"))
    return wanted


def _check(asked: ExtractOptions) -> None:
    """Raise if two options contradict each other."""
    if asked.overwrite and (asked.extend or asked.shard):
        other = "--extend adds to it" if asked.extend else "--shard shares the making of a new one"
        raise RequestError(f"--overwrite replaces a file, {other}; remove the file, or choose one")
    if asked.restart and asked.shard:
        raise RequestError(
            "--restart with --shard would undo what other shards do; start once without --shard, "
            "or remove the hidden folder .NAME.work beside --out, and then start all shards"
        )


def _extract(
    wants: Sequence[Wanted],
    stimuli: StimulusSet,
    asked: ExtractOptions,
    progress: Progress | None,
    tell: Tell,
) -> list[ExtractSummary]:
    """Do what has not been done already, and return all summaries in the order of what is asked.

    Begins anew, a few times, if other processes come between looking at work in progress and
    holding it.
    """
    for _ in range(_TRIES):
        with suppress(MovedError):
            return _attempt(wants, stimuli, asked, progress, tell)
    raise RequestError(f"other processes keep changing the work on {wants[0].out}; end them")


def _attempt(
    wants: Sequence[Wanted],
    stimuli: StimulusSet,
    asked: ExtractOptions,
    progress: Progress | None,
    tell: Tell,
) -> list[ExtractSummary]:
    done: dict[Path, ExtractSummary] = {}
    groups: dict[tuple[str, ...], list[Job]] = {}
    with ExitStack() as stack:
        for one in wants:
            there = look(one, stimuli, asked, tell, stack)
            if isinstance(there, ExtractSummary):
                done[one.out] = there
            else:
                groups.setdefault(there.stimuli.ids, []).append(there)
        for jobs in groups.values():
            for job, (made, computed, seconds) in zip(
                jobs, produce(jobs, asked, progress, tell), strict=True
            ):
                done[job.work.out] = ExtractSummary.of(job, made, computed, seconds)
    return [done[one.out] for one in wants]
