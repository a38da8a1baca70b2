"""``rsa``: modules compared with brains, behaviour and each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError, counted
from .options import (
    JsonOption,
    ModulesOption,
    OverwriteOption,
    QuietOption,
    StoresArgument,
    as_option,
    requested,
)
from .tables import print_table
from .terminal import already, notes, print_json, progress_bar, results, told_of_interrupt

if TYPE_CHECKING:
    from ..compare.table import Row
    from ..config import RsaRun
    from ..images import StimulusSet
    from ..pipeline.rsa import RsaResult

__all__ = ["STEMS", "rsa_command", "run_rsa"]

STEMS = ("rdm_*", "matrix_*", "profile_*", "map_*")
"""Patterns of the names of all figures, without the format."""

_INFERENCE = "How sure it is"
_FIGURES = "Figures"


def rsa_command(
    store: StoresArgument,
    out: Annotated[
        str,
        typer.Option("--out", metavar="DIR", help="Folder for rsa.csv, rdms.h5 and the figures."),
    ],
    module: ModulesOption = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="RDMs or measured patterns: npz, npy, mat, csv, or h5 of rsatoolbox or of this "
            "program; FILE:KEY for one key. Repeat it.",
        ),
    ] = None,
    reference_ids: Annotated[
        str | None,
        typer.Option(
            "--reference-ids",
            metavar="FILE",
            help="Ids of the images, one a line, for references that have none.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="correlation (default), cosine, euclidean or sqeuclidean. Repeat it.",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="NAME",
            help="spearman (default), pearson, tau-a, rho-a, cosine, cosine-cov, corr-cov, cka, "
            "cka-rbf or procrustes. Repeat it.",
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="For the RDM of a module: 2GB.")
    ] = "2GB",
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs",
            metavar="N",
            help="Compare a random sample of pairs of images, such as 1e6, where the RDM of all "
            "does not fit in memory; pairs.csv has standard errors.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, or cuda for large RDMs.")
    ] = "cpu",
    bootstrap: Annotated[
        int,
        typer.Option(
            "--bootstrap",
            metavar="N",
            help="Samples for confidence intervals; over images, and subjects if there are some.",
            rich_help_panel=_INFERENCE,
        ),
    ] = 0,
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations",
            metavar="N",
            help="Orders of the images for p, one-sided.",
            rich_help_panel=_INFERENCE,
        ),
    ] = 0,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Of both.", rich_help_panel=_INFERENCE),
    ] = 0,
    figures: Annotated[
        list[str] | None,
        typer.Option(
            "--figures",
            metavar="FORMAT",
            help="png (default), svg, pdf or none. Repeat it.",
            rich_help_panel=_FIGURES,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="PATH",
            help="The images as extract got them, for thumbnails beside RDMs.",
            rich_help_panel=_FIGURES,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="COLUMN",
            help="Column of the images that puts them in blocks, such as label.",
            rich_help_panel=_FIGURES,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare modules with brains, behaviour and each other: RDMs, CKA, intervals, figures.

    Example: resmem-extract rsa activations.h5 --reference human_IT.npz --bootstrap 1000 --out rsa/
    """
    asked = requested("rsa", locals())
    from ..config import RsaRun, validated

    run = validated(RsaRun, asked, "rsa", as_option)
    run_rsa(run, as_json=as_json, quiet=quiet)


def run_rsa(run: RsaRun, *, as_json: bool, quiet: bool) -> None:
    """Do what a validated run asks, and print the comparisons with references."""
    from ..pipeline.result_folder import Figures
    from ..pipeline.rsa import compare_stores

    images = _check_figures(run)

    def draw(result: RsaResult, folder: Path, formats: Sequence[str]) -> None:
        from ..report import draw_all

        draw_all(
            folder,
            result.table.rows,
            result.models,
            result.references,
            formats,
            groups=result.columns.get(run.group or "", {}),
            images=images,
        )

    look = run.model_dump(mode="json", include={"images", "group"})
    with (
        told_of_interrupt(),
        progress_bar("reading", "opening the stores", quiet, unit="bytes") as progress,
    ):
        result = compare_stores(
            run.store,
            run.module,
            references=run.reference,
            out=run.out,
            figures=Figures(run.figures, look, STEMS, draw),
            progress=progress,
            tell=notes(quiet),
            **run.options(),
        )
    with told_of_interrupt(f"{run.out} holds the whole result"):
        _show(result, run.out, as_json, quiet)


def _show(result: RsaResult, out: Path, as_json: bool, quiet: bool) -> None:
    rows = result.table.rows
    if as_json:
        print_json([_as_json(row) for row in rows])
    elif not quiet:
        names = {reference.name for reference in result.references}
        _print([row for row in rows if row.b in names] or rows)
        what = counted(len(rows), "comparison")
        results.print(f"{out / 'rsa.csv'}: {what}{already(result)}", markup=False)


def _check_figures(run: RsaRun) -> StimulusSet | None:
    """Raise before the work if figures cannot be as they were asked for; return their images."""
    from ..images import find_named
    from ..store import open_store

    if run.figures:
        from ..report.style import check_figures

        check_figures()
    if run.group is None and run.images is None:
        return None
    with open_store(run.store[0]) as store:
        known, ids = list(store.columns), store.image_ids.tolist()
    if run.group is not None and run.group not in known:
        raise RequestError(
            f"--group {run.group}: the images have no such column; they have "
            f"{', '.join(known) or 'none'}"
        )
    if run.images is None:
        return None
    images = find_named(run.images, ids)
    if not set(ids) & set(images.ids):
        raise RequestError(
            f"--images {run.images}: none of the images of {run.store[0]} is there "
            f"({ids[0]}, ...); give the images that it was made of"
        )
    return images


def _as_json(row: Row) -> dict[str, Any]:
    cells = dataclasses.asdict(row)
    return {
        key: None if isinstance(cell, float) and math.isnan(cell) else cell
        for key, cell in cells.items()
    }


def _print(rows: list[Row]) -> None:
    columns = ("a", "b", "metric", "compare", "images", "value", "95 % interval", "p", "ceiling")
    print_table(
        columns,
        [
            (
                row.a,
                row.b,
                row.metric,
                row.compare,
                row.n_images,
                _number(row.value),
                _range(row.ci_low, row.ci_high),
                _number(row.p),
                _range(row.ceiling_low, row.ceiling_high),
            )
            for row in rows
        ],
    )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
