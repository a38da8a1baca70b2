"""A network that lists its modules under every name that this package knows for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..module_path import ModulePaths

__all__ = ["answer_to_paths"]


class _AnswersToPaths(nn.Module):
    """What a network's class is made to inherit from first."""

    _further_names: dict[str, nn.Module]

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield all modules by their exact names, then again by all others.

        As a part of another network this one has its exact names alone.
        """
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if memo is None and not prefix:
            yield from self._further_names.items()

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        """Yield the modules, each once unless under several exact names that are wanted."""
        named = super().named_modules(remove_duplicate=remove_duplicate)
        return (module for _, module in named)


def answer_to_paths(paths: ModulePaths) -> nn.Module:
    """Make a network list its modules under all forms of their paths, and return it.

    Whoever looks a name up in ``named_modules()``, as thingsvision does to check names and to
    place hooks, then finds ``features.5.4``, ``resnet_layers[24]`` and ``output`` there. The
    network stays the same object, with the same parameters and state dict.

    Parameters
    ----------
    paths : ModulePaths
        Of the network.
    """
    network = paths.network
    exact = {name for name, _ in network.named_modules()}
    further = {
        form: paths.module(name)
        for name in paths.names
        for form in paths.forms(name)
        if form not in exact
    }
    base: Any = type(network)
    network.__class__ = type(
        base.__name__, (_AnswersToPaths, base), {"__module__": base.__module__}
    )
    network._further_names = further  # type: ignore[assignment]
    return network
