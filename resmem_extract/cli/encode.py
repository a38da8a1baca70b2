"""``encode``: measured responses predicted from activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import counted
from .options import (
    FLAG,
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
    from ..config import EncodeRun
    from ..pipeline.encode_tables import EncodeResult

__all__ = ["STEMS", "encode_command", "run_encode"]

STEMS = ("profile", "best", "predictions", "map_r", "map_best")
"""Names of all figures, without the format."""

_RESPONSES = "What was measured"
_FEATURES = "What is made of activations, learnt from training images alone"
_MODEL = "The model"
_FOLDS = "Which images are predicted from which"
_SURE = "How good that is"
_MOST_LINES = 20


def encode_command(
    store: StoresArgument,
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="DIR", help="Folder for scores.csv, model.h5 and the figures."
        ),
    ],
    responses: Annotated[
        str | None,
        typer.Option(
            "--responses",
            metavar="FILE",
            help="Responses: npy, npz, h5, csv, tsv, parquet or nii, with the ids of images.",
            rich_help_panel=_RESPONSES,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="COLUMN",
            help="In place of --responses: a column of the images' own CSV, such as a rating. "
            "Repeat it.",
            rich_help_panel=_RESPONSES,
        ),
    ] = None,
    response_ids: Annotated[
        str | None,
        typer.Option(
            "--response-ids",
            metavar="FILE",
            help="Ids of the images, one a line, for responses that have none.",
            rich_help_panel=_RESPONSES,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="Of a NIfTI file: voxels that are targets, by number of their region.",
            rich_help_panel=_RESPONSES,
        ),
    ] = None,
    repeats: Annotated[
        str,
        typer.Option(
            "--repeats",
            metavar="WHAT",
            help="average, or keep: predict each measurement of an image.",
            rich_help_panel=_RESPONSES,
        ),
    ] = "average",
    missing: Annotated[
        str,
        typer.Option(
            "--missing",
            metavar="WHAT",
            help="stop, or skip: leave out responses to images without activations.",
            rich_help_panel=_RESPONSES,
        ),
    ] = "stop",
    module: ModulesOption = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="ridge, banded (all modules at once, a penalty each), linear or pls.",
            rich_help_panel=_MODEL,
        ),
    ] = "ridge",
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha",
            metavar="X",
            help="Penalty to try; default: ten that follow the size of the features. Repeat it.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    components: Annotated[
        int,
        typer.Option("--components", metavar="N", help="Of pls.", rich_help_panel=_MODEL),
    ] = 10,
    iterations: Annotated[
        int,
        typer.Option(
            "--iterations",
            metavar="N",
            help="Relative weights that banded ridge tries.",
            rich_help_panel=_MODEL,
        ),
    ] = 60,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            metavar=FLAG,
            help="Keep weights of features in model.h5, of a model of all images.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    partition: Annotated[
        bool,
        typer.Option(
            "--partition",
            metavar=FLAG,
            help="Unique and shared variance of two sets of modules: --module A --module B.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    scale: Annotated[
        str,
        typer.Option("--scale", metavar="HOW", help="center or zscore.", rich_help_panel=_FEATURES),
    ] = "center",
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            metavar="HOW",
            help="none, or avg over height and width, or tokens.",
            rich_help_panel=_FEATURES,
        ),
    ] = "none",
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="N",
            help="Sparse random projection to N values, or auto (Johnson and Lindenstrauss).",
            rich_help_panel=_FEATURES,
        ),
    ] = None,
    pca: Annotated[
        int | None,
        typer.Option(
            "--pca", metavar="N", help="So many principal components.", rich_help_panel=_FEATURES
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="N", help="Outer folds; default: 5.", rich_help_panel=_FOLDS
        ),
    ] = None,
    inner: Annotated[
        int,
        typer.Option(
            "--inner",
            metavar="N",
            help="Folds within training images, in which penalties are chosen.",
            rich_help_panel=_FOLDS,
        ),
    ] = 5,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="COLUMN",
            help="Images of one value stay together: a category, a session.",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="COLUMN",
            help="Given split: train and test, or names of folds.",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(
            "--subjects",
            metavar="COLUMN",
            help="Of measurements: leave one subject out at a time.",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Of folds, projections, permutations.",
            rich_help_panel=_FOLDS,
        ),
    ] = 0,
    ceiling: Annotated[
        str,
        typer.Option(
            "--ceiling",
            metavar="HOW",
            help="Noise ceiling from repeats: split-half, ncsnr or none.",
            rich_help_panel=_SURE,
        ),
    ] = "split-half",
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations",
            metavar="N",
            help="Orders of the images for p, one-sided; models are made anew for each.",
            rich_help_panel=_SURE,
        ),
    ] = 0,
    memory: Annotated[
        str,
        typer.Option("--memory", metavar="SIZE", help="For inner products of a module: 2GB."),
    ] = "2GB",
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, or cuda for large studies.")
    ] = "cpu",
    figures: Annotated[
        list[str] | None,
        typer.Option(
            "--figures", metavar="FORMAT", help="png (default), svg, pdf or none. Repeat it."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict voxels, electrodes or ratings from modules, with nested cross-validation.

    Example: resmem-extract encode f.h5 --responses v1.npz --module 'features.layer*' --out v1/
    """
    asked = requested("encode", locals())
    from ..config import EncodeRun, validated

    run = validated(EncodeRun, asked, "encode", as_option)
    run_encode(run, as_json=as_json, quiet=quiet)


