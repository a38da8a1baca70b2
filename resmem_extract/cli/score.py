"""``score``: predicted memorability of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import counted
from .options import (
    BatchSizeOption,
    CompileOption,
    DeviceOption,
    EngineOption,
    ExifOption,
    IdOption,
    ImagesOption,
    JsonOption,
    ModelOption,
    OnErrorOption,
    OverwriteOption,
    PrecisionOption,
    PretrainedOption,
    QuietOption,
    SeedOption,
    StreamsOption,
    ThreadsOption,
    TransformOption,
    TrustOption,
    UnverifiedOption,
    WeightsOption,
    WorkersOption,
    as_option,
    requested,
)
from .terminal import notes, print_json, progress_bar, results
from .weights import fetch_missing

if TYPE_CHECKING:
    from ..config import ScoreRun

__all__ = ["run_score", "score_command"]


def score_command(
    model: ModelOption = "resmem",
    images: ImagesOption = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="CSV to write; default: print it. Provenance: FILE.json."
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    streams: StreamsOption = None,
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "float32",
    compile_when: CompileOption = "auto",
    on_error: OnErrorOption = "stop",
    id_form: IdOption = "path",
    exif_orientation: ExifOption = False,
    weights: WeightsOption = None,
    unverified: UnverifiedOption = False,
    transform: TransformOption = None,
    pretrained: PretrainedOption = True,
    seed: SeedOption = 0,
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict how memorable images are: a table image_id,memorability.

    Example: resmem-extract score --model resmem --images photos/ --out scores.csv
    """
    asked = requested("score", locals())
    from ..config import ScoreRun, validated

    run_score(validated(ScoreRun, asked, "score", as_option), as_json=as_json, quiet=quiet)


def run_score(run: ScoreRun, *, as_json: bool, quiet: bool) -> None:
    """Do what a validated run asks, and print the table or the summary."""
    from ..pipeline import score

    if run.weights is None and run.pretrained:
        fetch_missing([run.model], quiet)
    with progress_bar("scoring", f"loading {run.model}", quiet) as progress:
        scores = score(
            run.model,
            run.images,
            out=run.out,
            overwrite=run.overwrite,
            progress=progress,
            tell=notes(quiet),
            **run.options(),
        )
    if as_json:
        pairs = zip(scores.image_ids, scores.memorability, strict=True)
        print_json([{"image_id": i, "memorability": value} for i, value in pairs])
    elif run.out is None:
        typer.echo(scores.to_csv(), nl=False)
    elif scores.already_complete and not quiet:
        results.print(f"{run.out} is already complete", markup=False)
    elif not quiet:
        values = scores.memorability
        results.print(
            f"{run.out}: {counted(len(values), 'image')}, memorability {min(values):.3f} to "
            f"{max(values):.3f}, {len(values) / scores.seconds:.1f} images/s",
            markup=False,
        )
    for image_id, reason in scores.skipped:
        notes(quiet)(f"skipped {image_id}: {reason}")
