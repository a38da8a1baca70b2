"""``extract``: activations of modules for images, into HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError, counted
from .classify import TopOption
from .options import (
    FLAG,
    BatchSizeOption,
    ClusterOption,
    ClusterWorkersOption,
    CompileOption,
    DeviceOption,
    EngineOption,
    ExifOption,
    ExtendOption,
    IdOption,
    ImagesOption,
    JsonOption,
    ModelsOption,
    OnErrorOption,
    OverwriteOption,
    PrecisionOption,
    PretrainedOption,
    QuietOption,
    RestartOption,
    SeedOption,
    ShardOption,
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
from .terminal import NO_IMAGE, notes, print_json, progress_bar, results, told_of_interrupt
from .weights import fetch_missing

if TYPE_CHECKING:
    from ..config import ExtractRun
    from ..pipeline import ExtractSummary

__all__ = ["extract_command", "run_extract"]

_STORE = "What is stored"


def extract_command(
    module: Annotated[
        list[str],
        typer.Option(
            "--module",
            metavar="PATH",
            help="Module: features.layer2.4, features.5.4, resnet_layers[24], features.layer*. "
            "Repeat it. NAME:PATH is of one of several networks.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="HDF5 file to write.")],
    model: ModelsOption = ["resmem"],  # noqa: B006  typer copies it
    images: ImagesOption = None,
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="TYPE", help="float32 or float16.", rich_help_panel=_STORE),
    ] = "float32",
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            metavar="HOW",
            help="none, avg or max over height and width, or over tokens.",
            rich_help_panel=_STORE,
        ),
    ] = "none",
    tokens: Annotated[
        str,
        typer.Option(
            "--tokens",
            metavar="WHICH",
            help="Of transformers: all, cls, mean (of the patches) or cls+mean.",
            rich_help_panel=_STORE,
        ),
    ] = "all",
    flatten: Annotated[
        bool,
        typer.Option(
            "--flatten", metavar=FLAG, help="One vector an image.", rich_help_panel=_STORE
        ),
    ] = False,
    class_probabilities: Annotated[
        str | None,
        typer.Option(
            "--class-probabilities",
            metavar="FILE",
            help="Also write the most probable classes of each image, named, from --module output: "
            "a .csv or .json.",
            rich_help_panel=_STORE,
        ),
    ] = None,
    top: TopOption = 5,
    compression: Annotated[
        str,
        typer.Option(
            "--compression",
            metavar="HOW",
            help="none, or bitshuffle-lz4: a fifth smaller, several times slower.",
            rich_help_panel=_STORE,
        ),
    ] = "none",
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
    restart: RestartOption = False,
    extend: ExtendOption = False,
    shard: ShardOption = None,
    cluster: ClusterOption = None,
    cluster_workers: ClusterWorkersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store the activations of any modules of a network for your images in one HDF5 file.

    Example: extract --model resmem --module features.5.4 --images photos/ --out activations.h5
    """
    asked = requested("extract", locals())
    from ..config import ExtractRun, validated

    if weights is not None and len(model) > 1:
        raise RequestError("--weights is of one network; give --model once")

    run_extract(validated(ExtractRun, asked, "extract", as_option), as_json=as_json, quiet=quiet)


def run_extract(run: ExtractRun, *, as_json: bool, quiet: bool) -> None:
    """Do what a validated run asks, and print the summary."""
    from ..pipeline import classify, extract, extract_many

    if run.cluster_workers is not None and run.cluster is None:
        raise RequestError("--cluster-workers is of --cluster ray; give both")
    if run.class_probabilities is not None:
        _check_classes(run, run.class_probabilities)
    if run.weights is None and run.pretrained:
        fetch_missing(run.model, quiet)
    with progress_bar("extracting", f"loading {', '.join(run.model)}", quiet) as progress:
        shared: dict[str, Any] = {"out": run.out, "progress": progress, "tell": notes(quiet)}
        shared |= run.options()
        with told_of_interrupt(NO_IMAGE):
            if run.cluster is not None:
                summaries = _extract_on_cluster(run, shared)
            elif len(run.model) > 1:
                summaries = extract_many(run.model, run.module, run.images, **shared)
            else:
                summaries = [extract(run.model[0], run.module, run.images, **shared)]
    if run.class_probabilities is not None and not summaries[0].missing:
        classify(run.out, top=run.top, out=run.class_probabilities, overwrite=run.overwrite)
    if as_json:
        described = [_as_json(summary) for summary in summaries]
        print_json(described if len(run.model) > 1 else described[0])
    elif not quiet:
        for summary in summaries:
            _print(summary)