def run_encode(run: EncodeRun, *, as_json: bool, quiet: bool) -> None:
    """Do what a validated run asks, and print how well each module predicts."""
    from ..pipeline.encode import encode
    from ..pipeline.result_folder import Figures

    if run.figures:
        from ..report.style import check_figures

        check_figures()

    def draw(result: EncodeResult, folder: Path, formats: Sequence[str]) -> None:
        from ..report.encoding_figures import draw_encoding

        draw_encoding(folder, result, formats)

    with (
        told_of_interrupt(),
        progress_bar("encoding", "reading", quiet, unit="folds") as progress,
    ):
        result = encode(
            run.store,
            run.module,
            responses=run.responses,
            target=run.target,
            out=run.out,
            figures=Figures(run.figures, {}, STEMS, draw),
            progress=progress,
            tell=notes(quiet),
            **run.options(),
        )
    with told_of_interrupt(f"{run.out} holds the whole result"):
        _show(result, run.out, as_json, quiet)


def _show(result: EncodeResult, out: Path, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(_as_json(result))
    elif not quiet:
        _print(result)
        n, t = len(result.scores), len(result.targets)
        what = f"{counted(n, 'model')} of {counted(t, 'target')}"
        results.print(f"{out / 'scores.csv'}: {what}{already(result)}", markup=False)


def _as_json(result: EncodeResult) -> list[dict[str, Any]]:
    best = result.best
    return [
        {
            "model": scored.model,
            "module": scored.module,
            "target": target,
            "roi": result.rois[t],
            "r": _or_none(scored.mean_r[t]),
            "r2": _or_none(scored.mean_r2[t]),
            "r_normalised": _or_none(result.normalised(scored.mean_r)[t]),
            "p": _or_none(scored.p[t]),
            "p_fdr": _or_none(scored.p_fdr[t]),
            "best": bool(best[t] == k),
        }
        for k, scored in enumerate(result.scores)
        for t, target in enumerate(result.targets)
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _print(result: EncodeResult) -> None:
    """Print a line a model and region, or a target where these are few."""
    import numpy as np

    few = len(result.targets) * len(result.scores) <= _MOST_LINES
    names = result.targets if few else tuple(roi or "all targets" for roi in result.rois)
    lines = []
    best = result.best
    for k, scored in enumerate(result.scores):
        for name in dict.fromkeys(names):
            own = np.array([other == name for other in names])
            significant = (scored.p_fdr[own] < 0.05).sum()
            lines.append(
                (
                    scored.name,
                    name,
                    _mean(scored.mean_r[own]),
                    _mean(scored.mean_r2[own]),
                    _mean(result.normalised(scored.mean_r)[own]),
                    f"{significant} of {own.sum()}" if np.isfinite(scored.p).any() else "",
                    f"{(best[own] == k).sum()} of {own.sum()}" if len(result.scores) > 1 else "",
                )
            )
    columns = ("module", "target", "r", "R2", "r / ceiling", "p < 0.05 (FDR)", "best for")
    print_table(columns, lines)


def _mean(values: Any) -> str:
    finite = values[values == values]
    return f"{finite.mean():.3f}" if len(finite) else ""
