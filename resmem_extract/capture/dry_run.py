"""What one forward pass tells of a network before any image is read.

Which modules it calls and how often, what they return, which axis is the batch. Everything is
found by running the full network once on a small batch of noise; nothing is guessed from names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import RequestError, UnknownModuleError
from ..path_grammar import ATTENTION, Address
from .attention import expose_attention
from .hooks import Target, hooked
from .outputs import batch_axis, tensors

__all__ = [
    "FEW",
    "MORE",
    "Captured",
    "ModuleInfo",
    "Observed",
    "list_modules",
    "observe",
    "settle",
    "with_batch_axis",
]

FEW, MORE = 2, 3
"""Batch sizes of the two probes. Never 1, at which some networks squeeze the batch away."""

MakeInput = Callable[[int], torch.Tensor]
"""From a number of images to that many inputs of the network; the first ones always the same."""

Observed = dict[str, list[list[tuple[tuple[Any, ...], torch.Tensor]]]]
"""For each module and each of its calls, the tensors that it returned with their keys."""


@dataclass(frozen=True)
class Captured:
    """One activation that will be captured, settled against what the network really does."""

    path: str
    """Canonical path, with ``@k`` and ``[key]`` where they are needed to tell."""
    requested: str
    """What the user typed."""
    index_path: str
    target: Target
    calls: int
    """How often one forward pass calls the module."""
    shape: tuple[int, ...]
    """One image's activation, without the batch axis."""
    batch_axis: int
    links: tuple[str, ...]
    """Other names by which the activation may be asked for."""
    is_attention: bool = False
    """Whether it is an attention map, `[heads, queries, keys]`."""


@dataclass(frozen=True)
class ModuleInfo:
    """One line of the listing of a network's modules."""

    path: str
    index_path: str
    type: str
    """Class of the module."""
    shape: tuple[int, ...] | None
    """One image's output at the last call; None where it is never called or returns no tensor."""
    calls: int
    """Calls in one forward pass."""
    bytes: int
    """Size of one image's output."""


