"""``transform``: stored activations made into features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import counted
from .options import FLAG, JsonOption, OverwriteOption, QuietOption, as_option
from .terminal import notes, print_json, progress_bar, results

if TYPE_CHECKING:
    from ..pipeline.transform import TransformSummary

__all__ = ["transform_command"]


def transform_command(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE...", help="Feature stores; several need --join."),
    ],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="HDF5 file to write.")],
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            metavar="PATH",
            help="Module, or one with *. Repeat it. Default: all. NAME:PATH is of one of several "
            "networks.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            "--step",
            metavar="STEP",
            help="center, zscore, l2, pca=N or project=N (sparse random projection); "
            "repeatable, in order.",
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            metavar=FLAG,
            help="Put all modules one behind the other in one vector an image, before the steps.",
        ),
    ] = False,
    fit_on: Annotated[
        str | None,
        typer.Option(
            "--fit-on",
            metavar="FILE",
            help="Fit steps on these images alone: ids, one a line. Default: all.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of random projections.")] = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Centre, scale, join or reduce stored activations, in bounded memory, into another store.

    Example: resmem-extract transform activations.h5 --step zscore --step pca=50 --out pca.h5
    """
    from ..config import TransformOptions, validated

    asked: dict[str, Any] = {
        "steps": step or [],
        "join": join,
        "fit_on": fit_on,
        "seed": seed,
        "overwrite": overwrite,
    }
    validated(TransformOptions, asked, "transform", as_option)
    from ..pipeline.transform import transform

    with progress_bar("transforming", "reading", quiet) as progress:
        summary = transform(stores, module, out=out, progress=progress, tell=notes(quiet), **asked)
    if as_json:
        print_json(_as_json(summary))
    elif not quiet:
        _print(summary)


def _as_json(summary: TransformSummary) -> dict[str, Any]:
    return {
        "file": str(summary.out),
        "already_complete": summary.already_complete,
        "images": summary.images,
        "fit_images": summary.fit_images,
        "modules": [
            {"path": spec.path, "shape": [summary.images, *spec.shape], "dtype": spec.dtype}
            for spec in summary.modules
        ],
        "notes": list(summary.notes),
        "bytes": summary.bytes,
        "seconds": None if summary.already_complete else round(summary.seconds, 3),
    }


def _print(summary: TransformSummary) -> None:
    from ..store import format_bytes
    from .tables import print_table

    if summary.already_complete:
        results.print(f"{summary.out} is already complete", markup=False)
    else:
        results.print(
            f"{summary.out}: {counted(summary.images, 'image')}, {format_bytes(summary.bytes)}",
            markup=False,
        )
    rows = [
        (spec.path, f"[{', '.join(map(str, (summary.images, *spec.shape)))}]", spec.dtype)
        for spec in summary.modules
    ]
    print_table(("module", "shape", "dtype"), rows)
