"""Export activations to files that other programs read: .npy, .mat, .pt, text and Zarr."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ..errors import RequestError, WorkError, did_you_mean, given_path, refuse_device, unwritable
from ..partial_files import make_folders, partial_name, remove, remove_stale, removed_on_failure
from ..types import Progress
from .checked import checked_blocks
from .export_formats import (
    Blocks,
    Source,
    import_zarr,
    write_mat,
    write_npy,
    write_pt,
    write_txt,
    write_zarr,
)
from .file_names import file_name
from .gather import Tally
from .reader import Store, open_store
from .space import check_free_space

__all__ = ["ExportFormat", "Exported", "export_store"]

ExportFormat = Literal["mat", "npy", "pt", "txt", "zarr"]


@dataclass(frozen=True)
class Exported:
    """A file, or a folder of Zarr, that `export_store` made."""

    path: Path
    modules: tuple[str, ...]
    """Canonical paths of what it holds; none for the table of images and the provenance."""


def export_store(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: ExportFormat = "npy",
    modules: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write activations to files of another format, in bounded memory.

    Beside them lie a table of the images, ``f.images.csv`` (columns `image_id`, `sha256` and those
    of the store), and ``f.provenance.json``.

    Parameters
    ----------
    file : path
        A store.
    out : path
        A folder. Files are named after the store: ``f.conv1.npy``.
    format : {'npy', 'mat', 'pt', 'txt', 'zarr'}
        One ``.npy`` a module; one MATLAB file (7.3) a module, with `activations` ``[N, *shape]``,
        `image_id` and `module`; one tensor of torch a module; one text a module of vectors, a line
        an image; or one Zarr group (format 2) that xarray opens.
    modules : str or sequence of str, optional
        In any form, globs too; all by default.
    overwrite : bool
        Replace existing files.
    progress : callable, optional
        Called with the bytes of activations done and of all.

    Returns
    -------
    list of Exported

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If the store is damaged, or the disk fails or is full; finished files stay.
    MissingExtraError
        If the format needs a package that is not installed.
    """
    if format not in get_args(ExportFormat):
        known = get_args(ExportFormat)
        hint = did_you_mean(format, known, f"it is one of {', '.join(known)}")
        raise RequestError(f"no format {format!r}; {hint}")
    if format == "zarr":
        import_zarr()  # or say what is missing before anything is written
    path, folder = given_path(file, "file"), given_path(out, "out")
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; an export needs a folder")
    with open_store(path) as store:
        if len(store) == 0:
            raise RequestError(f"{path} has no images")
        store.check([])  # activations are checked as they are read
        chosen = _chosen(store, modules)
        if format == "txt" and (maps := [m for m in chosen if store[m].ndim > 2]):
            raise RequestError(
                f"{maps[0]} has {' x '.join(map(str, store[maps[0]].shape[1:]))} values an image, "
                "and a line of text holds a vector; extract with --flatten, or use another format"
            )
        total = sum(store[module].nbytes for module in chosen)
        plan = _plan(folder / path.stem, format, chosen)
        texts = [_images_table(store), _provenance_text(store)]
        beside = dict(zip(plan[-2:], texts, strict=True))
        for result in plan:
            refuse_device(result.path)
            there = result.path.exists() and not _holds(result.path, beside.get(result))
            if there and not overwrite:
                raise RequestError(
                    f"{result.path} exists; use --overwrite to replace it, or another --out"
                )
        check_free_space(
            plan[0].path, int(total * _ROOM.get(format, 1)), "export fewer modules (--module)"
        )
        told = Tally(total, progress)
        for result, write in zip(plan, _writers(store, format, plan, beside, told), strict=True):
            with _whole(result.path) as scratch:
                write(scratch)
    return plan


def _chosen(store: Store, modules: str | Sequence[str] | None) -> list[str]:
    """Return canonical paths, in the order of the request."""
    if modules is None:
        return list(store.modules)
    texts = [modules] if isinstance(modules, str) else modules
    found = (
        array.module
        for text in texts
        for array in ([store[text]] if text in store else store.match(text))
    )
    return list(dict.fromkeys(found))


def _plan(stem: Path, format: ExportFormat, modules: Sequence[str]) -> list[Exported]:
    def named(ending: str) -> Path:
        return stem.with_name(f"{stem.name}.{ending}")

    if format == "zarr":
        activations = [Exported(named("zarr"), tuple(modules))]
    else:
        activations = [Exported(named(f"{file_name(m)}.{format}"), (m,)) for m in modules]
    return [*activations, Exported(named("images.csv"), ()), Exported(named("provenance.json"), ())]


_WRITERS: dict[ExportFormat, Callable[..., None]] = {
    "mat": write_mat,
    "npy": write_npy,
    "pt": write_pt,
    "txt": write_txt,
    "zarr": write_zarr,
}
_ROOM = {"mat": 1.5, "txt": 4.0}  # bytes on the disk for a byte of activations, where more than 1


def _writers(
    store: Store,
    format: ExportFormat,
    plan: Sequence[Exported],
    beside: Mapping[Exported, str],
    told: Tally,
) -> Iterator[Callable[[Path], None]]:
    """Yield, for each file of the plan, how it is written."""
    write = _WRITERS[format]
    for result in plan[: -len(beside)]:
        sources = [Source(store[module], _blocks(store, module, told)) for module in result.modules]
        yield partial(write, sources=sources, store=store)
    for text in beside.values():
        yield partial(_write_text, text=text)


def _blocks(store: Store, module: str, told: Tally) -> Blocks:
    """Walk through a module in row-blocks, each held against its checksums."""
    for rows, block in checked_blocks(store.handle.stored(module), slice(0, len(store))):
        yield rows, block
        told(block.nbytes)


def _images_table(store: Store) -> str:
    columns = {name: values.tolist() for name, values in store.columns.items()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", "sha256", *columns])
    rows = zip(store.image_ids.tolist(), store.sha256.tolist(), *columns.values(), strict=True)
    table.writerows(rows)
    return text.getvalue()


def _provenance_text(store: Store) -> str:
    return json.dumps(store.provenance, indent=2, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def _holds(path: Path, text: str | None) -> bool:
    """Tell whether a file holds a text already, as after an export to another format."""
    return text is not None and path.is_file() and path.read_bytes() == text.encode()


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name to write under; what was written gets its own name when it is complete.

    Raises
    ------
    RequestError
        If nothing can be written there.
    WorkError
        If the disk fails or is full.
    """
    scratch = partial_name(path)
    try:
        with removed_on_failure(make_folders(path)):
            remove_stale(path)
            try:
                yield scratch
                if path.is_dir():
                    shutil.rmtree(path)
                scratch.replace(path)
            finally:
                remove(scratch)
    except WorkError:
        raise
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error
