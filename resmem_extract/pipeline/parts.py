"""Rows on their way into parts, and parts found again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, StoreError, WorkError
from ..images import StimulusSet
from ..store import Layout, Store, StoreWriter, open_store, verify_store
from ..store.schema import feature_name
from ..types import ActivationSpec
from .rows import alignment
from .run import Batch
from .work import Part, WorkFolder, WorkGoneError

__all__ = ["LIMITS", "Blueprint", "Limits", "PartsWriter", "Result", "part_problem"]


@dataclass(frozen=True)
class Limits:
    """When a part is closed: at whichever comes first."""

    nbytes: int = 2**29
    seconds: float = 30.0
    """After which it is closed at the next boundary of batches and chunks."""
    most_seconds: float = 45.0
    """After which it is closed at the next batch, or before, if that one would come too late."""


LIMITS = Limits()


@dataclass(frozen=True)
class Blueprint:
    """What all parts of a result share with it."""

    specs: Sequence[ActivationSpec]
    stimuli: StimulusSet
    """The images of the rows."""
    n_rows: int
    """Of the result; more than there are images where others come before."""
    layouts: Mapping[str, Layout]
    """Of the result, so that chunks need not be decoded to be joined."""
    batch_size: int
    """Of the batch grid, at which parts are cut."""
    list_skipped: bool
    """Whether images may be skipped."""
    provenance: Mapping[str, Any]

    @property
    def align(self) -> int:
        """Rows at whose multiples parts are best cut."""
        return alignment(self.specs, self.layouts, self.batch_size)

    def writer(self, path: Path) -> StoreWriter:
        """Return a writer for a part, or for the result."""
        return StoreWriter(path, self.specs, self.n_rows, layouts=self.layouts)

    def columns(self, rows: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of some images."""
        return {name: values[list(rows)] for name, values in self.stimuli.columns.items()}


@dataclass(frozen=True)
class Result:
    """A complete file that has not the name of the result yet."""

    path: Path
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    """Id and reason of each image left out."""


