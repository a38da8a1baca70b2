"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_table"]

_WIDE = Console(width=10_000, highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table; empty columns are left out, and nothing is cut to fit the terminal."""
    kept = [i for i, _ in enumerate(columns) if any(str(row[i]) for row in rows)]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i in kept:
        made.add_column(columns[i], no_wrap=True)
    for row in rows:
        made.add_row(*(Text(str(row[i])) for i in kept))
    _WIDE.print(made)
