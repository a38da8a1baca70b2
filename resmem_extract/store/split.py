"""Split a store into parts that are complete stores, and that `merge` joins to the same again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, StoreError, counted, given_path
from ..types import Progress
from .contents import Contents, read_contents
from .cuts import Piece, by_bytes, by_column, by_module, by_parts, by_rows
from .gather import Tally, append_gathered, check_activations, read_rows
from .origin import Origin, as_part, origin_of
from .reader import Store, open_store
from .space import check_free_space, required_bytes
from .writer import StoreWriter

__all__ = ["Part", "split_store"]


@dataclass(frozen=True)
class Part(os.PathLike[str]):
    """A file that `split_store` made; it may be given wherever a path is."""

    path: Path
    images: int
    modules: tuple[str, ...]
    bytes: int
    """Size of the file."""
    already_complete: bool = False
    """Whether the file was there already, from the very same split."""

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def split_store(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    parts: int | None = None,
    rows: int | None = None,
    max_bytes: int | None = None,
    column: str | None = None,
    module: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Part]:
    """Split a store into parts: complete stores, from which `merge_stores` makes the same again.

    Each has a column `row`, the row in the file it came from, and says in its provenance (`split`)
    which file that was and which part it is. Cuts between rows are moved to whole chunks of the
    largest module where parts have at least eight of them, since those are copied without being
    decoded. A part that is there already from an interrupted call is not written again.

    Parameters
    ----------
    file : path
        A store; it stays as it is.
    out : path
        A folder for the parts, named after the file: ``f.part-01-of-10.h5``.
    parts : int
        Split into exactly so many parts of consecutive rows. One of this and the next four is
        given.
    rows : int
        Split into parts of so many rows.
    max_bytes : int
        Split into parts of consecutive rows with at most so many bytes of activations.
    column : str
        Split into one part for each value of this column: a class, a subject's session.
    module : bool
        Split into one part a module.
    overwrite : bool
        Replace files of these names that are something else.
    progress : callable, optional
        Called with the bytes of activations done and of all.
    tell : callable, optional
        Called with what the user should know, one line each.

    Returns
    -------
    list of Part
        In the order of rows, modules or values.

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If the store is damaged, or the disk fails or is full; finished parts stay.
    KeyboardInterrupt
        With a line that says so.
    """
    path, folder = given_path(file, "file"), given_path(out, "out")
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; the parts need a folder")
    whole = read_contents(path)
    by, pieces = _pieces(whole, parts, rows, max_bytes, column, module)
    jobs = [
        _Job(
            folder / f"{path.stem}.{piece.name}.h5", piece, _origin(whole, by, number, len(pieces))
        )
        for number, piece in enumerate(pieces, start=1)
    ]
    done = {job.path for job in jobs if _is_there(job, overwrite)}
    _refuse_other_parts(jobs, path.stem)
    to_do = [job for job in jobs if job.path not in done]
    check_free_space(folder / path.name, _needed_bytes(whole, to_do))
    if tell:
        tell(_told(whole, by, pieces))
    with open_store(path) as store:
        _write_all(whole, store, to_do, progress)
    return [_as_part(job, already_complete=job.path in done) for job in jobs]


@dataclass(frozen=True)
class _Job:
    """One file to be written."""

    path: Path
    piece: Piece
    origin: Origin


def _pieces(
    whole: Contents,
    parts: int | None,
    rows: int | None,
    max_bytes: int | None,
    column: str | None,
    module: bool,
) -> tuple[str, list[Piece]]:
    """Return how the store is cut, as one of the ways that were given, and into what."""
    ways: dict[str, tuple[Any, Callable[[], list[Piece]]]] = {
        "parts": (parts, lambda: by_parts(whole, parts or 0)),
        "rows": (rows, lambda: by_rows(whole, rows or 0)),
        "max_bytes": (max_bytes, lambda: by_bytes(whole, max_bytes or 0)),
        "column": (column, lambda: by_column(whole, column or "")),
        "module": (module or None, lambda: by_module(whole)),
    }
    given = [name for name, (value, _) in ways.items() if value is not None]
    if len(given) != 1:
        raise RequestError(
            f"split: expected one of {', '.join(ways)}, got {' and '.join(given) or 'none'}"
        )
    if not whole.ids or not whole.modules:
        raise RequestError(f"{whole.path} has no {'images' if whole.modules else 'modules'}")
    name = given[0]
    return {"column": f"column {column}", "module": "module"}.get(name, "rows"), ways[name][1]()


def _told(whole: Contents, by: str, pieces: Sequence[Piece]) -> str:
    sizes = [len(piece.rows) for piece in pieces]
    images = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return f"{counted(len(pieces), 'part')} by {by}, {images} of {len(whole.ids)} images each"


def _origin(whole: Contents, by: str, number: int, n_parts: int) -> Origin:
    return Origin(
        file=str(whole.path.absolute()),
        digest=whole.digest,
        by=by,
        part=(number,),
        parts=n_parts,
        images=len(whole.ids),
        modules={module: layout.chunks for module, layout in whole.layouts.items()},
    )


def _is_there(job: _Job, overwrite: bool) -> bool:
    """Tell whether the very same part is there already.

    Raises
    ------
    RequestError
        If the file is something else, which may not be replaced.
    """
    if not job.path.exists():
        return False
    with suppress(StoreError), open_store(job.path) as store:
        there = origin_of(store.provenance)
        if (
            there
            and replace(there, file=job.origin.file) == job.origin
            and store.modules == job.piece.modules
            and np.array_equal(store.columns["row"], job.piece.rows)
        ):
            return True
    if overwrite:
        return False
    raise RequestError(
        f"{job.path} exists and is something else; use --overwrite to replace it, or another --out"
    )


def _refuse_other_parts(jobs: Sequence[_Job], stem: str) -> None:
    """Raise if parts of another split lie where these are to: `merge parts/*.h5` would take both.

    Raises
    ------
    RequestError
    """
    folder, ours = jobs[0].path.parent, {job.path.name for job in jobs}
    numbered = re.compile(rf"{re.escape(stem)}\.part-\d+-of-\d+\.h5")
    if not folder.is_dir() or not all(numbered.fullmatch(name) for name in ours):
        return
    for other in sorted(entry.name for entry in folder.iterdir()):
        if other not in ours and numbered.fullmatch(other):
            raise RequestError(
                f"{folder} holds {other}, a part of another split; remove its parts, or choose "
                "another --out"
            )


def _needed_bytes(whole: Contents, jobs: Sequence[_Job]) -> int:
    """Return an upper estimate of the parts' size; compression is not counted on."""
    return sum(
        required_bytes([whole.specs[module] for module in job.piece.modules], len(job.piece.rows))
        for job in jobs
    )


