"""Which modules make one line over depth: those of one network, from one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ORDER", "lines_over_depth", "network_and_module", "title_of"]

ORDER = "module, in the order given"
"""What the axis of depth says: a store keeps the order of the request that it was made by."""


def network_and_module(name: str) -> tuple[str, str]:
    """Split ``resmem:features.layer2.4`` at its first colon."""
    network, _, module = name.partition(":")
    return network, module


def title_of(line: str) -> str:
    """Return the name of a line in several rows: a narrow panel would let it run into the next."""
    return line.replace("/", "/\n", 1).replace("@", "\n@").replace(" (", "\n(")


def lines_over_depth(
    names: Sequence[str], sources: Mapping[str, str] | None = None
) -> dict[str, list[int]]:
    """Return the positions of the modules of each line, by what it is called.

    The order of modules is known within a store. Between two stores of one network there is none,
    so that each gets a line of its own, which is named after its file too.

    Parameters
    ----------
    names : sequence of str
        ``network:module``, in the order of depth.
    sources : mapping from name to path, optional
        The store of each module.
    """
    stores = dict(sources or {})
    lines: dict[tuple[str, str], list[int]] = {}
    for k, name in enumerate(names):
        lines.setdefault((network_and_module(name)[0], stores.get(name, "")), []).append(k)
    networks = [network for network, _ in lines]
    files = [Path(path).name for path in dict.fromkeys(path for _, path in lines)]
    called = {}
    for (network, path), own in lines.items():
        file = Path(path).name
        shown = file if files.count(file) == 1 else path
        called[f"{network} ({shown})" if networks.count(network) > 1 else network] = own
    return called
