"""What people read in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..path_grammar import split_suffix

__all__ = ["other_name", "print_table", "short_hash"]

_WIDE = Console(width=10_000, highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table; empty columns are left out, and nothing is cut to fit the terminal."""
    kept = [i for i, _ in enumerate(columns) if any(str(row[i]) for row in rows)]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for i in kept:
        made.add_column(columns[i], no_wrap=True)
    for row in rows:
        made.add_row(*(Text(str(row[i])) for i in kept))
    _WIDE.print(made)


def other_name(name: str, path: str) -> str:
    """Return a further name of a module, or nothing if the canonical path says it already."""
    return "" if name in (path, split_suffix(path)[0]) else name


def short_hash(text: str) -> str:
    """Return the first 12 digits of a SHA-256; any other text as it is."""
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text
