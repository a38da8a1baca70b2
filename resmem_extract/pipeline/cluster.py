"""One result made by a Ray cluster: its machines work on shards, each writing its own parts.

All that machines share is a file system, on which images and result lie under the same names. A
shard that is lost with its machine goes to another, which finds its parts and computes the rest;
whoever finds all rows done joins them. So the driver only hands out shards, and may itself be
interrupted, or run where there is neither a GPU nor much memory.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ExtractOptions, validated
from ..errors import InUseError, MissingExtraError, RequestError, WorkError
from ..images import StimulusSet
from ..store import open_store
from ..types import Progress
from .device_process import Failure
from .extract import extract, extract_many
from .run import Images, Tell, choose_stimuli
from .summary import ExtractSummary
from .work import progress_of

if TYPE_CHECKING:
    from ..models.base import Model

__all__ = ["extract_on_ray"]

log = logging.getLogger(__name__)

_SHARDS_A_WORKER = 4
"""So that a slow machine holds up the others for a fraction of its share alone."""
_FEW_IMAGES = 500
"""A shard has no fewer: beginning one takes seconds."""
_MOST_LOSSES = 3
"""How often a shard may lose the process that works on it; more often is no accident."""
_EVERY = 0.5  # seconds between two looks
_LOCKS_LAST = 120.0
"""Seconds for which a file system may still believe in the locks of a machine that is gone."""


@dataclass(frozen=True)
class _Call:
    """A call of `extract` or `extract_many`, without the shard."""

    model: Model | str | list[Model | str]
    modules: str | Sequence[str]
    stimuli: StimulusSet
    out: str
    options: Mapping[str, Any]
    argv: list[str]
    """The command that was typed, for the record."""

    def __call__(
        self, shard: tuple[int, int], progress: Progress, tell: Tell
    ) -> list[ExtractSummary]:
        shared = {**self.options, "out": self.out, "shard": shard}
        shared |= {"progress": progress, "tell": tell}
        if isinstance(self.model, list):
            return extract_many(self.model, self.modules, self.stimuli, **shared)
        return [extract(self.model, self.modules, self.stimuli, **shared)]


class _Worker:
    """Works on shards, one at a time, in a process of its own somewhere on the cluster."""

    def __init__(self) -> None:
        self._call: _Call | None = None
        self._done = 0
        self._told: list[str] = []

    def run(self, parcel: list[Any], shard: tuple[int, int]) -> list[ExtractSummary] | Failure:
        """Do a shard, or say why not; errors do not all survive the way to another process.

        Parameters
        ----------
        parcel : list of one reference to a _Call
            Fetched once, and here, where it is seen why that fails.
        shard : tuple of int
        """
        self._done = 0

        def progress(done: int, _total: int) -> None:
            self._done = done

        try:
            if self._call is None:
                self._call = _ray().get(parcel[0])
                sys.argv = self._call.argv
            return self._call(shard, progress, self._told.append)
        except Exception as error:  # a network's own code may fail in any way
            return Failure.of(error, f"shard {shard[0]}/{shard[1]}")

    def look(self) -> tuple[int, list[str]]:
        """Return how many images of the shard are done, and what there is to tell since."""
        told, self._told = self._told, []
        return self._done, told


def extract_on_ray(
    model: Model | str | Sequence[Model | str],
    modules: str | Sequence[str],
    images: Images = None,
    *,
    out: str | os.PathLike[str],
    n_workers: int | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> list[ExtractSummary]:
    """Store the activations of modules for images, computed by a Ray cluster.

    Parameters
    ----------
    model : Model, str, or a sequence of them
        As for `extract`, or several as for `extract_many`; `out` is a folder then. Workers load a
        model that is named, and are sent one that is not.
    modules, images, out, progress, tell
        As for `extract`. Images and `out` have to lie on a file system that all machines share,
        under the same names.
    n_workers : int, optional
        Processes on the cluster; by default one for each GPU or, where there is none, for each
        machine.
    **options
        As for `extract`, without `shard`.

    Returns
    -------
    list of ExtractSummary
        One a network.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    RequestError, WorkError
        As for `extract`, or if a shard loses its worker again and again.
    """
    tell = tell or (lambda _line: None)
    asked: ExtractOptions = validated(ExtractOptions, options, "extract_on_ray")
    if asked.shard is not None:
        raise RequestError("--shard and --cluster both share out the images; choose one")
    for name, given in (("restart", asked.restart), ("overwrite", asked.overwrite)):
        if given:
            raise RequestError(f"--{name} with --cluster: remove {out} and its work folder first")
    ray = _ray()
    stimuli = choose_stimuli(images, asked, tell)
    many = not isinstance(model, str) and isinstance(model, Sequence)
    if options.get("weights") is not None:
        options["weights"] = str(Path(options["weights"]).absolute())
    call = _Call(
        model=list(model) if many else model,  # type: ignore[arg-type]
        modules=modules,
        stimuli=replace(stimuli, notes=()),
        out=str(Path(out).absolute()),
        options=options,
        argv=list(sys.argv),
    )
    started = time.perf_counter()
    with _connected(ray):
        done = _Driver(ray, call, asked, n_workers, tell).run(progress)
    return _summaries(done, time.perf_counter() - started)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "--cluster ray needs Ray: pip install 'resmem-extract[ray]'"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Be connected to the cluster of ``$RAY_ADDRESS``, or of this machine, or begin a local one."""
    if ray.is_initialized():
        yield
        return
    ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


