"""``split``: a store into parts."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import FLAG, JsonOption, OverwriteOption, QuietOption, StoreArgument
from .terminal import NO_IMAGE, notes, print_json, progress_bar, results, told_of_interrupt

__all__ = ["split_command"]

_HOW = "How it is cut; one of these"


def split_command(
    file: StoreArgument,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for the parts.")],
    parts: Annotated[
        int | None,
        typer.Option(
            "--parts",
            metavar="N",
            help="Into exactly N parts of consecutive images.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", help="N images a part.", rich_help_panel=_HOW),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            "--bytes",
            metavar="SIZE",
            help="At most so many bytes of activations a part: 2GB.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="A part for each value of a column of the images.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    by_module: Annotated[
        bool,
        typer.Option("--by-module", metavar=FLAG, help="A part a module.", rich_help_panel=_HOW),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Split a feature store into parts that are stores, and that merge joins to the same again.

    Cuts between images are moved to whole chunks where parts have eight of them or more. Parts
    that are there already from an interrupted split are not written again.

    Example: resmem-extract split activations.h5 --parts 10 --out parts/
    """
    from ..errors import RequestError, counted
    from ..store import format_bytes, parse_bytes, split_store
    from .tables import print_table

    given = {"--parts": parts, "--rows": rows, "--bytes": max_bytes, "--by": by}
    named = [name for name, value in given.items() if value is not None]
    named += ["--by-module"] * by_module
    if len(named) != 1:
        raise RequestError(
            f"split: expected one of {', '.join(given)} and --by-module, "
            f"got {' and '.join(named) or 'none'}"
        )
    with (
        told_of_interrupt(NO_IMAGE),
        progress_bar("splitting", f"reading {file}", quiet, unit="bytes") as progress,
    ):
        made = split_store(
            file,
            out,
            parts=parts,
            rows=rows,
            max_bytes=None if max_bytes is None else parse_bytes(max_bytes),
            column=by,
            module=by_module,
            overwrite=overwrite,
            progress=progress,
            tell=notes(quiet),
        )
    if as_json:
        print_json([{**vars(part), "path": str(part.path)} for part in made])
    elif not quiet:
        table = [(p.path, p.images, len(p.modules), format_bytes(p.bytes)) for p in made]
        print_table(("part", "images", "modules", "size"), table)
        if there := sum(part.already_complete for part in made):
            results.print(f"{counted(there, 'part')} already complete", markup=False)
