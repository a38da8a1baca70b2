"""What one tar holds: where its images lie, and what stands beside them.

Names follow the convention of WebDataset: members that are equal up to the first dot of their file
name belong to one sample, ``7.jpg``, ``7.cls`` and ``7.json``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RequestError, reason_of, shown
from .columns import is_column_name
from .names import is_image, is_utf8

__all__ = ["Member", "TarIndex", "index_tar"]

_BLOCK = 512
_LONGEST_TEXT = 1024  # bytes; columns of text are stored at one fixed length
_COLUMN_OF = {"cls": "label", "txt": "txt"}


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a tar, a `stimuli.Picture`."""

    path: Path
    """The tar."""
    name: str
    offset: int
    """Where its bytes begin."""
    size: int

    def read(self) -> bytes:
        """Return the bytes of the image file.

        Raises
        ------
        OSError
            The tar is gone, or has become shorter.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(f"{self.path} has become shorter")
        return data

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


@dataclass
class TarIndex:
    """What a tar holds, as a scan from its beginning to its end finds it."""

    path: Path
    images: list[Member] = field(default_factory=list)
    """In the order of the tar."""
    keys: list[str] = field(default_factory=list)
    """Of the sample that each image belongs to."""
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key of a sample -> what is known of it, by column, as text."""
    others: list[str] = field(default_factory=list)
    """Names of members that are no images and tell nothing of them."""
    dropped: set[str] = field(default_factory=set)
    """What is known of samples and cannot be a column: lists, long texts, reserved names."""
    ends: bool = True
    """Whether the mark is there that ends a tar."""


def index_tar(path: Path) -> TarIndex:
    """Scan a tar. Images are not read; of other members, those with columns are.

    Raises
    ------
    RequestError
        It cannot be read, is no tar or a compressed one, or is damaged or cut short; or what
        stands beside an image is no JSON or no text.
    """
    index = TarIndex(path)
    try:
        with tarfile.open(path, "r:", encoding="utf-8") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if not (member.isdir() or _is_hidden(name)):
                    _enter(index, tar, member, name)
            index.ends = _ends(tar, path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RequestError(
            f"{shown(path)} cannot be read as a tar ({reason_of(error)}); is it cut short, or"
            " compressed?"
        ) from error
    return index


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") and part not in (".", "..") for part in parts)


def _enter(index: TarIndex, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
    """Put a member in its place."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    key, ending = folder + slash + stem, ending.lower()
    if not member.isreg() or member.issparse():  # a link, a device, a file with holes
        index.others.append(name)
    elif is_image(name):
        index.images.append(Member(index.path, name, member.offset_data, member.size))
        index.keys.append(key)
    elif ending in ("json", *_COLUMN_OF):
        data = tar.extractfile(member)
        cells = _cells(ending, b"" if data is None else data.read(), f"{index.path}:{name}")
        for column, cell in cells:
            if cell is None or not is_column_name(column):
                index.dropped.add(column)
            else:
                index.cells.setdefault(key, {})[column] = cell
    else:
        index.others.append(name)


def _cells(ending: str, data: bytes, called: str) -> Iterator[tuple[str, str | None]]:
    """Yield column and cell of what stands beside an image; None for what is too much for one."""
    try:
        text = data.decode()
        content = json.loads(text) if ending == "json" else {_COLUMN_OF[ending]: text.strip()}
    except ValueError as error:
        kind = "JSON" if ending == "json" else "UTF-8 text"
        raise RequestError(f"{shown(called)} is no {kind} ({error}); mend or remove it") from error
    if isinstance(content, dict):
        for name, value in content.items():
            yield name, _cell(value)


def _cell(value: Any) -> str | None:
    """Return a value as a table would have it, None if it is too much for a cell."""
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str) and "\0" not in value and is_utf8(value):
        return value if len(value.encode()) <= _LONGEST_TEXT else None
    return None


def _ends(tar: tarfile.TarFile, path: Path) -> bool:
    """Tell whether the mark stands where the last member ends.

    `tarfile` takes whatever is no header for the end, the middle of a damaged tar as well.

    Raises
    ------
    RequestError
        Something else stands there.
    """
    with path.open("rb") as file:
        file.seek(tar.offset)
        mark = file.read(_BLOCK)
    if mark and mark != bytes(_BLOCK):
        raise RequestError(
            f"{shown(path)} is damaged at byte {tar.offset}, where a member should begin; copy or"
            " make it again"
        )
    return bool(mark)
