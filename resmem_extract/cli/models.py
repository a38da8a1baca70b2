"""``models`` and ``modules``: what can be loaded, and what can be captured of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from .options import FLAG, JsonOption, ModelOption, TransformOption, TrustOption
from .tables import print_table
from .terminal import print_json, results

if TYPE_CHECKING:
    from ..models.entries import ModelEntry, SourceEntry

__all__ = ["models_command", "modules_command"]


def models_command(
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Only networks of this source.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            "--match",
            metavar="TEXT",
            help="Only networks whose name contains this, or matches it as a pattern with * and ?.",
        ),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", metavar=FLAG, help="Only weights that are on this machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the networks that can be loaded, with a line for each of their weights.

    NAME has the first of the weights, NAME@TAG others, NAME@random none.

    Example: resmem-extract models --source torchvision --match resnet
    """
    from ..models.catalogue import list_models
    from ..models.registry import all_sources, get_source

    if source is not None:
        get_source(source)  # which says what is missing
    described = [_described(model, here) for model in list_models(source, match)]
    found = [model for model in described if model["weights"] or not here]
    if as_json:
        print_json(found)
        return
    if not found and (source or match or here):
        asked = {"--source": source, "--match": match, "--here": "" if here else None}
        words = " ".join(f"{k} {v}".strip() for k, v in asked.items() if v is not None)
        raise RequestError(f"no networks for {words}; `resmem-extract models` lists all")
    print_table(("name", "here", "weights' licence"), [row for m in found for row in _rows(m)])
    if source is None and match is None and not here:
        results.print()
        lines = [_source_line(entry, found) for entry in all_sources().values()]
        print_table(("source", "networks", "what it is"), lines)


def _described(model: ModelEntry, here: bool) -> dict[str, Any]:
    """Return what is told of a network, as JSON values."""
    from ..weights import present

    located = {tag: present(file) for tag, file in model.weights.items()}
    return {
        "name": model.name,
        "source": model.source,
        "description": model.description,
        "licence": next(iter(file.licence for file in model.weights.values()), ""),
        "weights": [
            {
                "tag": tag,
                "here": located[tag] is not None,
                "path": str(located[tag] or ""),
                "bytes": file.size or None,
                "licence": file.licence,
                "url": file.address,
            }
            for tag, file in model.weights.items()
            if located[tag] is not None or not here
        ],
    }


def _rows(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (
            f"{model['name']}@{weights['tag']}" if len(model["weights"]) > 1 else model["name"],
            "yes" if weights["here"] else "",
            weights["licence"],
        )
        for weights in model["weights"]
    ]
    return rows or [(f"{model['name']}@random", "", "")]


def _source_line(entry: SourceEntry, found: list[dict[str, Any]]) -> tuple[str, str, str]:
    from ..models.registry import install_command, missing_packages

    number = sum(model["source"] == entry.name for model in found)
    shown = install_command(entry) if missing_packages(entry) else str(number)
    return entry.name, shown, entry.description


def modules_command(
    model: ModelOption = "resmem",
    match: Annotated[
        str | None,
        typer.Option(
            "--match", metavar="PATH", help="Only these: a path, or one with *, in any form."
        ),
    ] = None,
    transform: TransformOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """List a network's modules: path, index path, type, output shape, calls and bytes an image.

    Shapes are those of one image, at the last call of a module that is called more than once
    unless --match ends in @k.

    Example: resmem-extract modules --model resmem --match 'features.layer2.*'
    """
    from ..models import load_model

    loaded = load_model(model, structure_only=True, transform=transform, trust=trust)
    infos = loaded.list_modules(match)
    if as_json:
        print_json([dataclasses.asdict(info) for info in infos])
        return
    from ..store import format_bytes

    rows = [
        (
            info.path,
            info.index_path,
            info.type,
            "" if info.shape is None else str(list(info.shape)),
            info.calls,
            format_bytes(info.bytes) if info.bytes else "",
        )
        for info in infos
    ]
    columns = ("path", "index path", "type", "shape", "calls", "an image")
    print_table(columns, rows)
