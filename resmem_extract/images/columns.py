"""Columns: what is known of the images beside their ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RESERVED_COLUMNS", "is_column_name", "typed"]

RESERVED_COLUMNS = frozenset({"id", "sha256", "row"})
"""Names that a feature store uses itself beside the user's columns."""

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|[+-]?inf",
    re.IGNORECASE,
)


def is_column_name(name: str) -> bool:
    """Tell whether a feature store can keep a column under this name."""
    return not (
        name in RESERVED_COLUMNS or name in ("", ".") or "/" in name or not name.isprintable()
    )


def typed(cells: Sequence[str]) -> npt.NDArray[Any]:
    """Return a column as int64, float64 or text, whichever keeps all that was written."""
    values = [cell.strip() for cell in cells]
    if values and all(_INTEGER.fullmatch(value) for value in values):
        try:
            return np.array([int(value) for value in values], dtype=np.int64)
        except OverflowError:
            return np.array(cells, dtype=np.str_)
    if any(values) and all(not value or _NUMBER.fullmatch(value) for value in values):
        return np.array([float(value or "nan") for value in values], dtype=np.float64)
    return np.array(cells, dtype=np.str_)
