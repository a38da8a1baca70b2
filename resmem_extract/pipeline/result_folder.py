"""A folder with the result of one request, and a record of what was asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError, ResmemExtractError, given_path, unwritable
from ..partial_files import make_folders, partial_name, remove, remove_stale, removed_on_failure
from ..store import Store

__all__ = ["NewResult", "describe_stores", "is_complete", "new_result", "result_folder"]


@dataclass(frozen=True)
class NewResult:
    """A result in the making, in a hidden folder within its own."""

    folder: Path
    """Where it is to lie."""
    hidden: Path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Give the place of one of its files while that is written.

        Raises
        ------
        WorkError
            If the disk fails or is full; it names the file.
        """
        try:
            yield self.hidden / name
        except ResmemExtractError:
            raise
        except OSError as error:
            raise unwritable(self.folder / name, error) from error


@contextmanager
def new_result(folder: Path | None, names: Sequence[str]) -> Iterator[NewResult | None]:
    """Make a result of several files, which get their names when the block ends well, all or none.

    Parameters
    ----------
    folder : Path, optional
        None for a result that is not kept.
    names : sequence of str
        Of all files that such a result may have, its record last; a result that is replaced may
        have others than the new one.

    Raises
    ------
    RequestError
        Before the work, not after it, if nothing can be written there.
    WorkError
        If the disk fails or is full.
    """
    if folder is None:
        yield None
        return
    record_file = folder / names[-1]
    hidden = partial_name(record_file)
    try:
        made = make_folders(hidden)
        remove_stale(record_file)
        with removed_on_failure(made):
            hidden.mkdir()
    except OSError as error:
        raise unwritable(folder, error) from error
    with removed_on_failure(made):
        try:
            yield NewResult(folder, hidden)
            _move(hidden, folder, names)
        finally:
            remove(hidden)


def _move(hidden: Path, folder: Path, names: Sequence[str]) -> None:
    """Give files their names; without its record, what lies there meanwhile is no result."""
    try:
        (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            if (hidden / name).exists():
                (hidden / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def result_folder(out: str | os.PathLike[str] | None, table: str) -> Path | None:
    """Return the folder that a result is to lie in, None for none.

    Parameters
    ----------
    out : path, optional
        As the user gave it.
    table : str
        The name of what will be there, for the message.

    Raises
    ------
    RequestError
        If it is a file.
    """
    folder = None if out is None else given_path(out, "out")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder for {table} and the rest")
    return folder


def is_complete(record_file: Path, record: Mapping[str, Any], files: Iterable[str]) -> bool:
    """Tell whether the folder of a record holds the result of the very same request.

    Parameters
    ----------
    record_file : Path
        JSON, written last.
    record : mapping
        All that the result depends on, as JSON values.
    files : iterable of str
        Names of what a whole result has beside the record.

    Raises
    ------
    RequestError
        If it holds that of another request, or not all of it.
    """
    if not record_file.exists():
        return False
    folder = record_file.parent
    try:
        there = json.loads(record_file.read_text(encoding="utf-8"))
        whole = all((folder / name).exists() for name in files)
    except (OSError, ValueError) as error:
        raise RequestError(f"{record_file} cannot be read: {error}") from error
    differences = [key for key in record if there.get(key) != record[key]]
    if differences or not whole:
        what = f"other {', '.join(differences)}" if differences else "files are missing"
        raise RequestError(
            f"{folder} holds the result of another request ({what}); use --overwrite to replace "
            "it, or another --out"
        )
    return True


def describe_stores(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """Return what a result that is made of stores depends on, modules apart, as JSON values."""
    return [
        {
            "provenance": store.provenance,
            "images": hashlib.sha256("\n".join(store.sha256.tolist()).encode()).hexdigest(),
        }
        for store in stores
    ]
