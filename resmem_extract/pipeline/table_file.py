"""Tables under the name that a user gave."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RequestError, given_path, refuse_device, unwritable
from ..partial_files import make_folders, remove_stale, write_text

__all__ = ["table_path", "write_table"]


def table_path(out: str | os.PathLike[str], formats: tuple[str, ...]) -> Path:
    """Return where a table is to lie.

    Raises
    ------
    RequestError
        If it is a folder, or its extension is none of `formats`.
    """
    path = given_path(out, "out")
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file, such as {path / 'table.csv'}")
    refuse_device(path)
    if path.suffix.lower() not in formats:
        raise RequestError(f"{path}: expected a name that ends in {' or '.join(formats)}")
    return path


def write_table(out: Path, text: str, overwrite: bool) -> None:
    """Write a table, unless it is there already.

    Raises
    ------
    RequestError
        If something else is there, and is not to be replaced, or nothing can be written there.
    WorkError
        If the disk fails or is full.
    """
    try:
        if out.exists() and not overwrite:
            if out.read_bytes() == text.encode():
                return
            raise RequestError(
                f"{out} exists and holds something else; use --overwrite to replace it, or "
                "another --out"
            )
        make_folders(out)
        remove_stale(out)
        write_text(out, text)
    except OSError as error:
        raise unwritable(out, error) from error
