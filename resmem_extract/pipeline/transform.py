"""Stored activations into another store: centred, scaled, joined, reduced."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TransformOptions, validated
from ..errors import RequestError, given_path, refuse_device
from ..store import Store, StoreWriter, check_free_space, open_store, required_bytes
from ..transforms import Chain, fit
from ..types import ActivationSpec, Progress
from .chosen import opened_stores
from .provenance import now
from .run import Tell, refuse_inputs
from .transform_plan import Job, plan_transform, transform_record

__all__ = ["TransformSummary", "transform"]

Stores = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class TransformSummary:
    """What a transformation did."""

    out: Path
    """The new store."""
    images: int
    fit_images: int
    """How many of them the steps were fitted on."""
    modules: tuple[ActivationSpec, ...]
    notes: tuple[str, ...]
    """What the fits told, a line each."""
    bytes: int
    """Size of the file."""
    seconds: float
    already_complete: bool = False
    """Whether the file was there already, from the very same request."""


def transform(
    stores: Stores,
    modules: str | Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> TransformSummary:
    """Make features of stored activations, in bounded memory, and store them.

    Parameters
    ----------
    stores : path or sequence of paths
        Feature stores; several are joined, image by image, by their ids.
    modules : str or sequence of str, optional
        Module paths in any form that a store takes, or globs; by default all. With several stores
        ``resmem:features.5.4`` is of that network alone.
    out : path
        The new store. It has the images, columns and provenance of the first one.
    progress : callable, optional
        Called with the numbers of rows read and of all rows that will be.
    tell : callable, optional
        Called with what the user should know, one line each.
    **options
        The fields of `resmem_extract.config.TransformOptions`: `steps`, in their order; `join`;
        `fit_on`, ids or a text file of them, one a line; `seed`; `overwrite`.

    Returns
    -------
    TransformSummary

    Raises
    ------
    RequestError
        If the request is wrong, or an activation is NaN or infinite; nothing has been written.
    WorkError
        If a store is damaged; nothing has been written.

    Examples
    --------
    >>> transform("f.h5", steps=["zscore", "pca=50"], out="pca.h5")        # doctest: +SKIP
    """
    asked: TransformOptions = validated(TransformOptions, options, "transform")
    if not asked.steps and not asked.join:
        raise RequestError("nothing to do: give steps, such as center, l2 or pca=50, or join")
    given = [stores] if isinstance(stores, (str, os.PathLike)) else stores
    paths = [given_path(path, "store") for path in given]
    if not paths:
        raise RequestError("no store was given; name at least one")
    place = given_path(out, "out")
    refuse_device(place)
    refuse_inputs(place, paths)
    with ExitStack() as stack:
        opened = stack.enter_context(opened_stores(paths))
        job = plan_transform(opened, modules, asked)
        record = transform_record(opened, job, asked)
        if place.exists() and not asked.overwrite:
            with open_store(place) as there:
                return _same_or_refused(there, job, record)
        for store, paths_read in zip(opened, job.read, strict=True):
            store.check(paths_read)
        return _transform(opened[0], place, job, record, progress, tell or (lambda _line: None))


def _transform(
    first: Store,
    out: Path,
    job: Job,
    record: dict[str, Any],
    progress: Progress | None,
    tell: Tell,
) -> TransformSummary:
    """Fit all steps, then write; `first` has the images."""
    started = time.perf_counter()
    specs = [target.spec for target in job.targets]
    check_free_space(out, required_bytes(specs, len(job.ids)), "transform fewer modules (--module)")
    report = _counting(progress, job)
    chains: list[Chain] = []
    notes: list[str] = []
    for target in job.targets:
        chain = fit(job.steps, target.vectors, job.fit_rows, seed=job.seed, progress=report)
        chains.append(chain)
        notes += [f"{target.spec.path}: {note}" for note in chain.notes]
    for note in notes:
        tell(note)
    record["transform"] |= {"notes": notes}
    sha256s = first.sha256.tolist()
    with StoreWriter(out, specs, len(job.ids)) as writer:
        for rows, made in _blocks(job, chains, report):
            writer.append(job.ids[rows], sha256s[rows], made)
        writer.finish(first.columns, first.skipped or None, {**record, "finished": now()})
    return TransformSummary(
        out=out,
        images=len(job.ids),
        fit_images=len(job.fit_rows),
        modules=tuple(specs),
        notes=tuple(notes),
        bytes=out.stat().st_size,
        seconds=time.perf_counter() - started,
    )


def _same_or_refused(there: Store, job: Job, record: Mapping[str, Any]) -> TransformSummary:
    """Answer a request whose result exists: with a summary if it is the same, else refuse."""
    found = dict(there.provenance.get("transform", {}))
    notes = tuple(found.pop("notes", ()))
    wanted = {target.spec.path: target.spec.shape for target in job.targets}
    same = (
        found == record["transform"]
        and {path: spec.shape for path, spec in there.specs.items()} == wanted
        and there.image_ids.tolist() == job.ids
    )
    if not same:
        raise RequestError(
            f"{there.path} exists and is of another request; use --overwrite to replace it, "
            "or another --out"
        )
    return TransformSummary(
        out=there.path,
        images=len(job.ids),
        fit_images=len(job.fit_rows),
        modules=tuple(there.specs.values()),
        notes=notes,
        bytes=there.path.stat().st_size,
        seconds=0.0,
        already_complete=True,
    )


Report = Callable[[int], None]


def _counting(progress: Progress | None, job: Job) -> Report:
    """Return what adds up the rows that are read, in all passes over all modules."""
    passes = sum(step.needs_fit for step in job.steps) * len(job.fit_rows) + len(job.ids)
    total, done = passes * len(job.targets), 0

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, total)

    return report


def _blocks(
    job: Job, chains: Sequence[Chain], report: Report
) -> Iterator[tuple[slice, dict[str, npt.NDArray[np.float32]]]]:
    """Yield all rows in blocks that are small enough for the widest module, transformed."""
    widest = max((target.vectors for target in job.targets), key=lambda vectors: vectors.size)
    for rows in widest.slices(len(job.ids)):
        made = {}
        for target, chain in zip(job.targets, chains, strict=True):
            block = chain(target.vectors[rows])
            made[target.spec.path] = block.reshape(len(block), *target.spec.shape)
            report(len(block))
        yield rows, made
