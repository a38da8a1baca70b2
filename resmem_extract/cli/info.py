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
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A feature store, or the --out of an unfinished run."),
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a feature store holds and where it comes from, or how far a run has come.

    Example: resmem-extract info activations.h5
    """
    from ..store import format_bytes, open_store

    if not file.exists() and (state := _unfinished(file)):
        if as_json:
            print_json(state)
        elif not quiet:
            results.print(_as_text(state), markup=False)
        return
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


def _unfinished(file: Path) -> dict[str, Any] | None:
    """Return how far the run has come that is to make a file, None if there is none."""
    from ..pipeline.work import progress_of

    return progress_of(file)


def _as_text(state: dict[str, Any]) -> str:
    lines = [
        f"{state['file']} is not finished: {state['done']} of {state['images']} images are done, "
        f"in {counted(state['parts'], 'part')} in {state['folder']}; the same command continues",
        f"model: {state['model']}",
        f"modules: {', '.join(state['modules'])}",
    ]
    if state["missing"]:
        gaps = ", ".join(f"{first}-{last}" for first, last in state["missing"][:20])
        more = ", ..." if len(state["missing"]) > 20 else ""
        lines.append(f"missing rows: {gaps}{more}")
    return "\n".join([*lines, f"command: {state['command']}"])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return short_hash(str(value))
