"""``bench``: what each stage of a run costs on this machine, and what would help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    BatchSizeOption,
    CompileOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    ModelOption,
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
)
from .terminal import notes, print_json, results

if TYPE_CHECKING:
    from ..pipeline.bench import BenchResult

__all__ = ["bench_command"]


def bench_command(
    module: Annotated[
        list[str],
        typer.Option("--module", metavar="PATH", help="Module, as for extract; repeatable."),
    ],
    model: ModelOption = "resmem",
    images: ImagesOption = None,
    n_images: Annotated[
        int,
        typer.Option(
            "--images-count",
            "-n",
            metavar="N",
            min=1,
            help="How many images to use, spread over all; repeated if there are fewer.",
        ),
    ] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where a run would write: its disk is measured, and nothing stays there. "
            "Default: the current folder.",
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    streams: StreamsOption = None,
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    compile_when: CompileOption = "off",
    weights: WeightsOption = None,
    unverified: UnverifiedOption = False,
    transform: TransformOption = None,
    pretrained: PretrainedOption = True,
    seed: SeedOption = 0,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Time decode, transform, forward and write on your machine; say what binds and what helps.

    Example: resmem-extract bench --model resmem --module features.5.4 --images photos/
    """
    from ..config import RunOptions, validated

    asked: dict[str, Any] = {
        "batch_size": batch_size,
        "streams": streams,
        "threads": threads,
        "workers": workers,
        "device": device,
        "precision": precision,
        "compile": compile_when,
        "weights": weights,
        "verify": not unverified,
        "transform": transform,
        "pretrained": pretrained,
        "seed": seed,
        "trust": trust,
    }
    validated(RunOptions, asked, "bench", as_option)
    from ..pipeline.bench import bench

    result = bench(
        model,
        module,
        images,
        n_images=n_images,
        folder=out.parent if out else Path(),
        tell=notes(quiet),
        **asked,
    )
    if as_json:
        print_json(_as_json(result))
    elif not quiet:
        _print(result)


def _as_json(result: BenchResult) -> dict[str, Any]:
    return {**dataclasses.asdict(result), "ratio": result.ratio}


def _print(result: BenchResult) -> None:
    from ..store import format_bytes
    from .tables import print_table

    results.print(
        f"{result.model} up to {', '.join(result.modules)}: {result.images} images, "
        f"{result.precision}, {result.engine} engine, {result.device}, {result.cores} cores",
        markup=False,
    )
    results.print(str(result.plan), markup=False)
    shown = {"decode": "decode (with reading)"}
    rows = [
        (
            shown.get(stage.name, stage.name),
            f"{stage.core_ms:.2f}",
            "device" if stage.on_device else "core",
            f"{stage.images_per_second:.1f}",
            "binds" if stage.name == result.binds else "",
        )
        for stage in result.stages
    ]
    print_table(("stage", "ms an image", "of one", "images/s alone", "it"), rows)
    results.print(
        f"together at most {result.bound:.1f} images/s; measured {result.measured:.1f}, "
        f"{result.ratio:.2f} of it; {format_bytes(result.bytes_per_image)} an image stored",
        markup=False,
    )
    for line in result.advice:
        results.print(f"- {line}", markup=False)
