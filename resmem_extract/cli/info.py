"""``info``: what a feature store holds."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import counted
from .options import JsonOption, QuietOption
from .tables import other_name, print_table, short_hash
from .terminal import print_json, results

__all__ = ["info_command"]


def info_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A feature store.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a feature store holds and where it comes from.

    Example: resmem-extract info activations.h5
    """
    from ..store import format_bytes, open_store

    with open_store(file) as store:
        content = store.describe()
    if as_json:
        print_json(content)
        return
    if quiet:
        return
    size = format_bytes(file.stat().st_size)
    results.print(f"{file}: {counted(content['images'], 'image')}, {size}", markup=False)
    rows = [
        (
            module["path"],
            ", ".join(filter(None, (other_name(n, module["path"]) for n in module["links"]))),
            str(module["shape"]),
            module["dtype"],
            format_bytes(module["bytes"]),
        )
        for module in content["modules"]
    ]
    print_table(("module", "also", "shape", "dtype", "size"), rows)
    if content["columns"]:
        results.print(f"columns of the images: {', '.join(content['columns'])}", markup=False)
    if content["skipped"]:
        results.print(f"skipped images: {content['skipped']}", markup=False)
    for key, value in content["provenance"].items():
        line = f"{key}: {_plain(value)}"
        if isinstance(value, dict):
            line = textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False)
        results.print(line, markup=False)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return short_hash(str(value))
