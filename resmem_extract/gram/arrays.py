"""Arrays of NumPy and of PyTorch by the same words, and in what precision they are multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted

__all__ = ["Precision", "not_finite", "on_host", "placing", "wide", "working_precision"]

Precision = Literal["auto", "float32", "float64"]


_CHEAP = 5e10
"""Multiplications that take about a second in float64 on two cores: too little to save digits."""


def working_precision(
    shape: Sequence[int], dtype: np.dtype[Any], precision: Precision, name: str
) -> Literal["float32", "float64"]:
    """Return the precision of the products of all pairs of activations `[N, ...]` of a dtype.

    ``auto`` is that of the activations, and float64 where it costs next to nothing.

    Raises
    ------
    RequestError
        If they are no numbers, or there is no such precision.
    """
    if dtype.kind not in "biuf":
        raise RequestError(f"{name}: expected numbers, got {dtype}")
    if precision not in ("auto", "float32", "float64"):
        raise RequestError(f"precision {precision!r}: expected auto, float32 or float64")
    if precision != "auto":
        return precision
    narrow = dtype.kind == "f" and dtype.itemsize <= 4
    return "float32" if narrow and shape[0] * math.prod(shape) > _CHEAP else "float64"


def placing(device: str) -> Callable[[npt.NDArray[Any]], Any]:
    """Return how a NumPy array gets onto the device where it is multiplied.

    Raises
    ------
    RequestError
        If there is no such device here, or it has no float64.
    """
    if device == "cpu":
        return lambda array: array
    import torch

    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"device {device!r} cannot be used here: {reason}") from error
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


def wide(array: Any) -> Any:
    """Return an array of NumPy or PyTorch in float64."""
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array.double()


def on_host(array: Any) -> Any:
    """Return an array of NumPy or PyTorch as one of NumPy."""
    return array.cpu().numpy() if hasattr(array, "cpu") else array


def not_finite(part: npt.NDArray[Any], name: str, ids: Sequence[str] | None) -> str:
    """Return what to say of activations that are not finite, or whose sums are not."""
    rows = np.flatnonzero(~np.isfinite(part).all(axis=1))
    if not len(rows):
        return f"{name}: activations are too large for {part.dtype}; use float64 arithmetic"
    return f"{name}: NaN or infinite activations of {_named(rows, ids)}; extract them again"


def _named(rows: npt.NDArray[np.intp], ids: Sequence[str] | None) -> str:
    shown = ", ".join(str(ids[row]) if ids is not None else f"row {row}" for row in rows[:5])
    return f"{counted(len(rows), 'image')} ({shown}{', ...' if len(rows) > 5 else ''})"
