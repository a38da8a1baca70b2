"""Parts into one file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import RequestError, ResmemExtractError, StoreError, WorkError
from ..store import Store, StoreWriter, open_store
from .parts import Blueprint, Result
from .work import Part, WorkFolder

__all__ = ["Base", "Joiner", "check_result"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A result whose rows come before all parts, as they are."""

    store: Store
    """Open."""
    skipped: tuple[tuple[str, str], ...]
    """Images that it leaves out and that still cannot be read."""


@dataclass
class _Joined:
    """The joined file in the making."""

    writer: StoreWriter
    row: int = 0
    """The first row, of the images that are asked for, whose part is not in it."""
    rows: list[int] = field(default_factory=list)
    """Those in it; what is missing in between was skipped."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    hardware: dict[str, None] = field(default_factory=dict)
    """On which its parts were computed."""


class Joiner:
    """Copies parts into one file in the order of their rows, each as soon as it can.

    Beside the computing this takes hardly any time: a part that was just written is still in the
    memory of the system, and the disk that stores what a processor computes has time for a second
    copy. It is a convenience alone: the parts stay until the result has its name, and if joining
    fails here, `finish` begins anew.

    Parameters
    ----------
    work : WorkFolder
    blueprint : Blueprint
    base : Base, optional
        Whose rows come first.
    """

    def __init__(self, work: WorkFolder, blueprint: Blueprint, base: Base | None = None) -> None:
        self._work, self._blueprint, self._base = work, blueprint, base
        self._joined: _Joined | None = None
        self._waiting: list[Part] = []
        self._failed = False
        self._stopped = threading.Event()

    def __enter__(self) -> Joiner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop()

    def _drop(self) -> None:
        """Remove what was joined so far."""
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.writer.__exit__(None, None, None)

    def stop(self) -> None:
        """Have a copy that is going on in another thread end, as the run ends early."""
        self._stopped.set()

    def _check_stopped(self, _nbytes: int) -> None:
        if self._stopped.is_set():
            raise WorkError("stopped")

    def add(self, part: Part) -> None:
        """Copy a part now or, if rows before it are still missing, when they have come."""
        if self._failed:
            return
        self._waiting.append(part)
        try:
            self._copy_waiting()
        except (ResmemExtractError, OSError, RuntimeError) as error:
            log.info("joining beside the computing failed: %s", error)
            self._failed = True
            self._drop()  # where the disk is full, the parts need the room

    def finish(self, parts: Sequence[Part], provenance: Mapping[str, Any]) -> Result:
        """Complete the joined file.

        Parameters
        ----------
        parts : sequence of Part
            All of them, also those that were added; together they hold all rows.
        provenance : mapping
            Of the run.

        Raises
        ------
        WorkError
            If the disk fails or is full, or a part cannot be read.
        """
        self._waiting = sorted(parts, key=lambda part: part.rows.start)
        self._failed = False
        try:
            self._copy_waiting()
        except RequestError as error:  # there is nothing wrong with the request
            raise WorkError(str(error)) from error
        joined, blueprint, base = self._begun(), self._blueprint, self._base
        if joined.row != len(blueprint.stimuli):
            raise WorkError(f"{self._work.path}: no part begins at row {joined.row}")
        columns = blueprint.columns(joined.rows)
        ids = tuple(blueprint.stimuli.ids[row] for row in joined.rows)
        skipped = tuple(joined.skipped)
        provenance = {**provenance, "hardware": ", ".join(joined.hardware)}
        if base is not None:
            old = base.store.columns
            columns = {name: np.concatenate([old[name], new]) for name, new in columns.items()}
            ids = (*base.store.image_ids.tolist(), *ids)
            skipped = (*base.skipped, *skipped)
            provenance = _extended(base.store, provenance)
        listed = skipped if blueprint.list_skipped or skipped else None
        joined.writer.finish(columns, listed, provenance)
        self._joined = None
        return Result(self._work.joined, ids, skipped)

    def _begun(self) -> _Joined:
        """Return the joined file, begun with the rows that come before all parts."""
        if self._joined is None:
            self._joined = _Joined(self._blueprint.writer(self._work.joined).__enter__())
            if self._base is not None:
                self._joined.writer.append_store(self._base.store, copied=self._check_stopped)
        return self._joined

    def _copy_waiting(self) -> None:
        joined = self._begun()
        while part := self._next(joined.row):
            with open_store(part.path) as store:
                rows = store.columns["row"].tolist()
                fresh = [i for i, row in enumerate(rows) if row >= joined.row]
                new = None if len(fresh) == len(rows) else slice(len(rows) - len(fresh), len(rows))
                joined.writer.append_store(store, new, self._check_stopped)
                joined.rows += [rows[i] for i in fresh]
                joined.skipped += self._skipped(store, joined.row)
                joined.hardware[store.provenance["hardware"]] = None
            joined.row = part.rows.stop

    def _next(self, row: int) -> Part | None:
        """Return a part that has a row; shards cut in another way may have done it twice."""
        self._waiting = [part for part in self._waiting if part.rows.stop > row]
        return next((part for part in self._waiting if part.rows.start <= row), None)

    def _skipped(self, store: Store, row: int) -> list[tuple[str, str]]:
        """Return what a part leaves out from a row on."""
        if row == 0 or not store.skipped:
            return list(store.skipped)
        seen = set(self._blueprint.stimuli.ids[:row])
        return [pair for pair in store.skipped if pair[0] not in seen]


def _extended(base: Store, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a result to which rows were added: that of the first, and news."""
    old = base.provenance
    news = {key: value for key, value in provenance.items() if old.get(key) != value}
    extended = [*old.get("extended", ()), {"row": len(base), **news}]
    return {**old, "run": provenance["run"], "extended": extended}


def check_result(result: Result, blueprint: Blueprint) -> None:
    """See that a file is what it should be, before it gets the name of the result.

    Raises
    ------
    WorkError
    """
    try:
        with open_store(result.path) as store:
            right = store.image_ids.tolist() == list(result.ids) and all(
                (store[spec.path].shape, store[spec.path].dtype.name)
                == ((len(result.ids), *spec.shape), spec.dtype)
                for spec in blueprint.specs
            )
    except (StoreError, OSError) as error:
        raise WorkError(f"{result.path} is damaged just after it was written: {error}") from error
    if not right:
        raise WorkError(f"{result.path} does not hold what was written to it; is the disk failing?")