class PartsWriter:
    """Writes the rows of one network, and closes a part now and then.

    Used as a context manager; leaving it drops what is not committed.

    Parameters
    ----------
    work : WorkFolder
    run : str
        Of the record of the work; nothing is written into a folder that is of another one.
    blueprint : Blueprint
    committed : callable
        Told of each part.
    limits : Limits
    """

    def __init__(
        self,
        work: WorkFolder,
        run: str,
        blueprint: Blueprint,
        committed: Callable[[Part], None],
        limits: Limits | None = None,
    ) -> None:
        self._work, self._run, self._blueprint = work, run, blueprint
        self._committed = committed
        self._align = blueprint.align
        self._limits = limits or LIMITS
        self._writer: StoreWriter | None = None
        self._start = self._end = 0
        self._rows: list[int] = []
        self._skipped: list[tuple[str, str]] = []
        self._bytes = 0
        self._opened = self._last = 0.0
        self._gap = 0.0
        self.failed = False
        """Whether rows were lost in writing; the part that was open is worth nothing then."""

    def __enter__(self) -> PartsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(kind, error, traceback)

    @property
    def open_rows(self) -> range:
        """Rows that are written and not committed yet."""
        return range(self._start, self._end) if self._writer else range(0)

    @property
    def age(self) -> float:
        """Seconds since the first row that is not committed yet was computed."""
        return time.monotonic() - self._opened if self._writer else 0.0

    def append(self, batch: Batch, activations: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the rows of a batch.

        Raises
        ------
        WorkError
            If the disk fails or is full, or values do not fit into the dtype.
        """
        self.failed = True
        rows = batch.rows
        if self._writer is not None and rows.start != self._end:
            self.commit()
        writer = self._writer or self._open(rows.start)
        if batch.loaded:
            ids = [image.id for image in batch.loaded]
            with self._in_its_folder():
                writer.append(ids, [image.sha256 for image in batch.loaded], activations)
        self._rows += [image.row for image in batch.loaded]
        self._skipped += [(image.id, image.reason) for image in batch.skipped]
        self._bytes += len(batch.loaded) * sum(s.nbytes_per_image for s in self._blueprint.specs)
        self._end = rows.stop
        self.failed = False
        if self._is_due():
            self.commit()

    def _open(self, first: int) -> StoreWriter:
        self._check_folder()
        writer = self._blueprint.writer(self._work.opened(first))
        try:
            self._writer = writer.__enter__()
        except RequestError as error:  # what could be written when the run began
            raise WorkError(str(error)) from error
        self._start = self._end = first
        self._rows, self._skipped, self._bytes = [], [], 0
        self._opened = self._last = time.monotonic()
        return self._writer

    def _check_folder(self) -> None:
        if not self._work.is_of(self._run):
            raise WorkGoneError(f"{self._work.path} was removed, or begun anew, by another process")

    @contextmanager
    def _in_its_folder(self) -> Iterator[None]:
        """Say that the folder is gone where that is why writing fails."""
        try:
            yield
        except WorkError:
            self._check_folder()
            raise

    def _is_due(self) -> bool:
        now = time.monotonic()
        # The next batch may take as long as the slowest of late has taken.
        self._gap, self._last = max(now - self._last, self._gap / 2), now
        age = now - self._opened
        if age + self._gap > self._limits.most_seconds:
            return True
        full = self._bytes >= self._limits.nbytes or age >= self._limits.seconds
        return full and self._end % self._align == 0

    def commit(self) -> None:
        """Make a part of the rows that are not committed yet; nothing happens if there are none.

        Raises
        ------
        WorkError
            If the disk fails or is full.
        """
        if self._writer is None:
            return
        rows = self.open_rows
        columns = {**self._blueprint.columns(self._rows), "row": np.array(self._rows, np.int64)}
        provenance = {**self._blueprint.provenance, "rows": [rows.start, rows.stop]}
        self._finish(columns, self._skipped, provenance)
        with self._in_its_folder():
            part = self._work.commit(self._work.opened(rows.start), rows)
        self._committed(part)

    def finish_alone(self, provenance: Mapping[str, Any]) -> Result:
        """Make the result of the rows that are not committed yet, which must be all there are.

        Raises
        ------
        WorkError
            If the disk fails or is full.
        """
        path = self._work.opened(self._start)
        ids = tuple(self._blueprint.stimuli.ids[row] for row in self._rows)
        result = Result(path, ids, tuple(self._skipped))
        self._finish(self._blueprint.columns(self._rows), result.skipped, provenance)
        return result

    def _finish(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        skipped: Sequence[tuple[str, str]],
        provenance: Mapping[str, Any],
    ) -> None:
        writer = self._writer
        assert writer is not None
        self.failed = True
        with self._in_its_folder():
            writer.finish(columns, skipped if self._blueprint.list_skipped else None, provenance)
        self._writer = None
        self.failed = False


def part_problem(part: Part, blueprint: Blueprint, *, thorough: bool) -> str | None:
    """Say in a few words why a part cannot be used, None if it can.

    It has to open, to be of the run, and to hold exactly the rows that its name says, each for its
    own image, those of skipped images left out.

    Parameters
    ----------
    part : Part
    blueprint : Blueprint
        Of the result that it is a part of.
    thorough : bool
        Read it all, and hold it against its checksums: who joins parts copies them undecoded.
    """
    try:
        with open_store(part.path) as store:
            problem = _problem(store, part.rows, blueprint)
        if problem is None and thorough and not verify_store(part.path).intact:
            problem = "it is damaged"
        return problem
    except StoreError as error:
        return str(error)
    # h5py raises nearly anything on damaged files.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _problem(store: Store, rows: range, blueprint: Blueprint) -> str | None:
    if store.provenance.get("run") != blueprint.provenance["run"]:
        return "it is of another run"
    ids, grid = blueprint.stimuli.ids, blueprint.batch_size
    if rows.start % grid or (rows.stop % grid and rows.stop != len(ids)) or rows.stop > len(ids):
        return "it does not fit the batches"
    row_of = {ids[row]: row for row in rows}
    left_out = {row_of.get(image_id, -1) for image_id, _ in store.skipped}
    there = [row for row in rows if row not in left_out]
    if len(there) + len(left_out) != len(rows) or store.columns["row"].tolist() != there:
        return "it has not the rows of its name"
    if store.image_ids.tolist() != [ids[row] for row in there]:
        return "its rows are of other images"
    for spec in blueprint.specs:
        dataset = store.handle.dataset(feature_name(spec.path))
        if (dataset.shape, dataset.dtype.name) != ((len(there), *spec.shape), spec.dtype):
            return f"{spec.path} is {dataset.dtype} {dataset.shape}"
    return None
