"""Verify a store: read all of it, and hold it against its checksums."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DamagedStoreError, IncompleteStoreError, given_path, reason_of
from ..types import Progress
from .checksums import (
    checksum,
    chunk_columns,
    chunk_grid,
    metadata_checksum,
    read_checksums,
    read_metadata_checksums,
)
from .handle import UNREADABLE, Handle
from .schema import decode_strings

__all__ = ["Damage", "Verification", "verify_store"]


@dataclass(frozen=True)
class Damage:
    """Chunks of one module that are not what was written, all of the same rows."""

    module: str
    rows: tuple[int, int]
    """The first, and the one after the last."""
    ids: tuple[str, ...]
    """The images concerned, if ids can be read."""
    chunks: int
    """How many chunks of these rows are damaged."""
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was found when a store was read."""

    path: Path
    images: int = 0
    chunks: int = 0
    """Chunks that were read and have a checksum."""
    bytes: int = 0
    """Of activations that were read."""
    damaged: tuple[Damage, ...] = ()
    changed: tuple[str, ...] = ()
    """Data sets and attributes beside the activations that are not what was written."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Objects of the file that cannot be read, and why."""
    unchecked: tuple[str, ...] = ()
    """Modules without checksums, as older files have them; they can be read, no more."""

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damaged or self.changed or self.unreadable)

    def describe(self) -> dict[str, Any]:
        """Return this record as JSON values."""
        return {
            "file": str(self.path),
            "intact": self.intact,
            "images": self.images,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "damaged": [{**vars(damage), "ids": list(damage.ids)} for damage in self.damaged],
            "changed": list(self.changed),
            "unreadable": dict(self.unreadable),
            "unchecked": list(self.unchecked),
        }


def verify_store(file: str | os.PathLike[str], *, progress: Progress | None = None) -> Verification:
    """Read every chunk of a store and hold it against its checksum, and all else likewise.

    Parameters
    ----------
    file : path
    progress : callable, optional
        Called with the bytes of activations read and of all.

    Returns
    -------
    Verification
        Also of a file that HDF5 cannot open any more.

    Raises
    ------
    StoreError
        If there is no feature store of that name.
    """
    path = given_path(file, "file")
    with closing(Handle(path)) as handle:
        try:
            reading = _Reading(handle, progress)
        except (DamagedStoreError, IncompleteStoreError) as error:
            return Verification(path, unreadable={"/": str(error)})
        return reading.verification()


class _Reading:
    """One pass over a file; whatever cannot be read is noted, and the rest is read."""

    def __init__(self, handle: Handle, progress: Progress | None) -> None:
        self._handle, self._progress = handle, progress
        self._file = handle.file
        self._damaged: list[Damage] = []
        self._changed: list[str] = []
        self._unreadable: dict[str, str] = {}
        self._unchecked: list[str] = []
        self._ids: list[str] = []
        self._datasets: dict[str, h5py.Dataset] = {}
        self._chunks = self._done = self._total = 0

    def verification(self) -> Verification:
        self._read_metadata()
        for name in self._names():
            with self._noting(f"/features/{name}"):
                dataset = self._handle.dataset(f"/features/{name}")
                self._total += _nbytes(dataset)
                self._datasets[name] = dataset
        for name in self._datasets:
            with self._noting(f"/features/{name}"):
                self._read_activations(name)
        return Verification(
            path=self._handle.path,
            images=len(self._ids),
            chunks=self._chunks,
            bytes=self._done,
            damaged=tuple(self._damaged),
            changed=tuple(self._changed),
            unreadable=self._unreadable,
            unchecked=tuple(self._unchecked),
        )

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            self._unreadable[name] = reason_of(error)

    @cached_property
    def _is_checked(self) -> bool:
        """Whether the file was written with checksums; older ones have none."""
        try:
            return "checksums" in self._file or "metadata_checksums" in self._file
        except UNREADABLE:
            return True

    def _read_metadata(self) -> None:
        with self._noting("/images/id"):
            self._ids = decode_strings(self._file["images/id"][()]).tolist()
        if not self._is_checked:
            return
        with self._noting("/metadata_checksums"):
            written = read_metadata_checksums(self._file)
            if written is None:
                raise KeyError("it is missing")
            for name, value in written.items():
                with self._noting(f"/{name}"):
                    if metadata_checksum(self._file, name) != value:
                        self._changed.append(name)

    def _names(self) -> Iterator[str]:
        """Yield the names of the modules' data sets: those that are there, or should be."""
        known = set()
        for group in ("features", "checksums"):
            with self._noting(f"/{group}"):
                for name in self._file.get(group, ()):
                    link = self._file[group].get(name, getlink=True)
                    if name not in known and not isinstance(link, h5py.SoftLink):
                        known.add(name)
                        yield name

    def _read_activations(self, name: str) -> None:
        dataset = self._datasets[name]
        module = str(dataset.attrs.get("module", name))
        chunks = dataset.chunks or dataset.shape
        columns = chunk_columns(dataset.shape[1:], chunks[1:])
        checksums = self._checksums(name, module, chunk_grid(dataset.shape, chunks))
        buffer = np.empty(math.prod(chunks), dataset.dtype)
        row_bytes = _nbytes(dataset) // max(len(dataset), 1)
        for number, start in enumerate(range(0, len(dataset), max(chunks[0], 1))):
            rows = slice(start, min(start + chunks[0], len(dataset)))
            values = [None] * len(columns) if checksums is None else checksums[number].flat
            problems = [
                _problem(dataset, (rows, *column), buffer, value)
                for column, value in zip(columns, values, strict=True)
            ]
            if found := [problem for problem in problems if problem]:
                ids = tuple(self._ids[rows])
                place = (rows.start, rows.stop)
                self._damaged.append(Damage(module, place, ids, len(found), found[0]))
            self._chunks += len(columns) if checksums is not None else 0
            self._tell((rows.stop - rows.start) * row_bytes)

    def _checksums(
        self, name: str, module: str, grid: tuple[int, ...]
    ) -> npt.NDArray[np.uint64] | None:
        """Return the checksums of a module, None if there are none that fit."""
        if not self._is_checked:
            self._unchecked.append(module)
            return None
        checksums = None
        with self._noting(f"/checksums/{name}"):
            checksums = read_checksums(self._file, name)
            if checksums is None:
                raise KeyError("it is missing")
            if checksums.shape != grid:
                raise ValueError(f"its shape is {checksums.shape}, that of the chunks {grid}")
        return None if f"/checksums/{name}" in self._unreadable else checksums

    def _tell(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress:
            self._progress(self._done, self._total)


def _nbytes(dataset: h5py.Dataset) -> int:
    return int(dataset.size) * int(dataset.dtype.itemsize)


def _problem(
    dataset: h5py.Dataset, part: tuple[slice, ...], buffer: npt.NDArray[Any], value: int | None
) -> str | None:
    """Return what is wrong with one chunk, None if nothing is."""
    shape = tuple(axis.stop - axis.start for axis in part)
    chunk = buffer[: math.prod(shape)].reshape(shape)
    try:
        dataset.read_direct(chunk, part)
    except UNREADABLE as error:
        return f"cannot be read: {reason_of(error)}"
    if value is not None and checksum(chunk) != value:
        return "has another checksum"
    return None
