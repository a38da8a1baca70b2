"""What is done to activations on the device, before they travel."""

from __future__ import annotations

import torch

from ..types import Reduction

__all__ = ["axes_of", "reduce", "reduced_shape"]

_AXES = {
    1: ("unit",),
    2: ("token", "unit"),
    3: ("channel", "height", "width"),
}
_POOLED = {"height", "width", "token"}


def axes_of(ndim: int) -> tuple[str, ...]:
    """Return names for the axes of one image's activation, by their number."""
    return _AXES.get(ndim) or ("channel", *(f"axis{i}" for i in range(2, ndim + 1)))


def _pooled_axes(ndim: int) -> list[int]:
    """Return the axes over which pooling goes, counted with the image axis in front."""
    names = axes_of(ndim)
    return [
        i for i, name in enumerate(names, start=1) if name in _POOLED or name.startswith("axis")
    ]


def reduce(batch: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """Pool and flatten activations `[n, ...]` as asked; one number an image becomes `[n, 1]`."""
    if batch.ndim == 1:
        return batch.unsqueeze(1)
    if reduction.pool != "none" and (dims := _pooled_axes(batch.ndim - 1)):
        batch = batch.mean(dim=dims) if reduction.pool == "avg" else batch.amax(dim=dims)
    return batch.flatten(start_dim=1) if reduction.flatten and batch.ndim > 2 else batch


def reduced_shape(
    shape: tuple[int, ...], reduction: Reduction
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return shape and axis names of one image's activation after the reduction."""
    shape = shape or (1,)
    names = axes_of(len(shape))
    if reduction.pool != "none":
        pooled = _pooled_axes(len(shape))
        kept = [i for i in range(len(shape)) if i + 1 not in pooled]
        shape, names = tuple(shape[i] for i in kept), tuple(names[i] for i in kept)
    if reduction.flatten and len(shape) > 1:
        size = 1
        for length in shape:
            size *= length
        shape, names = (size,), ("unit",)
    return shape, names
