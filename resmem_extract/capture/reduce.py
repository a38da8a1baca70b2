"""What is done to activations on the device, before they travel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import RequestError
from ..types import Reduction

__all__ = ["axes_of", "has_tokens", "reduce", "reduced_shape"]

_AXES = {
    1: ("unit",),
    2: ("token", "unit"),
    3: ("channel", "height", "width"),
}
_CHANNELS_LAST = ("height", "width", "channel")
_ATTENTION = ("head", "query", "key")
_POOLED = {"height", "width", "token"}


def axes_of(shape: Sequence[int], *, is_attention: bool = False) -> tuple[str, ...]:
    """Return names for the axes of one image's activation.

    Three axes are channel, height and width; but where only the first two are equal, as in Swin
    transformers, the channels are last.
    """
    if is_attention and len(shape) == 3:
        return _ATTENTION
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        return _CHANNELS_LAST
    return _AXES.get(len(shape)) or ("channel", *(f"axis{i}" for i in range(2, len(shape) + 1)))


def has_tokens(shape: Sequence[int]) -> bool:
    """Tell whether the activation of one image is that of tokens, ``[token, unit]``."""
    return len(shape) == 2


def reduce(
    batch: torch.Tensor, reduction: Reduction, *, is_attention: bool = False
) -> torch.Tensor:
    """Take tokens, pool and flatten activations `[n, ...]` as asked.

    One number an image becomes `[n, 1]`.

    Raises
    ------
    RequestError
        If there is no class token to take.
    """
    if batch.ndim == 1:
        return batch.unsqueeze(1)
    if reduction.tokens != "all" and has_tokens(batch.shape[1:]):
        batch = _take_tokens(batch, reduction)
    if reduction.pool != "none" and (
        dims := _pooled_axes(axes_of(batch.shape[1:], is_attention=is_attention))
    ):
        batch = batch.mean(dim=dims) if reduction.pool == "avg" else batch.amax(dim=dims)
    return batch.flatten(start_dim=1) if reduction.flatten and batch.ndim > 2 else batch


def reduced_shape(
    shape: tuple[int, ...], reduction: Reduction, *, is_attention: bool = False
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return shape and axis names of one image's activation after the reduction.

    Raises
    ------
    RequestError
        If there is no class token to take.
    """
    names = axes_of(shape or (1,), is_attention=is_attention)
    like = torch.empty((1, *shape), device="meta")
    reduced = tuple(reduce(like, reduction, is_attention=is_attention).shape[1:])
    if reduction.tokens != "all" and has_tokens(shape):
        names = ("unit",)
    elif reduction.pool != "none":
        pooled = _pooled_axes(names)
        names = tuple(name for i, name in enumerate(names, start=1) if i not in pooled)
    return reduced, names if len(names) == len(reduced) else ("unit",)


def _pooled_axes(names: Sequence[str]) -> list[int]:
    """Return the axes over which pooling goes, counted with the image axis in front."""
    return [
        i for i, name in enumerate(names, start=1) if name in _POOLED or name.startswith("axis")
    ]


def _take_tokens(batch: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """Return the class token, the mean of the patches, or both one after the other, `[n, ...]`.

    Tokens before the patches, the class token and registers, have no part in the mean. Where a
    module has as many tokens as there are patches, these tokens have not been added yet.
    """
    layout = reduction.layout
    prefix, has_cls = layout.prefix, layout.has_cls
    if layout.total is not None and batch.shape[1] == layout.total - prefix:
        prefix, has_cls = 0, False
    parts = []
    if reduction.tokens in ("cls", "cls+mean"):
        if not has_cls:
            raise RequestError(
                f"--tokens {reduction.tokens}: among the {batch.shape[1]} tokens of a module there "
                "is no class token; use --tokens mean, or leave the module out"
            )
        parts.append(batch[:, 0])
    if reduction.tokens in ("mean", "cls+mean"):
        parts.append(batch[:, prefix:].mean(dim=1))
    return torch.cat(parts, dim=1)