def observe(
    network: nn.Module,
    inputs: torch.Tensor,
    names: Iterable[str],
    copy: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> Observed:
    """Run the full network once and keep copies of all that the named modules return.

    Raises
    ------
    RequestError
        If the network cannot take such inputs, as with a transform to another size.
    """
    seen: Observed = {}

    def keep(name: str, _call: int, output: Any) -> None:
        seen.setdefault(name, []).append([(keys, copy(t)) for keys, t in tensors(output)])

    with hooked(network, names, keep):
        try:
            network(inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RequestError(
                f"the forward pass of {type(network).__name__} fails on images of "
                f"{list(inputs.shape[1:])} ({next(iter(str(error).splitlines()), '')}); if that is "
                "their size, give --transform another"
            ) from error
    return seen


def settle(
    addresses: Sequence[Address], seen: Observed
) -> tuple[list[tuple[Captured, torch.Tensor]], list[str]]:
    """Match the addresses with what a forward pass did.

    Returns
    -------
    list of (Captured, torch.Tensor)
        One for each different activation, with the tensor seen, batch axis still unknown (-1).
    list of str
        What the user should be told: calls and parts that were chosen for them.

    Raises
    ------
    UnknownModuleError
        For a module that is never called, or a call or part that does not exist.
    """
    found: dict[str, tuple[Captured, torch.Tensor]] = {}
    notes: dict[str, None] = {}
    left_out: dict[str, list[str]] = {}
    for address in addresses:
        problem = _problem(address, seen)
        if problem and address.from_glob:
            left_out.setdefault(address.requested, []).append(address.module)
            continue
        if problem:
            raise UnknownModuleError(problem)
        captured, tensor = _choose(address, seen)
        notes.update(dict.fromkeys(_choices_made(address, captured)))
        if captured.path in found:
            first, tensor = found[captured.path]
            links = dict.fromkeys((*first.links, *captured.links))
            captured = replace(first, links=tuple(links))
        found[captured.path] = captured, tensor
    for pattern, modules in left_out.items():
        listed = ", ".join(modules[:3]) + (", ..." if len(modules) > 3 else "")
        if not any(a.requested == pattern and a.module not in modules for a in addresses):
            never = all(not seen.get(module) for module in modules)
            why = "the forward pass never calls" if never else "give no activations"
            raise UnknownModuleError(f"{pattern!r} matches only modules that {why} ({listed})")
        notes[f"{pattern}: left out {len(modules)} without activations ({listed})"] = None
    return list(found.values()), list(notes)


def _problem(address: Address, seen: Observed) -> str | None:
    """Say in one line why an address cannot be captured, if it cannot."""
    calls = seen.get(address.module, [])
    if not calls:
        return f"module {address.module!r} exists, but the forward pass never calls it"
    if address.call is not None and address.call >= len(calls):
        return (
            f"{address.requested!r}: the forward pass calls {address.module} {len(calls)} "
            f"time{'s'[: len(calls) > 1]}; expected @0 to @{len(calls) - 1}"
        )
    parts = calls[-1 if address.call is None else address.call]
    if not parts:
        return f"module {address.module!r} returns no tensor"
    if not any(_leads_to(address.keys, keys) for keys, _ in parts):
        has = ", ".join(_suffix(keys) for keys, _ in parts) if parts[0][0] else "a single tensor"
        return f"{address.requested!r}: no such part; the output of {address.module} is {has}"
    return None


def _choose(address: Address, seen: Observed) -> tuple[Captured, torch.Tensor]:
    """Return the activation that an address means: by default the last call, the first tensor."""
    calls = seen[address.module]
    call = len(calls) - 1 if address.call is None else address.call
    keys, tensor = next(
        (keys, tensor) for keys, tensor in calls[call] if _leads_to(address.keys, keys)
    )
    numbered = address.module + (f"@{call}" if len(calls) > 1 else "")
    path = address.shown or numbered + _suffix(keys)
    links = [address.requested] if not address.from_glob else []
    if address.call is None and not address.keys and not address.attention:
        links.append(address.module)
    captured = Captured(
        path=path,
        requested=address.requested,
        index_path=address.index_path
        + (f"@{ATTENTION}" if address.attention else path[len(address.module) :]),
        target=Target(address.module, call, keys),
        calls=len(calls),
        shape=tuple(tensor.shape),
        batch_axis=-1,
        links=tuple(link for link in dict.fromkeys(links) if link != path),
        is_attention=address.attention,
    )
    return captured, tensor


def _leads_to(asked: Sequence[Any], keys: Sequence[Any]) -> bool:
    """Tell whether keys begin with those asked for; ``[0]`` may mean the number or the text."""
    return [str(key) for key in keys[: len(asked)]] == [str(key) for key in asked]


def _choices_made(address: Address, captured: Captured) -> list[str]:
    notes = []
    if captured.calls > 1 and address.call is None:
        notes.append(f"{address.module} is called {captured.calls} times; took the last, @"
                     f"{captured.target.call}")  # fmt: skip
    if len(captured.target.keys) != len(address.keys):
        notes.append(f"{address.module} returns several parts; took {captured.path}")
    return notes


def _suffix(keys: Sequence[Any]) -> str:
    return "".join(f"[{key}]" for key in keys)


def with_batch_axis(captured: Captured, few: Sequence[int], more: Sequence[int]) -> Captured:
    """Return the record with its batch axis and the shape of one image.

    Parameters
    ----------
    captured : Captured
    few, more : sequence of int
        Shapes seen with `FEW` and with `MORE` images.

    Raises
    ------
    RequestError
        If no axis follows the number of images.
    """
    axis = batch_axis(few, FEW, more, MORE)
    if axis is None:
        raise RequestError(
            f"{captured.path}: no axis follows the number of images (shape {tuple(few)} for "
            f"{FEW} images, {tuple(more)} for {MORE}); choose another module"
        )
    shape = tuple(size for i, size in enumerate(few) if i != axis)
    return replace(captured, batch_axis=axis, shape=shape)


def list_modules(
    network: nn.Module, addresses: Sequence[Address], make_input: MakeInput
) -> list[ModuleInfo]:
    """Return one line for every address, whether the forward pass calls the module or not.

    Calls and parts that were asked for are settled as for capture. Runs the network twice; on the
    meta device that computes nothing and needs no weights.

    Raises
    ------
    UnknownModuleError
        For a call or part that does not exist.
    """
    network, addresses = expose_attention(network, addresses)
    names = [address.module for address in addresses]
    with torch.inference_mode():
        seen = [observe(network, make_input(n), names, _shape_alone) for n in (FEW, MORE)]
    types = {name: type(module).__name__ for name, module in network.named_modules()}
    if any(address.call is not None or address.keys or address.shown for address in addresses):
        pairs = zip(*(settle(addresses, s)[0] for s in seen), strict=True)
        return [
            ModuleInfo(
                captured.path,
                captured.index_path,
                "attention map"
                if captured.is_attention
                else types.get(captured.target.module, types[""]),
                *_size(small, large, captured.calls),
            )
            for (captured, small), (_, large) in pairs
        ]
    return [
        ModuleInfo(
            address.module,
            address.index_path,
            types.get(address.module, types[""]),
            *_last_size(*(s.get(address.module, []) for s in seen)),
        )
        for address in addresses
    ]


def _shape_alone(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape and dtype that takes no memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _last_size(few: list[Any], more: list[Any]) -> tuple[tuple[int, ...] | None, int, int]:
    """Return one image's shape, the number of calls and one image's bytes, at the last call."""
    if not (few and few[-1] and more and more[-1]):
        return None, len(few), 0
    (_, small), (_, large) = few[-1][0], more[-1][0]
    return _size(small, large, len(few))


def _size(small: torch.Tensor, large: torch.Tensor, calls: int) -> tuple[tuple[int, ...], int, int]:
    axis = batch_axis(small.shape, FEW, large.shape, MORE)
    shape = tuple(size for i, size in enumerate(small.shape) if i != axis)
    return shape, calls, math.prod(shape) * small.element_size()