def _write_all(
    whole: Contents, store: Store, jobs: Sequence[_Job], progress: Progress | None
) -> None:
    scattered = any(not _is_run(job.piece.rows) for job in jobs)
    total = whole.nbytes * scattered + sum(
        len(job.piece.rows) * sum(whole.specs[m].nbytes_per_image for m in job.piece.modules)
        for job in jobs
    )
    told = Tally(total, progress)
    done = 0
    try:
        if scattered:
            check_activations(store, told)
        for job in jobs:
            _write(whole, store, job, told)
            done += 1
    except KeyboardInterrupt as interrupt:
        finished = f"{done} of {counted(len(jobs), 'part')} written"
        raise KeyboardInterrupt(
            f"{finished}; the same command goes on with the others"
        ) from interrupt


def _write(whole: Contents, store: Store, job: _Job, told: Callable[[int], None]) -> None:
    modules, rows = job.piece.modules, job.piece.rows
    provenance, columns = as_part(whole.provenance, whole.columns, rows, job.origin)
    with StoreWriter(
        job.path,
        [whole.specs[module] for module in modules],
        len(rows),
        layouts={module: whole.layouts[module].fitted(len(rows)) for module in modules},
        preallocate=_is_run(rows),
    ) as writer:
        if _is_run(rows):
            writer.append_store(store, slice(int(rows[0]), int(rows[-1]) + 1), told)
        else:
            append_gathered(
                writer,
                [whole.ids[row] for row in rows],
                [whole.sha256s[row] for row in rows],
                lambda some: {module: read_rows(store, module, rows[some]) for module in modules},
                told,
            )
        writer.finish(columns, whole.skipped, provenance)


def _is_run(rows: npt.NDArray[np.intp]) -> bool:
    """Tell whether ascending rows are consecutive."""
    return int(rows[-1]) - int(rows[0]) == len(rows) - 1


def _as_part(job: _Job, already_complete: bool) -> Part:
    return Part(
        path=job.path,
        images=len(job.piece.rows),
        modules=job.piece.modules,
        bytes=job.path.stat().st_size,
        already_complete=already_complete,
    )
