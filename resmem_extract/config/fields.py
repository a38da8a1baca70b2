"""What a value of a configuration may be written as, and what it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import EMPTY_PATH

__all__ = [
    "Amount",
    "Count",
    "Distinct",
    "Formats",
    "GivenPath",
    "Names",
    "as_count",
    "as_ids",
    "as_shard",
    "as_size",
    "as_text",
    "listed",
]


def as_text(value: Any) -> Any:
    """Return the name of what stands for one: ``np.float16``, a `numpy.dtype`, a `torch.device`."""
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        return value
    return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)


def _as_path(value: Any) -> Any:
    """Return a text as a path, as it is: the file system may give names that are not UTF-8."""
    if value == "":
        raise ValueError(EMPTY_PATH)
    if isinstance(value, (list, dict)):
        raise ValueError("should be one path")
    return Path(value) if isinstance(value, str) else value


def as_shard(value: Any) -> Any:
    """Return ``3/8``, or a pair, as two numbers."""
    pair = value.split("/") if isinstance(value, str) else value
    if pair is None:
        return None
    try:
        index, count = map(int, pair)
    except (TypeError, ValueError):
        index, count = -1, 0
    if not 0 <= index <= count or count == 0:
        raise ValueError("should be i/n with i from 0 to n, such as 3/8")
    return index, count


def _as_formats(value: Any) -> Any:
    """Return formats of figures; ``none`` alone stands for none of them."""
    formats = listed(value)
    if isinstance(formats, list):
        if formats == ["none"]:
            return []
        if unknown := [name for name in formats if name not in ("png", "svg", "pdf")]:
            raise ValueError(f"should be png, svg or pdf, or none alone; got {unknown[0]!r}")
    return formats


def listed(value: Any) -> Any:
    """Return one text or number as a list of it."""
    return [value] if isinstance(value, (str, int, float)) else value


def as_size(value: Any) -> Any:
    """Return ``auto``, or a number, which options of a command give as a text."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number in (None, "auto") or (type(number) is int and number > 0):
        return number
    raise ValueError("should be a number of values, such as 1000, or auto")


def as_ids(value: Any) -> Any:
    """Return what may be a path or ids with ids as a list: also tuples and arrays."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else _as_path(value)


def as_count(value: Any) -> Any:
    """Return a whole number that is written as ``1e6``."""
    if not isinstance(value, (str, float)):
        return value
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise ValueError("should be a whole number, such as 100000 or 1e6")
    return int(number)


GivenPath = Annotated[Path, BeforeValidator(_as_path)]
Count = Annotated[int, Field(strict=True, gt=0)]
Amount = Annotated[int, Field(strict=True, ge=0)]
Names = Annotated[list[str], Field(min_length=1), BeforeValidator(listed)]
Distinct = Annotated[Names, AfterValidator(lambda names: list(dict.fromkeys(names)))]
Formats = Annotated[list[str], BeforeValidator(_as_formats)]
