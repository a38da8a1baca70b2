"""``classify``: what a classifier sees in images, from its stored outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import counted
from .options import JsonOption, OverwriteOption, QuietOption
from .terminal import results

__all__ = ["ClassesOption", "TopOption", "classify_command"]

TopOption = Annotated[
    int, typer.Option("--top", metavar="N", help="How many classes of each image.")
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Names of the classes, one a line, in order. Default: those of ImageNet.",
    ),
]


def classify_command(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A feature store.")],
    module: Annotated[
        str, typer.Option("--module", metavar="PATH", help="The outputs, one number a class.")
    ] = "output",
    top: TopOption = 5,
    classes: ClassesOption = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="A .csv or .json; default: print the table."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give the most probable classes of each image: image_id,rank,index,class,probability.

    Example: resmem-extract classify activations.h5 --top 5 --out classes.csv
    """
    from ..pipeline import classify

    found = classify(store, module=module, top=top, classes=classes, out=out, overwrite=overwrite)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    elif out is None:
        typer.echo(found.to_csv(), nl=False)
    elif not quiet:
        results.print(f"{out}: {counted(len(found.image_ids), 'image')}", markup=False)
