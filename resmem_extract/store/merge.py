"""Merge stores: parts of one split, other images, or other modules of the same images."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import (
    RequestError,
    ResmemExtractError,
    WorkError,
    counted,
    given_path,
    refuse_device,
)
from ..types import Progress
from .contents import Contents, read_contents
from .gather import Tally, append_gathered, check_activations, read_rows
from .joining import Merger, plan_merger
from .reader import Store, open_store
from .space import check_free_space, required_bytes
from .writer import StoreWriter

__all__ = ["Merged", "merge_stores"]

Read = Callable[[slice], Mapping[str, npt.NDArray[Any]]]

_MOST_OPEN = 64
"""Files that are open at the same time; systems allow 256 and more."""


@dataclass(frozen=True)
class Merged(os.PathLike[str]):
    """A file that `merge_stores` made; it may be given wherever a path is."""

    path: Path
    kind: Literal["parts", "images", "modules"]
    """Parts of one split, different images, or different modules of the same images."""
    images: int
    modules: tuple[str, ...]
    bytes: int
    """Size of the file."""
    restored: bool
    """Whether it equals the file that was split, by the checksums of all it holds."""
    deleted: tuple[Path, ...] = ()
    already_complete: bool = False
    """Whether the file was there already, from the very same merger."""

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def merge_stores(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    partial: bool = False,
    overwrite: bool = False,
    delete_parts: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Merged:
    """Merge stores into one.

    Parts of one split, in any order, become the file that was split. Other stores of the same
    modules must have different images, which are put one file after the other in the order given;
    stores of different modules must have the same images, and are joined by id in the order of
    the first. Network, weights, preprocessing, precision and reduction must be the same in all.

    Parameters
    ----------
    files : sequence of path
    out : path
        The file to write.
    partial : bool
        Merge parts of one split although some are missing; the result is a part again.
    overwrite : bool
        Replace an existing file.
    delete_parts : bool
        Delete the files once the result has been read again and equals what they held.
    progress : callable, optional
        Called with the bytes of activations done and of all.
    tell : callable, optional
        Called with what the user should know, one line each.

    Returns
    -------
    Merged

    Raises
    ------
    RequestError
        If the files do not fit together, or one is missing; nothing has been written.
    WorkError
        If a file is damaged, or the disk fails or is full; nothing has been deleted.
    """
    target = given_path(out, "out")
    paths = [given_path(file, "files") for file in _listed(files)]
    _check_names(paths, target)
    if target.is_symlink():  # what it leads to is written, as by extract
        target = Path(os.path.realpath(target))
    sources = [read_contents(path) for path in paths]
    merger = plan_merger(sources, partial=partial)
    there = target.exists()
    if there and not overwrite and not _is_result(target, merger):
        raise RequestError(
            f"{target} exists and is not the merger of these files; "
            "use --overwrite to replace it, or another --out"
        )
    already = there and not overwrite
    contents = merger.contents
    if tell:
        tell(_told(merger))
        for note in _notes(sources):
            tell(note)
    told = Tally(_bytes_to_do(merger, already, delete_parts), progress)
    if not already:
        check_free_space(target, required_bytes(list(contents.specs.values()), len(contents.ids)))
        _write(merger, target, told)
    restored = merger.restores is not None and read_contents(target).digest == merger.restores
    if delete_parts:
        try:
            _check_result(target, merger, restored, told)
        except WorkError as error:
            if already:
                raise WorkError(f"{error}; nothing was deleted; --overwrite merges anew") from error
            target.unlink()  # it would be taken for a result
            raise WorkError(f"{error}; {target} was removed, and no part") from error
        for path in paths:
            path.unlink()
    return Merged(
        path=target,
        kind=merger.kind,
        images=len(contents.ids),
        modules=contents.modules,
        bytes=target.stat().st_size,
        restored=restored,
        deleted=tuple(paths) if delete_parts else (),
        already_complete=already,
    )


def _listed(files: object) -> list[Any]:
    """Return the files that were given.

    Raises
    ------
    RequestError
        If that is a single one (a text is a sequence of letters), or none.
    """
    if isinstance(files, (str, os.PathLike)) or not isinstance(files, Sequence):
        raise RequestError(f"merge: expected a list of files, got {files!r}")
    if not files:
        raise RequestError("merge: no file was given")
    return list(files)


def _check_names(paths: Sequence[Path], target: Path) -> None:
    """Check that no file is given twice, or is the one to be written."""
    known: dict[str, Path] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in known:
            raise RequestError(f"{path} is given twice (as {known[real]}); give each file once")
        known[real] = path
    if os.path.realpath(target) in known:
        raise RequestError(f"{target} is one of the files to be merged; choose another --out")
    if target.is_dir():
        raise RequestError(f"{target} is a folder; name a file, such as {target / 'merged.h5'}")
    refuse_device(target)
    if missing := [path for path in paths if not path.exists()]:
        there = f"; {target} exists: was its merger interrupted while it deleted the parts?"
        raise RequestError(
            f"{missing[0]} does not exist ({len(missing)} of {counted(len(paths), 'file')} do not)"
            f"{there if target.exists() else ''}"
        )


def _is_result(target: Path, merger: Merger) -> bool:
    """Tell whether a file is what would be written."""
    try:
        there = read_contents(target)
    except ResmemExtractError:
        return False
    if merger.restores is not None:
        return there.digest == merger.restores
    ours = merger.contents
    return (
        there.ids == ours.ids
        and there.modules == ours.modules
        and (_sources_of(there) == _sources_of(ours))
    )


def _sources_of(contents: Contents) -> Any:
    """Return what a provenance says of the files that were merged."""
    provenance = contents.provenance
    return [m["digest"] for m in provenance.get("merged", ())], provenance.get("split")


def _told(merger: Merger) -> str:
    contents, n = merger.contents, len(merger.sources)
    what = f"{counted(len(contents.ids), 'image')}, {counted(len(contents.modules), 'module')}"
    how = {
        "parts": f"{counted(n, 'part')} of one split",
        "images": "1 file" if n == 1 else f"{n} files of different images, in the order given",
        "modules": f"{counted(n, 'file')} of different modules, joined by id",
    }
    return f"{how[merger.kind]}: {what}"


def _notes(sources: Sequence[Contents]) -> Iterator[str]:
    """Yield what differs between files and changes the last bits of numbers at most."""
    for key in ("engine", "device", "batch_size"):
        values = list(dict.fromkeys(str(source.provenance.get(key)) for source in sources))
        if len(values) > 1:
            name = key.replace("_", " ")
            yield f"the files differ in {name} ({', '.join(values[:3])}): last bits may differ"


def _is_sequence(merger: Merger) -> bool:
    """Tell whether rows come as they lie in the files, one file after the other or side by side."""
    return all(
        np.array_equal(order, np.arange(len(order)) + (0 if merger.side_by_side else order[0]))
        for order in merger.orders
        if len(order)
    )


def _bytes_to_do(merger: Merger, already: bool, delete: bool) -> int:
    passes = (0 if already else 1 if _is_sequence(merger) else 2) + delete
    return passes * merger.contents.nbytes


def _write(merger: Merger, target: Path, told: Tally) -> None:
    contents = merger.contents
    specs = list(contents.specs.values())
    as_they_lie = _is_sequence(merger)
    with StoreWriter(
        target,
        specs,
        len(contents.ids),
        layouts=contents.layouts,
        preallocate=as_they_lie,
    ) as writer:
        if not as_they_lie:
            _gather(writer, merger, told)
        elif merger.side_by_side:
            with ExitStack() as opened:
                stores = [opened.enter_context(open_store(s.path)) for s in merger.sources]
                writer.append_store(stores[0], None, told, beside=stores[1:])
        else:
            for number in sorted(range(len(merger.orders)), key=lambda n: _first(merger.orders[n])):
                with open_store(merger.sources[number].path) as store:
                    writer.append_store(store, None, told)
        writer.finish(contents.columns, contents.skipped, contents.provenance)


def _first(order: npt.NDArray[np.intp]) -> int:
    return int(order[0]) if len(order) else -1


def _gather(writer: StoreWriter, merger: Merger, told: Tally) -> None:
    """Write rows that do not come file after file, after the files were checked."""
    contents = merger.contents
    with _Opened(merger.sources) as opened:
        for number in range(len(merger.sources)):
            check_activations(opened[number], told)
        if merger.side_by_side:
            read = _side_by_side(merger, opened)
        else:
            read = _between_one_another(merger, opened)
        append_gathered(writer, contents.ids, contents.sha256s, read, told)


def _side_by_side(merger: Merger, opened: _Opened) -> Read:
    backs = [np.argsort(order) for order in merger.orders]

    def read(rows: slice) -> dict[str, npt.NDArray[Any]]:
        return {
            module: read_rows(opened[number], module, backs[number][rows])
            for number, source in enumerate(merger.sources)
            for module in source.modules
        }

    return read


def _between_one_another(merger: Merger, opened: _Opened) -> Read:
    order = np.concatenate(merger.orders)
    source_of, row_of = np.empty_like(order), np.empty_like(order)
    sizes = [len(part) for part in merger.orders]
    source_of[order] = np.repeat(np.arange(len(sizes)), sizes)
    row_of[order] = np.concatenate([np.arange(size) for size in sizes])
    specs = merger.contents.specs

    def read(rows: slice) -> dict[str, npt.NDArray[Any]]:
        numbers, wanted = source_of[rows], row_of[rows]
        found = {m: np.empty((len(wanted), *s.shape), s.dtype) for m, s in specs.items()}
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            for module, block in found.items():
                block[places] = read_rows(opened[number], module, wanted[places])
        return found

    return read


class _Opened:
    """The sources, opened when they are asked for, and the longest unused closed again."""

    def __init__(self, sources: Sequence[Contents]) -> None:
        self._sources = sources
        self._stores: OrderedDict[int, Store] = OrderedDict()

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        while self._stores:
            self._stores.popitem()[1].close()

    def __getitem__(self, number: int) -> Store:
        if number not in self._stores:
            if len(self._stores) >= _MOST_OPEN:
                self._stores.popitem(last=False)[1].close()
            self._stores[number] = open_store(self._sources[number].path)
        self._stores.move_to_end(number)
        return self._stores[number]


def _check_result(target: Path, merger: Merger, restored: bool, told: Tally) -> None:
    """Read the result again, and hold it against the checksums of what went into it.

    Raises
    ------
    WorkError
        If it is not what it should be.
    """
    with open_store(target) as store:
        check_activations(store, told)
    if merger.restores is not None and not restored:
        raise WorkError(
            f"{target} holds what the parts held, but its checksums are not those of the file "
            "that was split"
        )
