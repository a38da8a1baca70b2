"""A folder with the result of one request, and a record of what was asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError, given_path
from ..store import Store

__all__ = ["describe_stores", "is_complete", "result_folder"]


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
        JSON, written last but for the table.
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
