"""Attention maps: what a block looks at, which fused kernels never write down.

A network whose attention is asked for is changed in a copy: the modules on the way to the asked
attention are copied, parameters are shared, and only that attention computes its map step by step.
All else stays as it was, and so does the network that was given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import UnknownModuleError
from ..path_grammar import ATTENTION, Address

__all__ = ["ExposedAttention", "expose_attention"]


class ExposedAttention(nn.MultiheadAttention):
    """torch's attention that always returns its map beside its output, one for each head."""

    def forward(self, *arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output and the map `[n, heads, queries, keys]`, whatever was asked for."""
        for name, value in zip(_POSITIONAL, arguments[3:], strict=False):
            options[name] = value
        options |= {"need_weights": True, "average_attn_weights": False}
        output, weights = super().forward(*arguments[:3], **options)
        assert weights is not None  # they were asked for
        return output, weights


_POSITIONAL = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


def expose_attention(
    network: nn.Module, addresses: Sequence[Address]
) -> tuple[nn.Module, list[Address]]:
    """Return a network that shows the attention asked for, and the addresses of the maps in it.

    Where no attention is asked for, both are as given.

    Parameters
    ----------
    network : torch.nn.Module
        It stays as it is.
    addresses : sequence of Address
        Those with `attention` name an attention, or a module that holds exactly one.

    Raises
    ------
    UnknownModuleError
        If there is no attention, or no single one, or one of a kind that is not known.
    """
    exposed: list[Address] = []
    for address in addresses:
        if not address.attention:
            exposed.append(address)
            continue
        name = _the_attention_in(network, address)
        network, attention = _with_copy_of(network, name)
        map_at, keys = _show(attention)
        exposed.append(
            replace(
                address,
                module=f"{name}.{map_at}" if map_at else name,
                index_path=address.index_path + _child_numbers(network, address.module, name),
                keys=keys,
                shown=f"{name}@{ATTENTION}",
            )
        )
    return network, exposed


def _is_attention(module: nn.Module) -> bool:
    """Tell whether the map of an attention can be shown: torch's own, or one in timm's manner."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    return hasattr(module, "fused_attn") and isinstance(
        getattr(module, "attn_drop", None), nn.Module
    )


def _the_attention_in(network: nn.Module, address: Address) -> str:
    """Return the name of the one attention that an address means."""
    modules = dict(network.named_modules())
    start = modules.get(address.module, network)
    prefix = "" if start is network else f"{address.module}."
    if _is_attention(start):
        return address.module
    inside: list[str] = [prefix + n for n, m in start.named_modules() if _is_attention(m)]
    if len(inside) == 1:
        return inside[0]
    everywhere = [name for name, module in modules.items() if _is_attention(module)]
    there = inside or everywhere
    more = ", ..." if len(there) > 3 else ""
    hint = f"the network has {', '.join(there[:3])}{more}" if there else "the network has none"
    what = "several attentions" if inside else "no attention whose map can be shown"
    raise UnknownModuleError(f"{address.requested!r}: {address.module} has {what}; {hint}")


def _child_numbers(network: nn.Module, start: str, name: str) -> str:
    """Return the way from a module down to one in it, in child numbers, each behind a dot."""
    module = network if name != start and not name.startswith(f"{start}.") else None
    module = module or network.get_submodule(start)
    numbers = ""
    for part in name.removeprefix(start).strip(".").split(".") if name != start else ():
        children = [child for child, _ in module.named_children()]
        numbers += f".{children.index(part)}"
        module = module.get_submodule(part)
    return numbers


def _with_copy_of(network: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """Return the network with copies of a module and of all that hold it, and that copy."""
    top = parent = _copy(network)
    for part in name.split("."):
        child = parent._modules[part]
        assert child is not None  # it was found under this name
        parent._modules[part] = child = _copy(child)
        parent = child
    return top, parent


def _copy(module: nn.Module) -> nn.Module:
    """Return a module with dicts of its own, and the same parameters and children in them."""
    clone = module.__new__(type(module))
    clone.__dict__ = {
        key: copy.copy(value) if isinstance(value, dict) else value
        for key, value in module.__dict__.items()
    }
    return clone


def _show(attention: nn.Module) -> tuple[str, tuple[int, ...]]:
    """Change a copied attention so that it shows its map; return where: child, and keys."""
    if isinstance(attention, nn.MultiheadAttention):
        attention.__class__ = ExposedAttention
        return "", (1,)
    attention.fused_attn = False  # type: ignore[assignment]
    attention._modules["attn_drop"] = nn.Identity()  # the map passes through it
    return "attn_drop", ()
