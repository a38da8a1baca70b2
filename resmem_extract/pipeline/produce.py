"""From images to results by way of parts: what is missing is computed, and all is joined."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from ..config import ExtractOptions
from ..errors import RequestError, WorkError
from ..store import check_free_space, format_bytes, required_bytes
from ..types import Progress
from .making import Job, Made, Making, MovedError
from .networks import Network, ReadyNetworks, ready_networks
from .rows import Shard, count, segments
from .run import Tell, batches
from .work import WorkGoneError

__all__ = ["produce"]


def produce(
    jobs: Sequence[Job], asked: ExtractOptions, progress: Progress | None, tell: Tell
) -> list[tuple[Made, int, float]]:
    """Make results of several networks for the same images, each image decoded once.

    Returns
    -------
    list of (Made, int, float)
        For each job, what became of it, how many images were computed for it now, and the seconds
        that all of them took together.

    Raises
    ------
    RequestError
        If the work that is there is of another request, or another process is at it.
    WorkError
        If an image cannot be read, the disk fails or is full, or values do not fit the dtype.
    KeyboardInterrupt
        With a text that says what is kept.
    MovedError
        If another process has changed the work since it was looked at.
    """
    shard = None if asked.shard is None else Shard(*asked.shard)
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(job.work.at_work(shard, tell))
        makings = [Making(job, shard, tell) for job in jobs]
        try:
            for making in makings:
                making.resume()
            return _make(makings, asked, progress, tell)
        except WorkGoneError as error:
            raise MovedError from error
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(_kept(makings)) from interrupt
        except WorkError as error:
            if any(making.n_kept() for making in makings):
                error.args = (f"{error}; {_kept(makings)}",)
            raise


def _kept(makings: Sequence[Making]) -> str:
    """Say what is kept of the images, and how to go on."""
    n = min((making.n_kept() for making in makings), default=0)
    total = len(makings[0].job.stimuli)
    if n == 0:
        return "nothing was kept; the same command starts again from the beginning"
    return f"{n} of {total} images are kept, and the same command continues"


def _make(
    makings: Sequence[Making], asked: ExtractOptions, progress: Progress | None, tell: Tell
) -> list[tuple[Made, int, float]]:
    _check_space(makings, tell)
    to_compute = [making for making in makings if making.n_missing]
    with ExitStack() as stack:
        ready = stack.enter_context(_ready(to_compute, asked, tell)) if to_compute else None
        computed = [count(making.missing) for making in makings]
        started = time.perf_counter()
        for making in makings:
            stack.enter_context(making.writing())
        try:
            if ready is not None:
                _compute(to_compute, ready, asked, progress)
            made = [making.finish() for making in makings]
        except (KeyboardInterrupt, WorkError) as error:
            for making in makings:
                making.keep(whatever=isinstance(error, KeyboardInterrupt))
            raise
        seconds = time.perf_counter() - started
    return [(one, n, seconds) for one, n in zip(made, computed, strict=True)]


def _check_space(makings: Sequence[Making], tell: Tell) -> None:
    """See that parts and joined files fit on the disk, and say what they take."""
    results = parts = 0
    for making in makings:
        job = making.job
        before = len(job.base.store) if job.base else 0
        results += required_bytes(job.specs, before + len(job.stimuli))
        parts += required_bytes(job.specs, making.n_missing)
    outs = ", ".join(str(making.job.work.out) for making in makings)
    tell(
        f"writing about {format_bytes(results)} to {outs}; until it is done, parts beside it take "
        f"up to {format_bytes(parts)} more"
    )
    check_free_space(
        makings[0].job.work.out,
        results + parts,
        "ask for fewer modules, --dtype float16 or --pool avg",
    )


@contextmanager
def _ready(makings: Sequence[Making], asked: ExtractOptions, tell: Tell) -> Iterator[ReadyNetworks]:
    """Make networks ready, by the plan of the work that is there or by a new one, and settle it."""
    networks = [
        Network(job.model, job.capture, job.modules, job.asked.compile)
        for job in (making.job for making in makings)
    ]
    n_images = max(making.n_missing for making in makings)
    with ready_networks(networks, _common(makings, asked), n_images, tell, asked.reduction) as all_:
        for i, making in enumerate(makings):
            making.settle(all_, i)
        yield all_


def _common(makings: Sequence[Making], asked: ExtractOptions) -> ExtractOptions:
    """Return what is asked of all networks, as they have adopted it from the work that is there.

    Raises
    ------
    RequestError
        If they have not adopted the same.
    """
    chosen: dict[str, Any] = {}
    owner: dict[str, Making] = {}
    for making in makings:
        for key in ("batch_size", "threads", "device"):
            value = getattr(making.job.asked, key)
            if value == getattr(asked, key):
                continue
            if chosen.setdefault(key, value) != value:
                raise RequestError(
                    f"{owner[key].job.work.out} was begun with {key.replace('_', ' ')} "
                    f"{chosen[key]}, {making.job.work.out} with {value}: extract them one by one"
                )
            owner.setdefault(key, making)
    return asked.model_copy(update=chosen)


def _compute(
    makings: Sequence[Making],
    ready: ReadyNetworks,
    asked: ExtractOptions,
    progress: Progress | None,
) -> None:
    """Send images through the networks that miss them."""
    todo = list(segments([making.missing for making in makings]))
    total = len(makings[0].share)
    done = total - count(rows for rows, _ in todo)
    if progress and done:
        progress(done, total)
    for rows, who in todo:
        runners = [ready.runners[i] for i in who]
        stimuli = makings[0].job.stimuli
        with closing(batches(runners, stimuli, ready.plan, asked, rows)) as computed:
            for batch in computed:
                of_each = batch.activations or ({},) * len(who)
                for i, activations in zip(who, of_each, strict=True):
                    makings[i].append(batch, activations)
                done += len(batch.rows)
                if progress:
                    progress(done, total)
