"""The main job: activations of modules for images, into a feature store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions, validated
from ..decoding import SkippedImage
from ..errors import RequestError, StoreError, given_path
from ..images import StimulusSet
from ..store import (
    Store,
    StoreWriter,
    check_free_space,
    format_bytes,
    open_store,
    required_bytes,
)
from ..types import ActivationSpec, Progress
from .background import background
from .networks import Network, ready_networks
from .plan import choose_plan
from .provenance import now, provenance
from .repeat import image_differences, refuse_if_other, run_differences
from .run import (
    Images,
    Tell,
    as_model,
    batches,
    check_any_read,
    choose_stimuli,
    place_of,
    prepare_capture,
    refuse_inputs,
)

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["ExtractSummary", "extract", "extract_many"]


@dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did."""

    out: Path
    """The feature store."""
    model: str
    images: int
    """Rows of the store."""
    skipped: tuple[tuple[str, str], ...]
    """Id and reason of each image left out."""
    modules: tuple[ActivationSpec, ...]
    bytes: int
    """Size of the file."""
    seconds: float
    """From the first image read to the file under its name."""
    engine: str
    device: str
    already_complete: bool = False
    """Whether the file was there already, from the very same request."""

    @property
    def images_per_second(self) -> float:
        """Rate over the whole job, decoding and writing included."""
        return self.images / self.seconds if self.seconds else 0.0


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
        `tokens`, `flatten`, `compression`, `overwrite`; and, where `model` is a name, those of
        `load_model`: `weights`, `verify`, `transform`, `pretrained`, `seed`, `trust`.

    Returns
    -------
    ExtractSummary

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If an image cannot be read, the disk fills up, or activations overflow the dtype.
    """
    asked: ExtractOptions = validated(ExtractOptions, options, "extract")
    tell = tell or _nobody
    stimuli = choose_stimuli(images, asked, tell)
    if asked.weights is not None:
        refuse_inputs(given_path(out, "out"), [asked.weights])
    place = place_of(out, "activations.h5", stimuli)
    model = as_model(model, asked)
    existing = _existing(place, model, asked.overwrite)
    modules = [modules] if isinstance(modules, str) else modules
    job = _job(model, modules, place, existing, asked, tell)
    (summary,) = _extract([job], stimuli, asked, progress, tell)
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
    jobs = []
    for model in loaded:
        name = f"{re.sub('[/:]', '_', model.name)}.h5"
        path = place_of(folder / name, name, stimuli)
        existing = _existing(path, model, asked.overwrite)
        jobs.append(_job(model, wanted[model.name], path, existing, asked, tell))
    return _extract(jobs, stimuli, asked, progress, tell)


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


@dataclass(frozen=True)
class _Job:
    """What one network has to do."""

    model: Model
    modules: tuple[str, ...]
    capture: Capture
    specs: list[ActivationSpec]
    out: Path
    existing: Store | None
    """What lies under the name of the result, if it may be the result already."""


def _job(
    model: Model,
    modules: Sequence[str],
    out: Path,
    existing: Store | None,
    asked: ExtractOptions,
    tell: Tell,
) -> _Job:
    capture = prepare_capture(model, modules, asked, tell)
    return _Job(model, tuple(modules), capture, _specs(model, capture, asked), out, existing)


def _extract(
    jobs: Sequence[_Job],
    stimuli: StimulusSet,
    asked: ExtractOptions,
    progress: Progress | None,
    tell: Tell,
) -> list[ExtractSummary]:
    """Do what has not been done already, and return all summaries in the order of the jobs."""
    done: dict[Path, ExtractSummary] = {}
    for job in jobs:
        if job.existing is not None:
            plan = choose_plan(job.capture, asked)
            record = provenance(job.model, job.capture, stimuli, plan, asked)
            with job.existing as store:
                done[job.out] = _same_or_refused(store, job.specs, record, stimuli, asked)
    if to_do := [job for job in jobs if job.out not in done]:
        for summary in _run(to_do, stimuli, asked, progress, tell):
            done[summary.out] = summary
    return [done[job.out] for job in jobs]


def _run(
    jobs: Sequence[_Job],
    stimuli: StimulusSet,
    asked: ExtractOptions,
    progress: Progress | None,
    tell: Tell,
) -> list[ExtractSummary]:
    """Send all images through the networks of all jobs, and write each one's file."""
    nbytes = sum(required_bytes(job.specs, len(stimuli)) for job in jobs)
    check_free_space(jobs[0].out, nbytes)
    tell(f"writing about {format_bytes(nbytes)} to {', '.join(str(job.out) for job in jobs)}")
    skipped: list[SkippedImage] = []
    rows: list[int] = []
    compression = None if asked.compression == "none" else asked.compression
    with ExitStack() as stack:
        networks = [Network(job.model, job.capture, job.modules) for job in jobs]
        ready = stack.enter_context(
            ready_networks(networks, asked, len(stimuli), tell, asked.reduction)
        )
        records = [
            provenance(job.model, job.capture, stimuli, ready.plan, asked)
            | {"engine": engine, "device": ready.device}
            for job, engine in zip(jobs, ready.engines, strict=True)
        ]
        started = time.perf_counter()
        writers = [
            stack.enter_context(
                StoreWriter(job.out, job.specs, len(stimuli), compression=compression)
            )
            for job in jobs
        ]
        appends = [stack.enter_context(background(writer.append)) for writer in writers]
        for batch in batches(ready.runners, stimuli, ready.plan, asked):
            skipped += batch.skipped
            rows += [image.row for image in batch.loaded]
            ids = [image.id for image in batch.loaded]
            sha256s = [image.sha256 for image in batch.loaded]
            for append, activations in zip(appends, batch.activations, strict=False):
                append(ids, sha256s, activations)
            if progress:
                progress(len(rows) + len(skipped), len(stimuli))
        for append in appends:
            append.join()
        check_any_read(stimuli, skipped)
        columns = {name: values[rows] for name, values in stimuli.columns.items()}
        left_out = tuple((image.id, image.reason) for image in skipped)
        for writer, record in zip(writers, records, strict=True):
            listed = left_out if asked.on_error == "skip" else None
            writer.finish(columns, listed, {**record, "finished": now()})
    seconds = time.perf_counter() - started
    return [
        ExtractSummary(
            out=job.out,
            model=job.model.name,
            images=len(rows),
            skipped=left_out,
            modules=tuple(job.specs),
            bytes=job.out.stat().st_size,
            seconds=seconds,
            engine=engine,
            device=ready.device,
        )
        for job, engine in zip(jobs, ready.engines, strict=True)
    ]


