"""One result in the making: which parts are there, what is missing, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions
from ..errors import RequestError, WorkError
from ..images import StimulusSet
from ..store import choose_layouts, layout_of, open_store
from ..store.schema import feature_name
from ..types import ActivationSpec
from .background import Background, background
from .join import Base, Joiner, check_result
from .networks import ReadyNetworks
from .parts import Blueprint, PartsWriter, Result, part_problem
from .provenance import hardware, now, provenance
from .repeat import image_differences
from .request import Record, followed_differences, plan_record, request_differences
from .rows import Shard, count, missing_rows
from .run import Batch, Tell, check_any_read
from .work import Part, WorkFolder

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["Job", "Made", "Making", "MovedError"]

_WORTH_KEEPING = 10.0
"""Seconds of work that are kept where a run fails that has committed nothing yet."""


class MovedError(Exception):
    """Another process has changed the work in progress since it was looked at."""


@dataclass(frozen=True)
class Job:
    """What one network has to do."""

    model: Model
    modules: tuple[str, ...]
    capture: Capture
    specs: list[ActivationSpec]
    stimuli: StimulusSet
    """The images to compute."""
    base: Base | None
    """What comes before them in the result."""
    work: WorkFolder
    record: Record | None
    """Of the work in progress, whose plan `asked` has adopted."""
    request: Mapping[str, Any]
    """From `describe_request`."""
    asked: ExtractOptions


@dataclass(frozen=True)
class Made:
    """What became of a job."""

    images: int
    """Rows of the result; where it is not there yet, images in all parts."""
    missing: int
    """Images that are not computed yet."""
    skipped: tuple[tuple[str, str], ...]
    engine: str
    device: str


class Making:
    """The making of one result, in a work folder that is held.

    In this order: `resume`; `settle`, unless nothing is missing; and in the block of `writing`
    `append`, then `finish` or `keep`.
    """

    missing: list[range]
    """Rows that this process has to compute, once a plan is settled."""
    _blueprint: Blueprint
    _joiner: Joiner
    _joining: Background | None = None
    _writer: PartsWriter
    _steps: Background
    _result: Result | None = None
    _published = False

    def __init__(self, job: Job, shard: Shard | None, tell: Tell) -> None:
        self.job = job
        self._shard, self._tell = shard, tell
        self._record: Record | None = None
        self._parts: list[Part] = []
        self._not_finite: set[str] = set()

    @property
    def n_missing(self) -> int:
        """How many rows this process has to compute; about that before a plan is settled."""
        if self._record is None:
            return math.ceil(len(self.job.stimuli) / (self._shard.count if self._shard else 1))
        return count(self.missing)

    @property
    def record(self) -> Record:
        """What is written down of the run."""
        assert self._record is not None
        return self._record

    @property
    def share(self) -> range:
        """The rows that this process sees to, once a plan is settled."""
        shard = self._shard or Shard()
        return shard.share(len(self.job.stimuli), self._blueprint.align)

    # What is there

    def resume(self) -> None:
        """Take up what is there, after a thorough look.

        Raises
        ------
        RequestError
            If it is of another request.
        MovedError
        """
        job, work = self.job, self.job.work
        if job.asked.restart:
            work.clear()
        record = work.read()
        if self._shard is None and (record is None or not work.parts()):
            work.clear()  # parts without a record are what a kill has left of a removal
            record = None
        if (record and record.run) != (job.record and job.record.run):
            raise MovedError
        if record is None:
            return
        refuse_other_work(work, request_differences(record.request, job.request))
        self._take(record)
        for part in work.parts():
            if self._is_mine(part):
                self._take_part(part)
        refuse_other_work(work, self._image_differences())
        self.missing = missing_rows(self.share, (part.rows for part in self._parts))
        n, left = len(self.share), count(self.missing)
        self._tell(f"continuing {work.out}: {n - left} of {n} images are done")

    def _take(self, record: Record) -> None:
        job, base = self.job, self.job.base
        n_rows = len(job.stimuli) + (len(base.store) if base else 0)
        compression = None if job.asked.compression == "none" else job.asked.compression
        layouts = choose_layouts(job.specs, n_rows, compression)
        if base:
            for path in layouts:
                layouts[path] = layout_of(base.store.handle.dataset(feature_name(path)))
        self._record = record
        self._blueprint = Blueprint(
            job.specs,
            job.stimuli,
            n_rows,
            layouts,
            batch_size=record.plan["batch_size"],
            list_skipped=job.asked.on_error == "skip",
            provenance={**record.provenance, "hardware": hardware(job.capture.device)},
        )

    def _is_mine(self, part: Part) -> bool:
        share = self.share
        return part.rows.start < share.stop and part.rows.stop > share.start

    def _take_part(self, part: Part) -> None:
        problem = part_problem(part, self._blueprint, thorough=True)
        if problem is None:
            self._parts.append(part)
        else:
            self._tell(f"{part.path} is computed again: {problem}")
            self.job.work.discard(part)

    def _image_differences(self) -> Iterator[str]:
        """Yield in what the images of the parts differ from the files that there are now."""
        hashes: dict[str, str] = {}
        skipped: dict[str, str] = {}
        for part in self._parts:
            with open_store(part.path) as store:
                hashes |= zip(store.image_ids.tolist(), store.sha256.tolist(), strict=True)
                skipped |= store.skipped
        rows = sorted({row for part in self._parts for row in part.rows})
        done = self.job.stimuli.take(rows)
        ids = [image_id for image_id in done.ids if image_id in hashes]
        sha256s = [hashes[image_id] for image_id in ids]
        yield from image_differences(done, ids, sha256s, [*skipped.items()], self.job.asked)

    # The plan

    def settle(self, ready: ReadyNetworks, network: int) -> None:
        """Write down the plan by which the rows are computed, or see that the old one is followed.

        Raises
        ------
        RequestError
            If this machine cannot follow the plan of the work that it is to continue.
        MovedError
            If another shard was first.
        WorkError
            If the disk fails or is full.
        """
        job, engine = self.job, ready.engines[network]
        name = hardware(job.capture.device)
        plan = plan_record(ready.plan, engine, ready.device, name)
        if self._record is None:
            origin = provenance(job.model, job.capture, job.stimuli, ready.plan, job.asked)
            origin |= {"engine": engine, "device": ready.device}
            mine = Record.new(job.request, plan, origin)
            record = job.work.settle(mine)
            if record.run != mine.run:
                raise MovedError
            self._take(record)
            self.missing = missing_rows(self.share, ())
            return
        there = self._record.plan
        refuse_other_work(job.work, followed_differences(there, plan))
        if there["hardware"] != name:
            self._tell(
                f"{job.work.out} was begun on {there['hardware']}, this is {name}: the last bits "
                "of an activation may depend on which of them computed it"
            )

    # Work

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be ready for rows, and for the end; what is not committed when the block ends is lost."""
        work, run = self.job.work, self.record.run
        with ExitStack() as stack:
            if self._shard is None:
                self._joiner = stack.enter_context(Joiner(work, self._blueprint, self.job.base))
                self._joining = stack.enter_context(background(self._joiner.add, 0))
                stack.callback(self._joiner.stop)
                for part in self._parts:
                    self._joining(part)
            self._writer = stack.enter_context(
                PartsWriter(work, run, self._blueprint, self._committed)
            )
            self._steps = stack.enter_context(background(_do))
            yield

    def _committed(self, part: Part) -> None:
        self._parts.append(part)
        if self._joining is not None:
            self._joining(part)

    def append(self, batch: Batch, activations: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the rows of a batch, soon."""
        self._steps(partial(self._write, batch, activations))

    def _write(self, batch: Batch, activations: Mapping[str, npt.NDArray[Any]]) -> None:
        self._writer.append(batch, activations)
        for module, array in activations.items():
            with np.errstate(over="ignore", invalid="ignore"):  # told below, by name
                if module in self._not_finite or np.isfinite(array.sum()):
                    continue
            finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if not finite.all():  # else it is the sum that is too large
                self._not_finite.add(module)
                self._tell(
                    f"{module}: NaN or infinite activations, first of "
                    f"{batch.loaded[int(np.argmin(finite))].id}; are the weights right, and "
                    f"--precision {self.job.asked.precision} fit for them?"
                )

    def keep(self, *, whatever: bool) -> None:
        """Commit what was computed, as far as that is possible, since the run ends early.

        Parameters
        ----------
        whatever : bool
            Also if it is little, and nothing was committed before.
        """
        with suppress(WorkError):
            self._steps.join()
            if self._result is not None:
                self._publish(self._result)
            elif whatever or self._parts or self._writer.age > _WORTH_KEEPING:
                self._commit()

    def _commit(self) -> None:
        """Commit in the writer's thread: Ctrl-C ends the waiting alone."""
        self._steps(self._writer.commit)
        self._steps.join()

    def n_kept(self) -> int:
        """Return how many images are in parts."""
        n = len(self.job.stimuli)
        if self._published:
            return n
        return n - count(missing_rows(range(n), (part.rows for part in self.job.work.parts())))

    # The end

    def finish(self) -> Made:
        """Join the parts if all rows are there, and give the result its name.

        Raises
        ------
        WorkError
            If the disk fails or is full, or none of the images can be read.
        """
        self._steps.join()
        if self._shard is not None:
            self._commit()
            return self._finish_together()
        if self._writer.open_rows == range(len(self.job.stimuli)) and not self.job.base:
            self._steps(self._finish_alone)
            self._steps.join()
        else:
            self._commit()
            if self._joining is not None:
                self._joining.join()
            self._result = self._joiner.finish(self._parts, self._origin())
        assert self._result is not None
        return self._publish(self._result)

    def _finish_alone(self) -> None:
        """Turn what is not committed into the result: no part is there, and none is needed."""
        self._result = self._writer.finish_alone(self._origin())

    def _origin(self) -> dict[str, Any]:
        return {**self._blueprint.provenance, "finished": now()}

    def _publish(self, result: Result) -> Made:
        job, work = self.job, self.job.work
        if not result.ids:
            work.clear()  # nothing of it is of use
            check_any_read(job.stimuli, result.skipped)
        check_result(result, self._blueprint)
        work.publish(result.path)
        self._result, self._published = None, True
        work.remove()
        return self._made(len(result.ids), 0, result.skipped)

    def _finish_together(self) -> Made:
        """Join if this shard is the last one."""
        job, work = self.job, self.job.work
        n, parts = len(job.stimuli), work.parts()
        if not work.is_of(self.record.run):
            return self._finished_elsewhere()
        missing = count(missing_rows(range(n), (part.rows for part in parts)))
        if missing:
            return self._made(n - missing, missing, ())
        with work.joining() as is_mine:
            if not is_mine or not work.is_of(self.record.run):
                return self._finished_elsewhere()
            problems = [part_problem(part, self._blueprint, thorough=False) for part in parts]
            for part, problem in zip(parts, problems, strict=True):
                if problem:
                    self._tell(f"{part.path} is removed: {problem}; start its shard again")
                    work.discard(part)
            if any(problems):
                return self._made(self.n_kept(), n - self.n_kept(), ())
            with Joiner(work, self._blueprint, job.base) as joiner:
                return self._publish(joiner.finish(parts, self._origin()))

    def _finished_elsewhere(self) -> Made:
        """Return what became of the job where another shard joins, or has joined."""
        self._tell(f"{self.job.work.out} is joined by another shard")
        return self._made(len(self.job.stimuli), 0, ())

    def _made(self, images: int, missing: int, skipped: tuple[tuple[str, str], ...]) -> Made:
        origin = self.record.provenance
        return Made(images, missing, skipped, origin["engine"], origin["device"])


def _do(step: Callable[[], None]) -> None:
    step()


def refuse_other_work(work: WorkFolder, differences: Iterator[str]) -> None:
    """Raise if work in progress is of another request.

    Raises
    ------
    RequestError
        One line that names all differences.
    """
    if found := "; ".join(differences):
        raise RequestError(
            f"{work.out} is half done, by another request ({found}); use --restart to begin anew "
            "without what is done, or another --out"
        )
