"""The main job: activations of modules for images, into a feature store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions, validated
from ..decoding import SkippedImage
from ..errors import RequestError, StoreError, WorkError
from ..images import StimulusSet
from ..models import load_model
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
from .plan import choose_plan
from .provenance import now, provenance
from .repeat import image_differences, run_differences
from .run import Images, Tell, batches, choose_stimuli, is_file, prepare_capture

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["ExtractSummary", "extract"]


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
    weights: str | os.PathLike[str] | None = None,
    verify: bool = True,
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
    images : path or StimulusSet, optional
        A folder, a text list, a CSV or an image; by default the photographs that ship inside
        scikit-image and scikit-learn.
    out : path
        The HDF5 file; it appears under this name only when it is complete.
    weights, verify
        As for `load_model`, where `model` is a name.
    progress : callable, optional
        Called with the numbers of images done and of all images.
    tell : callable, optional
        Called with what the user should know, one line each.
    **options
        The fields of `resmem_extract.config.ExtractOptions`: `batch_size`, `streams`, `threads`,
        `workers`, `device`, `engine`, `on_error`, `id`, `exif_orientation`, `dtype`, `pool`,
        `flatten`, `compression`, `overwrite`.

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
    asked = validated(ExtractOptions, options, "extract")
    out = Path(out)
    tell = tell or (lambda _line: None)
    stimuli = choose_stimuli(images, asked, tell)
    existing = _existing(out, asked.overwrite)
    if isinstance(model, str):
        model = load_model(model, weights=weights, verify=verify)
    capture = prepare_capture(
        model, [modules] if isinstance(modules, str) else modules, asked, tell
    )
    specs = _specs(capture, asked)
    plan = choose_plan(capture, asked)
    record = provenance(model, capture, stimuli, plan, asked)
    if existing is not None:
        with existing:
            return _same_or_refused(existing, specs, record, stimuli, asked)
    nbytes = required_bytes(specs, len(stimuli))
    check_free_space(out, nbytes)
    tell(f"writing about {format_bytes(nbytes)} to {out}")
    tell(str(plan))

    started = time.perf_counter()
    skipped: list[SkippedImage] = []
    rows: list[int] = []
    compression = None if asked.compression == "none" else asked.compression
    with (
        StoreWriter(out, specs, len(stimuli), compression=compression) as writer,
        background(writer.append) as append,
    ):
        for batch in batches(model, capture, stimuli, plan, asked, asked.reduction):
            skipped += batch.skipped
            rows += [image.row for image in batch.loaded]
            if batch.loaded:
                ids = [image.id for image in batch.loaded]
                append(ids, [image.sha256 for image in batch.loaded], batch.activations)
            if progress:
                progress(len(rows) + len(skipped), len(stimuli))
        append.join()
        if not rows:
            raise WorkError(f"none of the {len(stimuli)} images can be read ({skipped[0].reason})")
        left_out = [(image.id, image.reason) for image in skipped]
        writer.finish(
            {name: values[rows] for name, values in stimuli.columns.items()},
            left_out if asked.on_error == "skip" else None,
            {**record, "finished": now()},
        )
    return ExtractSummary(
        out=out,
        model=model.name,
        images=len(rows),
        skipped=tuple(left_out),
        modules=tuple(specs),
        bytes=out.stat().st_size,
        seconds=time.perf_counter() - started,
        engine=capture.engine,
        device=str(capture.device),
    )


def _specs(capture: Capture, asked: ExtractOptions) -> list[ActivationSpec]:
    from ..capture import reduced_shape

    specs = []
    for captured in capture.captured:
        shape, axes = reduced_shape(captured.shape, asked.reduction)
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
                reduce=asked.reduction.describe(),
            )
        )
    return specs


def _existing(out: Path, overwrite: bool) -> Store | None:
    """Return the store that lies under the name of the result, if it may be the result already.

    Raises
    ------
    RequestError
        If something else lies there.
    """
    if not is_file(out, "activations.h5") or overwrite:
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
    if differences := list(_differences(store, specs, record, stimuli, asked)):
        raise RequestError(
            f"{out} exists and is of another request ({'; '.join(differences)}); "
            "use --overwrite to replace it, or another --out"
        )
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
    for spec in specs:
        if spec.path in there:
            old = store[spec.path].spec
            if (old.shape, old.dtype, old.reduce) != (spec.shape, spec.dtype, spec.reduce):
                yield f"{spec.path}: {old.dtype} {old.shape} there, {spec.dtype} {spec.shape} asked"
            elif new := set(spec.links) - set(old.links):
                yield f"{spec.path}: is not named {_only(new)} there"
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
