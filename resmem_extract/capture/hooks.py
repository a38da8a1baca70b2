"""Capture by forward hooks: the oracle, and the way for networks that cannot be traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import WorkError
from ..path_grammar import Key
from .outputs import select

__all__ = ["HookEngine", "Target", "hooked"]

Hook = Callable[[str, int, Any], None]


@dataclass(frozen=True)
class Target:
    """One tensor that a forward pass makes: a call of a module, and a part of its output."""

    module: str
    """Exact name, or `output`."""
    call: int
    """Counted from 0 within one forward pass."""
    keys: tuple[Key, ...] = ()
    """Keys into the output; empty where it is a tensor."""


class _Stop(BaseException):
    """Ends a forward pass; not an `Exception`, so that no network's own handler swallows it."""


@contextmanager
def hooked(network: nn.Module, names: Iterable[str], hook: Hook) -> Iterator[None]:
    """Call `hook(name, call, output)` after every call of the named modules, and remove it after.

    Parameters
    ----------
    network : torch.nn.Module
    names : iterable of str
        Exact names; `output` stands for the network itself.
    hook : callable
        Must not change the output.
    """
    modules = dict(network.named_modules())
    calls: Counter[str] = Counter()

    def forward_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def count_and_call(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name] += 1
            hook(name, calls[name] - 1, output)

        return count_and_call

    handles = [
        modules.get(name, network).register_forward_hook(forward_hook(name))
        for name in dict.fromkeys(names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class HookEngine:
    """Run the network under hooks, and keep a copy of each target as it is made.

    The copy is made at hook time, since a later in-place operation may write over the tensor.

    Parameters
    ----------
    network : torch.nn.Module
    targets : sequence of Target
    stop_early : bool
        End the forward pass once the last target has been seen. Without it this is the plain
        hook on the full network that everything else is compared with.
    """

    def __init__(self, network: nn.Module, targets: Sequence[Target], *, stop_early: bool) -> None:
        self.network = network
        self.targets = tuple(targets)
        self.stop_early = stop_early

    def __call__(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the targets' tensors, in their order.

        Raises
        ------
        WorkError
            If this forward pass never came by a target, as it did before.
        """
        kept: dict[Target, torch.Tensor] = {}

        def keep(module: str, call: int, output: Any) -> None:
            for target in self.targets:
                if (target.module, target.call) == (module, call):
                    kept[target] = select(output, target.keys).clone()
            if self.stop_early and len(kept) == len({*self.targets}):
                raise _Stop

        names = (target.module for target in self.targets)
        with hooked(self.network, names, keep), suppress(_Stop):
            self.network(inputs)
        if missing := [target for target in self.targets if target not in kept]:
            raise WorkError(
                f"the forward pass made no call {missing[0].call} of {missing[0].module} for this "
                "batch: the network's course depends on what it is fed"
            )
        return [kept[target] for target in self.targets]
