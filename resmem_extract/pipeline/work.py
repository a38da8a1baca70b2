"""Work in progress: a hidden folder beside the result, with the request and the parts done so far.

::

    .NAME.work/
        request.json                        what is asked for, and the plan by which it is made
        part-<first row>-<end row>.h5       feature stores, each complete; nothing else counts
        lock, shard-3-of-8.lock, join.lock  who is at work
        open-<first row>.h5, joined.h5      not there yet, or not under their names

A part gets its name when it is safely on the disk, and the result gets its own before the folder is
removed. So a process may be killed at any moment: what has a name is whole.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InUseError, RequestError, WorkError, unwritable
from ..partial_files import make_folders, remove_empty, remove_stale, sync, write_text
from .locks import Busy, Lock
from .request import Record
from .rows import Shard, count, missing_rows

__all__ = ["Part", "WorkFolder", "WorkGoneError", "progress_of"]

_LONGEST_NAME = 200
_PART = re.compile(r"part-(\d+)-(\d+)\.h5")
_REQUEST = "request.json"
_TRIES = 10


class WorkGoneError(WorkError):
    """The folder is not there any more: another process has finished the work, or removed it."""


@dataclass(frozen=True)
class Part:
    """A feature store that holds some rows of the result, those of skipped images left out."""

    path: Path
    rows: range
    """Of the images that are asked for."""


class WorkFolder:
    """The work in progress of one result.

    Parameters
    ----------
    out : Path
        The result; links followed.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(_hidden_name(out.name))
        self._locks: list[Lock] = []

    # What is there

    def read(self) -> Record | None:
        """Return what is asked for, None if no work is in progress.

        Raises
        ------
        RequestError
            If the file is damaged, or of a newer version of this package.
        """
        path = self.path / _REQUEST
        try:
            return Record.parse(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RequestError(
                f"{path} cannot be read ({reason}); --restart begins anew, without the images "
                "that were done"
            ) from error

    def parts(self) -> list[Part]:
        """Return the parts, by their names alone, in the order of their rows."""
        with suppress(OSError):
            found = (_PART.fullmatch(entry.name) for entry in self.path.iterdir())
            parts = [Part(self.path / m[0], range(int(m[1]), int(m[2]))) for m in found if m]
            return sorted(parts, key=lambda part: (part.rows.start, part.rows.stop))
        return []

    def is_of(self, run: str) -> bool:
        """Tell whether the work in progress is still that of a run."""
        with suppress(RequestError):
            record = self.read()
            return record is not None and record.run == run
        return False

    # Being at work

    @contextmanager
    def at_work(self, shard: Shard | None, tell: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder, making it if needed; remove it again if there is nothing worth keeping.

        Shards of one run hold it together, any other run alone.

        Raises
        ------
        InUseError
            If another process is at work there.
        RequestError
            If it cannot be made.
        WorkError
            If the disk fails or is full.
        """
        made = self._hold(shard)
        try:
            if not all(lock.works for lock in self._locks):
                tell(f"{self.path.parent} has no file locks: let only one process write {self.out}")
            remove_stale(self.out)
            if shard is None:
                self._tidy()
            yield
        finally:
            if shard is None and not self.parts():
                self.remove()
            self._release()
            remove_empty(made)

    def _hold(self, shard: Shard | None) -> list[Path]:
        """Make and lock the folder; return the folders that were not there before."""
        made: list[Path] = []
        try:
            for _ in range(_TRIES):
                with suppress(FileNotFoundError):  # another process is just removing it
                    made += make_folders(self.path / _REQUEST)
                    self._lock("lock", shared=shard is not None)
                    if shard is not None:
                        self._lock(f"shard-{shard.index % shard.count}-of-{shard.count}.lock")
                    sync(self.path.parent)
                    return made
                self._release()
        except Busy as error:
            what = f"shard {shard} of {self.out}" if self._locks else str(self.out)
            self._release()
            raise InUseError(f"{what} is being made by {error}; wait for it, or end it") from None
        except OSError as error:
            self._release()
            remove_empty(made)
            raise unwritable(self.out, error) from error
        raise RequestError(
            f"{self.path} cannot be made, or another process removes it again and again; choose "
            "another --out"
        )

    def _lock(self, name: str, *, shared: bool = False) -> None:
        self._locks.append(Lock(self.path / name, shared=shared))

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()

    def _tidy(self) -> None:
        """Remove what killed processes left; only for who holds the folder alone."""
        for entry in list(self.path.iterdir()):
            if not (entry.name in (_REQUEST, "lock") or _PART.fullmatch(entry.name)):
                entry.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all that was done; only for who holds the folder alone."""
        with suppress(FileNotFoundError):
            (self.path / _REQUEST).unlink()  # first: what follows is then nobody's
        for entry in list(self.path.iterdir()):
            if entry.name != "lock":
                entry.unlink(missing_ok=True)

    @contextmanager
    def joining(self) -> Iterator[bool]:
        """Hold the right to join; False where another shard has it, or has joined already."""
        try:
            lock = Lock(self.path / "join.lock")
        except (Busy, FileNotFoundError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    # Steps that survive a kill

    def settle(self, record: Record) -> Record:
        """Write down what is asked for, unless another shard was first; return what stands there.

        Raises
        ------
        WorkError
            If the disk fails or is full.
        """
        path = self.path / _REQUEST
        try:
            write_text(path, record.text(), replace=False)
            sync(self.path)
        except OSError as error:
            raise WorkError(f"{path} cannot be written: {error.strerror or error}") from error
        there = self.read()
        if there is None:
            raise WorkGoneError(f"{self.path} was removed while {self.out} was being made")
        return there

    def opened(self, first: int) -> Path:
        """Return the name of a part whose last row is not known yet."""
        return self.path / f"open-{first:09d}.h5"

    @property
    def joined(self) -> Path:
        """The name of the result while it still lies in the folder."""
        return self.path / "joined.h5"

    def commit(self, opened: Path, rows: range) -> Part:
        """Turn a complete store into a part, by giving it its name.

        Raises
        ------
        WorkError
        """
        part = Part(self.path / f"part-{rows.start:09d}-{rows.stop:09d}.h5", rows)
        self._move(opened, part.path)
        return part

    def publish(self, result: Path) -> None:
        """Give a complete store the name of the result.

        Raises
        ------
        WorkError
        """
        self._move(result, self.out)

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.replace(target)
            sync(target.parent)
        except OSError as error:
            raise WorkError(f"{target} cannot be written: {error.strerror or error}") from error

    def discard(self, part: Part) -> None:
        """Remove a part that cannot be used."""
        part.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder; what cannot be removed is of no more use, and harmless."""
        with suppress(OSError):
            self.clear()
        with suppress(OSError):
            (self.path / "lock").unlink(missing_ok=True)
        self._release()  # a file that is open cannot vanish from some network file systems
        with suppress(OSError):
            self.path.rmdir()


def progress_of(out: Path) -> dict[str, Any] | None:
    """Return how far the work on a result has come, as JSON values; None if there is none.

    Raises
    ------
    RequestError
        If what is asked for cannot be read.
    """
    work = WorkFolder(Path(os.path.realpath(out)))
    record = work.read()
    if record is None:
        return None
    n, parts = len(record.request["images"]), work.parts()
    missing = missing_rows(range(n), (part.rows for part in parts))
    return {
        "file": str(out),
        "folder": str(work.path),
        "images": n,
        "done": n - count(missing),
        "parts": len(parts),
        "missing": [[rows.start, rows.stop - 1] for rows in missing],
        "model": record.request["model"],
        "modules": [spec["path"] for spec in record.request["modules"]],
        "command": record.provenance["command"],
        "started": record.provenance["started"],
    }


def _hidden_name(name: str) -> str:
    encoded = os.fsencode(name)  # a name need not be UTF-8
    if len(encoded) > _LONGEST_NAME:
        name = f"{name[:50]}-{zlib.crc32(encoded):08x}"
    return f".{name}.work"