def _check_classes(run: ExtractRun, table: Path) -> None:
    """Refuse what class probabilities cannot be had of, before anything is computed."""
    from ..models import load_model
    from ..pipeline.classify import FORMATS, check_classes
    from ..pipeline.table_file import table_path

    table_path(table, FORMATS)
    if len(run.model) > 1:
        raise RequestError("--class-probabilities is of one network; give --model once")
    if "output" not in run.module:
        raise RequestError(
            "--class-probabilities needs what the network returns; add --module output"
        )
    if table.exists() and not run.out.exists() and not run.overwrite:
        raise RequestError(f"{table} exists; use --overwrite to replace it, or another name")
    about = {"transform": run.transform, "trust": run.trust}
    check_classes(load_model(run.model[0], structure_only=True, **about), run.reduction)


def _extract_on_cluster(run: ExtractRun, shared: dict[str, Any]) -> list[ExtractSummary]:
    from ..pipeline.cluster import extract_on_ray

    return extract_on_ray(
        run.model if len(run.model) > 1 else run.model[0],
        run.module,
        run.images,
        n_workers=run.cluster_workers,
        **shared,
    )


def _as_json(summary: ExtractSummary) -> dict[str, Any]:
    return {
        "file": str(summary.out),
        "already_complete": summary.already_complete,
        "model": summary.model,
        "images": summary.images,
        "modules": [
            {
                "path": spec.path,
                "requested": spec.requested,
                "shape": [summary.images, *spec.shape],
                "dtype": spec.dtype,
                "bytes": summary.images * spec.nbytes_per_image,
            }
            for spec in summary.modules
        ],
        "skipped": [{"id": i, "reason": reason} for i, reason in summary.skipped],
        "bytes": summary.bytes,
        "computed": summary.computed,
        "missing": summary.missing,
        "seconds": None if summary.already_complete else round(summary.seconds, 3),
        "images_per_second": (
            None if summary.already_complete else round(summary.images_per_second, 2)
        ),
        "engine": summary.engine,
        "device": summary.device,
    }


def _print(summary: ExtractSummary) -> None:
    from ..store import format_bytes
    from .tables import other_name, print_table

    if summary.already_complete:
        results.print(f"{summary.out} is already complete", markup=False)
    elif summary.missing:
        total = summary.images + summary.missing
        results.print(
            f"{summary.out}: {counted(summary.computed, 'image')} computed, {summary.images} of "
            f"{total} are done; other shards have {summary.missing} still to do",
            markup=False,
        )
        return
    else:
        results.print(
            f"{summary.out}: {counted(summary.images, 'image')}, {format_bytes(summary.bytes)}, "
            f"{summary.images_per_second:.1f} images/s ({summary.model}, {summary.engine} engine, "
            f"{summary.device})",
            markup=False,
        )
    rows = [
        (
            spec.path,
            other_name(spec.requested, spec.path),
            f"[{', '.join(map(str, (summary.images, *spec.shape)))}]",
            spec.dtype,
            format_bytes(summary.images * spec.nbytes_per_image),
        )
        for spec in summary.modules
    ]
    print_table(("module", "requested", "shape", "dtype", "size"), rows)
    for image_id, reason in summary.skipped:
        results.print(f"skipped {image_id}: {reason}", markup=False)
