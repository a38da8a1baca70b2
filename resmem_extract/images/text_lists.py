"""Reading written listings of images: text lists and CSV tables.

Text is interpreted here; that the listed files exist is seen to in `listings`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import RequestError, shown
from .columns import RESERVED_COLUMNS, is_column_name, typed

__all__ = ["Listing", "is_file", "read_csv", "read_list"]

_SNIFFED_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Listing:
    """What a list or a table says, as written."""

    paths: tuple[str, ...]
    """Image paths; relative ones are meant from the listing's own folder."""
    ids: tuple[str, ...] | None = None
    """Ids given beside the paths (the CSV column `image_id`)."""
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Further columns, one value an image."""


def read_list(path: Path) -> Listing:
    """Read a text list: one image path a line, without the blanks around it.

    Empty lines are skipped, and those that begin with '#' unless a file has that name.

    Raises
    ------
    RequestError
        The file cannot be read or is not UTF-8 text.
    """
    text = _read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    lines = (line.strip() for line in text.split("\n"))
    return Listing(tuple(line for line in lines if line and not _is_comment(line, path.parent)))


def _is_comment(line: str, folder: Path) -> bool:
    return line.startswith("#") and not is_file(folder / line)


def is_file(path: Path) -> bool:
    """Tell whether a path, however it was written, is that of a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, a NUL
        return False


def read_csv(path: Path) -> Listing:
    """Read a table with the column `path`, optionally `image_id`, and any further columns.

    Parameters
    ----------
    path : Path
        UTF-8 text, with or without a byte order mark; separated by tabs if its name ends in .tsv,
        by commas otherwise.

    Returns
    -------
    Listing
        Columns of integers are int64, other columns of numbers float64 (an empty cell is nan), all
        others text. Zero-padded numbers (`007`) and those that would lose digits stay text.

    Raises
    ------
    RequestError
        The file cannot be read, is not such a table, or has a column whose name cannot be kept.
    """
    header, rows = _read_rows(path)
    cells = {name: [row[k] for row in rows] for k, name in enumerate(header)}
    paths = _required(cells.pop("path"), "path", path)
    ids = _required(cells.pop("image_id"), "image_id", path) if "image_id" in cells else None
    return Listing(paths, ids, {name: typed(column) for name, column in cells.items()})


def _read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, having looked at its beginning before reading all of it."""
    try:
        with path.open("rb") as file:
            data = file.read(_SNIFFED_BYTES)
            if b"\0" not in data:
                data += file.read()
    except OSError as error:
        raise RequestError(f"{shown(path)} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(path) from error
    if "\0" in text:
        raise _not_text(path)
    return text


def _not_text(path: Path) -> RequestError:
    if re.search(r"\.(tgz|tar\.(gz|bz2|xz|zst))$", path.name.lower()):
        return RequestError(
            f"{shown(path)} is a compressed tar, in which no image can be found without unpacking "
            "all before it; unpack it to a .tar (gunzip), or to a folder"
        )
    return RequestError(
        f"{shown(path)} is neither an image by its extension nor UTF-8 text; give a folder, an"
        " image, a list of paths or a CSV (saved as UTF-8)"
    )


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV, all of one length; blank lines do not count."""
    text = io.StringIO(_read_text(path), newline="")
    reader = csv.reader(text, delimiter=_delimiter(path), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise RequestError(f"{shown(path)}, line {reader.line_num}: not a CSV: {error}") from error
    if not lines:
        raise RequestError(f"no images in {shown(path)}: the file is empty; give a column 'path'")
    header = [name.strip() for name in lines[0][1]]
    _check_header(header, path)
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise RequestError(
                f"{shown(path)}, line {number}: {len(row)} values for {len(header)} columns; quote"
                " values that hold the separator"
            )
    return header, [row for _, row in lines[1:]]


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _check_header(header: Sequence[str], path: Path) -> None:
    """Raise if a column is missing, named twice, or has a name that a store cannot keep."""
    if "path" not in header:
        others = [sign for sign in (";", "\t", ",") if sign in header[0]]
        hint = (
            f"is {others[0]!r} the separator? save it with {_delimiter(path)!r}"
            if others
            else "name the column of image files 'path' in its first line"
        )
        columns = shown(", ".join(header))
        raise RequestError(f"{shown(path)} has no column 'path', only {columns}; {hint}")
    for name in header:
        if not is_column_name(name):
            raise RequestError(
                f"{shown(path)}: a column cannot be named {name!a}; rename it (reserved:"
                f" {', '.join(sorted(RESERVED_COLUMNS))}; not allowed: '/', '.', no name)"
            )
        if header.count(name) > 1:
            raise RequestError(f"{shown(path)}: two columns are named {name!r}; rename one")


def _required(cells: Sequence[str], name: str, path: Path) -> tuple[str, ...]:
    """Return a column none of whose cells may be empty, stripped of surrounding blanks."""
    values = tuple(cell.strip() for cell in cells)
    if "" in values:
        row = values.index("") + 1
        raise RequestError(f"{shown(path)}: {name!r} is empty in row {row}; fill it in")
    return values
