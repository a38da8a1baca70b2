"""Options that several commands share, each with its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

__all__ = [
    "FLAG",
    "BatchSizeOption",
    "ClusterOption",
    "ClusterWorkersOption",
    "CompileOption",
    "DeviceOption",
    "EngineOption",
    "ExifOption",
    "ExtendOption",
    "IdOption",
    "ImagesOption",
    "JsonOption",
    "ModelOption",
    "ModelsOption",
    "ModulesOption",
    "OnErrorOption",
    "OverwriteOption",
    "PrecisionOption",
    "PretrainedOption",
    "QuietOption",
    "RestartOption",
    "SeedOption",
    "ShardOption",
    "StoreArgument",
    "StoresArgument",
    "StreamsOption",
    "ThreadsOption",
    "TransformOption",
    "TrustOption",
    "UnverifiedOption",
    "WeightsOption",
    "WorkersOption",
    "as_option",
    "requested",
]

_NETWORK = "Which network, filled with what"
_RUN = "How images go through the network"
_OVER_TIME = "Interrupted, growing and shared runs"
FLAG = ""
"""Metavar of an option without a value; typer would print its type."""


_RENAMED = {"id_form": "id", "compile_when": "compile"}  # what Python reserves, or builds in
_HOW_TO_PRINT = ("as_json", "quiet")


def requested(command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments, its `locals()`, as the keys of a run configuration.

    What was not given is left out, so that the configuration's own defaults hold.
    """
    asked = {
        _RENAMED.get(name, name): value
        for name, value in arguments.items()
        if name not in _HOW_TO_PRINT and value is not None
    }
    if "unverified" in asked:
        asked["verify"] = not asked.pop("unverified")
    return {"command": command, **asked}


def as_option(key: str) -> str:
    """Return how a key of a configuration is typed: ``batch_size`` is ``--batch-size``."""
    return "--" + key.replace("_", "-")


StoresArgument = Annotated[
    list[str], typer.Argument(metavar="STORE...", help="Feature stores, one a network.")
]
ModulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--module",
        metavar="PATH",
        help="Module path or pattern, of any store that has it; default: all. Repeat it.",
    ),
]
StoreArgument = Annotated[str, typer.Argument(metavar="FILE", help="A feature store.")]
_MODEL_HELP = (
    "Network: resmem, torchvision/resnet50, torchvision/resnet50@IMAGENET1K_V1, "
    "package.module:factory; `resmem-extract models` lists all."
)
ModelOption = Annotated[str, typer.Option("--model", metavar="NAME", help=_MODEL_HELP)]
ModelsOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="NAME",
        help=f"{_MODEL_HELP} Repeat it for several networks: images are decoded once, and --out "
        "is a folder.",
    ),
]
ImagesOption = Annotated[
    str | None,  # as typed: an empty `Path` would be the current folder
    typer.Option(
        "--images",
        metavar="PATH",
        help="A folder, a text list of paths, a CSV with a column 'path', or an image; a stack in "
        "FILE.h5 (FILE.h5:/DATASET), FILE.npy or FILE.npz; tars: FILE.tar, a folder of them, or "
        "'data-{000..009}.tar'. Default: the photographs inside scikit-image and scikit-learn.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Checkpoint to use; default: the released one, downloaded if it is not here.",
        rich_help_panel=_NETWORK,
    ),
]
UnverifiedOption = Annotated[
    bool,
    typer.Option(
        "--unverified",
        metavar=FLAG,
        help="Accept --weights of your own, which have another SHA-256 than the released ones.",
        rich_help_panel=_NETWORK,
    ),
]
TransformOption = Annotated[
    str | None,
    typer.Option(
        "--transform",
        metavar="NAME",
        help="How images are prepared: imagenet, clip, resmem or package.module:callable; "
        "default: the network's own way.",
        rich_help_panel=_NETWORK,
    ),
]
PretrainedOption = Annotated[
    bool,
    typer.Option(
        "--pretrained/--random",
        metavar=FLAG,
        help="Trained weights, or random ones as a baseline, as NAME@random has.",
        rich_help_panel=_NETWORK,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Of random weights.", rich_help_panel=_NETWORK),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        metavar=FLAG,
        help="Allow code from elsewhere to run: torch.hub, checkpoints that are not plain tensors.",
        rich_help_panel=_NETWORK,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", metavar=FLAG, help="Replace an existing --out.")
]
RestartOption = Annotated[
    bool,
    typer.Option(
        "--restart",
        metavar=FLAG,
        help="Forget what an interrupted run of this --out has done; it is continued otherwise.",
        rich_help_panel=_OVER_TIME,
    ),
]
ExtendOption = Annotated[
    bool,
    typer.Option(
        "--extend",
        metavar=FLAG,
        help="Add images that an existing --out does not hold yet.",
        rich_help_panel=_OVER_TIME,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do one of N shares of the images, on any machine that sees --out; the last one joins "
        "them.",
        rich_help_panel=_OVER_TIME,
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="ray: share the images out over the machines of a Ray cluster, with one progress bar.",
        rich_help_panel=_OVER_TIME,
    ),
]
ClusterWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--cluster-workers",
        metavar="N",
        help="Processes on the cluster. Default: one for each GPU, or for each machine.",
        rich_help_panel=_OVER_TIME,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print the result as JSON.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", metavar=FLAG, help="Print nothing but errors.")
]

BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Images in one pass; this and the next three are chosen from the machine.",
        rich_help_panel=_RUN,
    ),
]
StreamsOption = Annotated[
    int | None,
    typer.Option(
        "--streams",
        metavar="N",
        help="Batches in the network at the same time.",
        rich_help_panel=_RUN,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads that work on one batch.",
        rich_help_panel=_RUN,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps; cuda:0,cuda:1 for several GPUs.",
        rich_help_panel=_RUN,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="auto, fused, graph (pruned), hooks (early stop) or reference (plain hooks, full "
        "network).",
        rich_help_panel=_RUN,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Threads that decode images; 0 decodes in the main thread.",
        rich_help_panel=_RUN,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="float32, bfloat16, float16 or (CUDA) tf32; what is stored has --dtype.",
        rich_help_panel=_RUN,
    ),
]
CompileOption = Annotated[
    str,
    typer.Option(
        "--compile",
        metavar="WHEN",
        help="auto (if it saves more time than it takes), on or off.",
        rich_help_panel=_RUN,
    ),
]
OnErrorOption = Annotated[
    str,
    typer.Option(
        "--on-error",
        metavar="WHAT",
        help="stop, or skip: leave images that cannot be read out, and list them.",
        rich_help_panel=_RUN,
    ),
]
IdOption = Annotated[
    str,
    typer.Option(
        "--id",
        metavar="FORM",
        help="path, or stem: an image's id without folder and extension.",
        rich_help_panel=_RUN,
    ),
]
ExifOption = Annotated[
    bool,
    typer.Option(
        "--exif-orientation",
        metavar=FLAG,
        help="Turn photographs upright first; networks were trained without.",
        rich_help_panel=_RUN,
    ),
]
