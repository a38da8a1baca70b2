"""Which tokens a transformer has, found by the attributes that definitions share."""

from __future__ import annotations

import torch
from torch import nn

from ..types import TokenLayout

__all__ = ["token_layout"]

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
"""In timm and DINO, in torchvision, in CLIP."""


def token_layout(network: nn.Module) -> TokenLayout:
    """Return where a network has its class token, and how many tokens come before the patches.

    The first module that holds such a token, or says how many there are, decides. A network that
    has none has only patches.
    """
    for module in network.modules():
        has_cls = any(isinstance(getattr(module, n, None), torch.Tensor) for n in _CLASS_TOKENS)
        prefix = getattr(module, "num_prefix_tokens", int(has_cls))
        if has_cls or (isinstance(prefix, int) and hasattr(module, "num_prefix_tokens")):
            return TokenLayout(prefix, has_cls, _total(module, prefix))
    return TokenLayout()


def _total(module: nn.Module, prefix: int) -> int | None:
    """Return the number of all tokens, for the size of images that the network was built for."""
    patches = getattr(getattr(module, "patch_embed", None), "num_patches", None)
    if isinstance(patches, int):
        return patches + prefix
    if isinstance(length := getattr(module, "seq_length", None), int):  # torchvision
        return length
    position = getattr(module, "positional_embedding", None)  # CLIP
    if isinstance(position, torch.Tensor) and position.ndim == 2:
        return int(position.shape[0])
    return None