def _specs(model: Model, capture: Capture, asked: ExtractOptions) -> list[ActivationSpec]:
    from ..capture import reduced_shape

    specs = []
    reduction = model.adapt(asked.reduction)
    for captured in capture.captured:
        shape, axes = reduced_shape(captured.shape, reduction, is_attention=captured.is_attention)
        specs.append(
            ActivationSpec(
                path=captured.path,
                requested=captured.requested,
                shape=shape,
                axes=("image", *axes),
                dtype=asked.dtype,
                index_path=captured.index_path,
                call=captured.target.call,
                calls=captured.calls,
                links=captured.links,
                names=model.paths.declared(captured.target.module),
                reduce=asked.reduction.describe(),
            )
        )
    return specs


def _existing(out: Path, model: Model, overwrite: bool) -> Store | None:
    """Return the store that lies under the name of the result, if it may be the result already.

    Raises
    ------
    RequestError
        If something else lies there.
    """
    if model.weights:
        refuse_inputs(out, [model.weights.path])
    if overwrite or not out.exists():
        return None
    try:
        return open_store(out)
    except StoreError as error:
        raise RequestError(f"{error}; --overwrite replaces it") from error


def _same_or_refused(
    store: Store,
    specs: Sequence[ActivationSpec],
    record: Mapping[str, Any],
    stimuli: StimulusSet,
    asked: ExtractOptions,
) -> ExtractSummary:
    """Answer a request whose result exists: with a summary if it is the same, else refuse."""
    out = store.path
    refuse_if_other(out, _differences(store, specs, record, stimuli, asked))
    return ExtractSummary(
        out=out,
        model=record["model"],
        images=len(store),
        skipped=tuple(store.skipped),
        modules=tuple(specs),
        bytes=out.stat().st_size,
        seconds=0.0,
        engine=store.provenance["engine"],
        device=store.provenance["device"],
        already_complete=True,
    )


def _differences(
    store: Store,
    specs: Sequence[ActivationSpec],
    record: Mapping[str, Any],
    stimuli: StimulusSet,
    asked: ExtractOptions,
) -> Iterator[str]:
    """Yield, a few words each, in what a store differs from what is asked for."""
    yield from run_differences(store.provenance, record, asked)
    there, here = set(store.modules), {spec.path for spec in specs}
    if there != here:
        yield f"modules: {_only(there - here)} only there, {_only(here - there)} only asked"
    ways: dict[str, None] = {}  # of reduction, the same for all modules
    for spec in specs:
        if spec.path in there:
            old = store[spec.path].spec
            for key in {**old.reduce, **spec.reduce}:
                if old.reduce.get(key) != spec.reduce.get(key):
                    ways[f"{key}: {old.reduce.get(key)} there, {spec.reduce.get(key)} asked"] = None
            if (old.shape, old.dtype) != (spec.shape, spec.dtype):
                yield f"{spec.path}: {old.dtype} {old.shape} there, {spec.dtype} {spec.shape} asked"
            elif new := set(spec.links) - set(old.links):
                yield f"{spec.path}: is not named {_only(new)} there"
    yield from ways
    ids, hashes = store.image_ids.tolist(), store.sha256.tolist()
    if differences := list(image_differences(stimuli, ids, hashes, store.skipped, asked)):
        yield from differences
        return
    row_of = {image_id: row for row, image_id in enumerate(stimuli.ids)}
    rows = [row_of[image_id] for image_id in ids]
    if set(store.columns) != set(stimuli.columns):
        yield f"columns: {_only(set(store.columns))} there, {_only(set(stimuli.columns))} asked"
    elif other := {
        name
        for name, values in stimuli.columns.items()
        if not _equal(values[rows], store.columns[name])
    }:
        yield f"other values in the columns {_only(other)}"


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")


def _only(paths: set[str]) -> str:
    return ", ".join(sorted(paths)) or "nothing"
