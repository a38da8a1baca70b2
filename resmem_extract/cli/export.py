"""``export``: activations to files of other formats."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonOption, OverwriteOption, QuietOption, StoreArgument
from .terminal import print_json, progress_bar

__all__ = ["export_command"]


def export_command(
    file: StoreArgument,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for the files.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="npy, mat (MATLAB 7.3), pt (torch), txt (vectors) or zarr (one group for all).",
        ),
    ] = "npy",
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            metavar="PATH",
            help="Only these; * stands for anything. Repeat it. Default: all.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write activations to files for NumPy, MATLAB, torch or Zarr, with a table of the images.

    Example: resmem-extract export activations.h5 --format mat --module features.5.4 --out mat/
    """
    from ..store import export_store
    from .tables import print_table

    with progress_bar("exporting", f"opening {file}", quiet, unit="bytes") as progress:
        made = export_store(
            file,
            out,
            format=format,  # type: ignore[arg-type]  # checked there
            modules=module or None,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json([{"path": str(one.path), "modules": list(one.modules)} for one in made])
    elif not quiet:
        print_table(("file", "modules"), [(one.path, ", ".join(one.modules)) for one in made])
