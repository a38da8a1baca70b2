"""``targets``: the classes of images by their folders."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import counted
from .options import JsonOption, OverwriteOption, QuietOption
from .terminal import print_json, results

__all__ = ["targets_command"]


def targets_command(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A feature store.")],
    column: Annotated[
        str,
        typer.Option(
            "--column", metavar="NAME", help="label, an image's folder, or a column of your CSV."
        ),
    ] = "label",
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="A .csv; default: print the table.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give each image's class and its number, from the folders: image_id,class,target.

    Example: resmem-extract targets activations.h5 --out targets.csv
    """
    from ..pipeline import targets

    found = targets(store, column=column, out=out, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "classes": list(found.classes),
                "targets": dict(zip(found.image_ids, found.numbers.tolist(), strict=True)),
            }
        )
    elif out is not None and not quiet:
        images = counted(len(found.image_ids), "image")
        classes = counted(len(found.classes), "class", "classes")
        results.print(f"{out}: {images}, {classes}", markup=False)
    elif out is None:
        typer.echo(found.to_csv(), nl=False)