@dataclass
class _Busy:
    """A worker and the shard that it is at."""

    worker: Any
    shard: int
    done: int = 0
    """Images of the shard."""
    look: Any = None
    """The answer to `look` that is awaited."""


class _Driver:
    """Hands out shards until all are done."""

    def __init__(
        self, ray: Any, call: _Call, asked: ExtractOptions, n_workers: int | None, tell: Tell
    ) -> None:
        self._ray, self._tell = ray, tell
        n_gpus = int(ray.cluster_resources().get("GPU", 0)) if asked.device != "cpu" else 0
        n_cpus = int(ray.cluster_resources().get("CPU", 1))
        n_machines = sum(node["Alive"] for node in ray.nodes())
        self._n_workers = n_workers or n_gpus or n_machines
        cpus = max(1, n_cpus // self._n_workers)
        if self._n_workers > n_machines and not n_gpus:
            call = replace(call, options={**_part_of_machine(asked, cpus), **call.options})
        self._kind = ray.remote(_Worker).options(
            num_cpus=0 if n_gpus else cpus,
            num_gpus=1 if n_gpus else 0,
            max_concurrency=2,  # to be looked at while it works
            scheduling_strategy="SPREAD",
        )
        self._call, self._parcel = call, [ray.put(call)]
        self._n_images = len(call.stimuli)
        most = max(1, self._n_images // _FEW_IMAGES)
        self._n_shards = max(self._n_workers, min(_SHARDS_A_WORKER * self._n_workers, most))
        self._losses: Counter[int] = Counter()
        self._last_loss = 0.0
        self._finished = 0
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy] = {}
        self._said: set[str] = set()
        self._say(f"{self._n_shards} shards for {self._n_workers} workers")

    def _say(self, line: str) -> None:
        """Tell something once: what a worker has to say, all of them have."""
        if line not in self._said:
            self._said.add(line)
            self._tell(line)

    def run(self, progress: Progress | None) -> list[list[ExtractSummary]]:
        """Return what became of each shard."""
        rest = range(self._n_shards)
        done: list[list[ExtractSummary]] = []
        self._idle = [self._kind.remote() for _ in range(self._n_workers)]
        try:
            if Path(self._call.out).is_file():  # which has to be looked at once, not by all
                done += self._do(rest[:1], progress)
                rest = range(0) if all(one.already_complete for one in done[0]) else rest[1:]
            done += self._do(rest, progress)
            for _ in range(_MOST_LOSSES):  # the worker that joined may have been lost
                if any(one.missing == 0 and not one.out.exists() for one in done[-1]):
                    done += self._do(range(1), progress)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(self._kept()) from interrupt
        except WorkError as error:
            error.args = (f"{error}; {self._kept()}",)
            raise
        finally:
            for worker in [*self._idle, *(one.worker for one in self._busy.values())]:
                self._ray.kill(worker)
        if progress:
            progress(self._n_images, self._n_images)
        return done

    def _kept(self) -> str:
        state = progress_of(Path(self._call.out))
        kept = f"{state['done']} of {state['images']} images are" if state else "what is done is"
        return f"{kept} kept, and the same command continues"

    def _do(self, shards: Sequence[int], progress: Progress | None) -> list[list[ExtractSummary]]:
        """Return what became of some shards."""
        done: list[list[ExtractSummary]] = []
        waiting = deque(shards)
        while waiting or self._busy:
            while waiting and self._idle:
                worker, shard = self._idle.pop(), waiting.popleft()
                reference = worker.run.remote(self._parcel, (shard, self._n_shards))
                self._busy[reference] = _Busy(worker, shard)
            ready, _ = self._ray.wait(list(self._busy), timeout=_EVERY)
            for reference in ready:
                one = self._busy.pop(reference)
                outcome = self._outcome(reference, one)
                if outcome is None:
                    waiting.append(one.shard)
                else:
                    done.append(outcome)
            self._look(progress)
        return done

    def _outcome(self, reference: Any, one: _Busy) -> list[ExtractSummary] | None:
        """Return what became of a shard, None if it has to be handed out again.

        Raises
        ------
        ResmemExtractError
            What the worker has raised.
        WorkError
            If the shard has lost its worker too often.
        """
        try:
            outcome = self._ray.get(reference)
            one.done, told = self._ray.get(one.worker.look.remote())
        except self._ray.exceptions.RayTaskError as error:  # what `run` itself has not caught
            raise WorkError(f"a worker failed: {error.cause!s}") from error
        except self._ray.exceptions.RayError as error:
            self._replace(one, error)
            return None
        self._idle.append(one.worker)
        if isinstance(outcome, Failure):
            raised = outcome.error()
            gone = time.monotonic() - self._last_loss < _LOCKS_LAST
            if isinstance(raised, InUseError) and self._losses[one.shard] and gone:
                time.sleep(_EVERY)
                return None
            log.info("on the cluster: %s", outcome.traceback)
            raise raised
        for line in told:
            self._say(line)
        self._finished += one.done
        result: list[ExtractSummary] = outcome
        return result

    def _replace(self, one: _Busy, error: Exception) -> None:
        """Start another worker in place of one that is lost."""
        self._losses[one.shard] += 1
        self._last_loss = time.monotonic()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if self._losses[one.shard] > _MOST_LOSSES:
            raise WorkError(
                f"shard {one.shard} of {self._n_shards} has lost its worker "
                f"{self._losses[one.shard]} times ({reason})"
            ) from error
        self._tell(f"a worker was lost ({reason}); another one continues shard {one.shard}")
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(one.worker)
        self._idle.append(self._kind.remote())

    def _look(self, progress: Progress | None) -> None:
        """Pass on what workers have done and told, as far as they have answered."""
        for one in self._busy.values():
            if one.look is None:
                one.look = one.worker.look.remote()
            if not self._ray.wait([one.look], timeout=0)[0]:
                continue
            with suppress(self._ray.exceptions.RayError):  # seen where the shard is awaited
                one.done, told = self._ray.get(one.look)
                for line in told:
                    self._say(line)
            one.look = None
        if progress:
            done = self._finished + sum(one.done for one in self._busy.values())
            progress(min(done, self._n_images), self._n_images)


def _part_of_machine(asked: ExtractOptions, cpus: int) -> dict[str, Any]:
    """Return options by which a worker uses some of the cores, where several share a machine."""
    if asked.compile == "on":
        return {"streams": 1, "threads": cpus}
    streams = asked.streams or min(cpus, 8)
    return {"streams": streams, "threads": max(1, cpus // streams), "compile": "off"}


def _summaries(done: Sequence[Sequence[ExtractSummary]], seconds: float) -> list[ExtractSummary]:
    """Return one summary a network, of all shards.

    Raises
    ------
    WorkError
        If a result is not there all the same.
    """
    summaries = []
    for shards in zip(*done, strict=True):
        first, computed = shards[0], sum(one.computed for one in shards)
        if not first.out.exists():
            raise WorkError(f"{first.out} was not joined; the same command does it")
        with open_store(first.out) as store:
            whole = ExtractSummary.complete(store, first.modules)
        complete = all(one.already_complete for one in shards)
        seconds = 0.0 if complete else seconds
        summaries.append(
            replace(whole, computed=computed, seconds=seconds, already_complete=complete)
        )
    return summaries
