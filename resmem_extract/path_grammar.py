"""How a module path is written, apart from any network: names, numbers, suffixes, globs."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ATTENTION", "OUTPUT", "Address", "Key", "glob_pattern", "same_module", "split_suffix"]

OUTPUT = "output"
"""The name of what a network returns."""

ATTENTION = "attention"
"""The suffix, after an ``@``, of the attention map of a module."""

Key = int | str
"""Leads into an output that is a tuple or a dict."""


@dataclass(frozen=True)
class Address:
    """One thing to be captured: a module, which of its calls, and which part of its output."""

    module: str
    """Exact name of the module, or `output` for the network itself."""
    index_path: str
    """The same in child numbers, ``features.5.4``; the first part stays a name."""
    requested: str
    """What the user typed."""
    call: int | None = None
    """Which call of the module; None for the last one."""
    keys: tuple[Key, ...] = ()
    """Which part of the output, outermost first; empty for a tensor, or for the first tensor."""
    from_glob: bool = False
    """Whether the user named this module only through a pattern."""
    attention: bool = False
    """Whether the attention map is meant, not the output."""
    shown: str = ""
    """Canonical path where that is not made of `module`, `call` and `keys`."""


_SUFFIX = re.compile(rf"(@\d+|@{ATTENTION})?(\[[^\]]*\])*$")


def split_suffix(text: str) -> tuple[str, str]:
    """Split ``relu@0[1]`` into ``relu`` and ``@0[1]``."""
    start = _SUFFIX.search(text)
    cut = start.start() if start else len(text)
    return text[:cut], text[cut:]


def same_module(text: str, path: str, index_path: str) -> bool:
    """Tell whether `text` addresses `path`, each segment given by name or by child number.

    Needs no network, so that a store can be asked in any form that the network accepted.

    Parameters
    ----------
    text : str
        What a user typed, such as ``features.5.4.relu@0``.
    path, index_path : str
        The two full forms, ``features.layer2.4.relu@0`` and ``features.5.4.6``.
    """
    (stem, suffix), (names, wanted) = split_suffix(text), split_suffix(path)
    if suffix != wanted:
        return False
    numbers, _ = split_suffix(index_path)
    segments = [form.split(".") for form in (stem, names, numbers)]
    return len({len(parts) for parts in segments}) == 1 and all(
        part in forms for part, *forms in zip(*segments, strict=True)
    )


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Compile a glob over paths: `*` stays within one segment, `**` spans any number, also none."""
    *heads, last = glob.split(".")
    pattern = "".join(r"(?:[^.]+\.)*" if h == "**" else _segment(h) + r"\." for h in heads)
    return re.compile(pattern + (r"[^.]+(?:\.[^.]+)*" if last == "**" else _segment(last)))


def _segment(glob: str) -> str:
    return re.escape(glob).replace(r"\*", "[^.]*")
