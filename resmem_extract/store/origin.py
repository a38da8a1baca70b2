"""What a part says of the file that it was split from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Origin", "as_part", "before_split", "origin_of", "with_parts"]

_KEY = "split"
_ROW = "row"
_ROWS = re.compile(r"row(?:\.([1-9]\d*))?")


@dataclass(frozen=True)
class Origin:
    """Which file was split, and which part this is."""

    file: str
    """Path of the file as it then was."""
    digest: str
    """Of the file's contents (`Contents.digest`)."""
    by: str
    """`rows`, `module`, or `column` and its name."""
    part: tuple[int, ...]
    """Number of the part, from 1; several where some of the parts were merged."""
    parts: int
    images: int
    """Rows of the file."""
    modules: Mapping[str, tuple[int, ...]]
    """Shape of a chunk of each module of the file, by canonical path, in order."""

    def describe(self) -> dict[str, Any]:
        """Return this record as JSON values."""
        part = list(self.part) if len(self.part) > 1 else self.part[0]
        return {**vars(self), "part": part, "modules": {m: [*c] for m, c in self.modules.items()}}


def origin_of(provenance: Mapping[str, Any]) -> Origin | None:
    """Return the split that a file came from, the last one where there were several."""
    records = provenance.get(_KEY)
    if not records:
        return None
    record = dict(records[-1])
    part = record.pop("part")
    record["part"] = tuple(part) if isinstance(part, list) else (part,)
    record["modules"] = {module: tuple(c) for module, c in record["modules"].items()}
    return Origin(**record)


def as_part(
    provenance: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    rows: npt.NDArray[np.intp],
    origin: Origin,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return provenance and columns of a part: what the file has, and where the part comes from.

    A column `row` of the file itself, which may be a part of another, becomes `row.1`, and so on.
    """
    taken = {_ROW: rows} | {_renamed(name, 1): values[rows] for name, values in columns.items()}
    return {**provenance, _KEY: [*provenance.get(_KEY, []), origin.describe()]}, taken


def with_parts(provenance: Mapping[str, Any], origins: Sequence[Origin]) -> dict[str, Any]:
    """Return the provenance of some parts of one split that are merged, but not all."""
    numbers = sorted({number for origin in origins for number in origin.part})
    record = replace(origins[0], part=tuple(numbers)).describe()
    return {**provenance, _KEY: [*provenance[_KEY][:-1], record]}


def before_split(
    provenance: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return provenance and columns without what `as_part` added."""
    older = provenance[_KEY][:-1]
    restored = {name: older if name == _KEY else value for name, value in provenance.items()}
    if not older:
        del restored[_KEY]
    return restored, {
        _renamed(name, -1): values for name, values in columns.items() if name != _ROW
    }


def _renamed(name: str, by: int) -> str:
    """Return the name of a column of rows one split deeper, or one less deep."""
    found = _ROWS.fullmatch(name)
    if not found:
        return name
    depth = int(found[1] or 0) + by
    return f"{_ROW}.{depth}" if depth else _ROW
