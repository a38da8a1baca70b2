"""What people read in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer
from rich.cells import cell_len, set_cell_size

from ..path_grammar import split_suffix

__all__ = ["other_name", "print_table", "short_hash"]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table; empty columns are left out, and nothing is cut to fit the terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    kept = [i for i, _ in enumerate(columns) if any(row[i] for row in cells)]
    shown = [[columns[i] for i in kept], *([row[i] for i in kept] for row in cells)]
    widths = [max(cell_len(row[i]) for row in shown) for i in range(len(kept))]
    for number, row in enumerate(shown):
        line = "  ".join(set_cell_size(cell, n) for cell, n in zip(row, widths, strict=True))
        typer.echo(line)
        if number == 0:
            typer.echo("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * cell_len(line))


def other_name(name: str, path: str) -> str:
    """Return a further name of a module, or nothing if the canonical path says it already."""
    return "" if name in (path, split_suffix(path)[0]) else name


def short_hash(text: str) -> str:
    """Return the first 12 digits of a SHA-256; any other text as it is."""
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text
