"""``weights``: fetch, list and find checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..errors import RequestError
from .options import FLAG, JsonOption, QuietOption
from .tables import print_table
from .terminal import notes, print_json, results, stderr

if TYPE_CHECKING:
    from ..downloads import DownloadProgress
    from ..weights import WeightsFile

__all__ = ["fetch_command", "fetch_missing", "list_command", "path_command", "weights_app"]

weights_app = typer.Typer(
    no_args_is_help=True,
    help="Fetch, list and find checkpoints.\n\nExample: resmem-extract weights fetch resmem",
)


@weights_app.command("fetch")
def fetch_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Networks, as for --model; or run configurations, for all that they name.",
        ),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar=FLAG, help="Only say what would be fetched, and where."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download the weights of networks, for machines that have no internet later.

    What is here already is verified and stays; what was interrupted goes on where it stopped.

    Example: resmem-extract weights fetch torchvision/resnet50 configs/resmem_features.yaml
    """
    from ..downloads import fetch
    from ..weights import present

    found: list[dict[str, Any]] = []
    with _download_bar(quiet) as progress:
        for name in _networks(names):
            record = _record(name)
            if record is None:
                notes(quiet)(f"{name}: it has no file of weights, nothing is fetched")
            elif dry_run:
                here = present(record)
                found.append({"name": name, "path": str(here or ""), "url": record.address})
            else:
                located = fetch(record, progress)
                found.append({"name": name, "path": str(located.path), "sha256": located.sha256})
    if as_json:
        print_json(found)
    elif not quiet:
        for entry in found:
            place = entry["path"] or f"missing, would come from {entry['url'] or 'a package'}"
            results.print(f"{entry['name']}: {place}", markup=False)


@weights_app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the weights that are on this machine, wherever other programs left them.

    Example: resmem-extract weights list
    """
    from ..models import list_models
    from ..weights import present

    here: list[dict[str, Any]] = [
        {
            "name": model.name if i == 0 else f"{model.name}@{tag}",
            "bytes": path.stat().st_size,
            "path": str(path),
        }
        for model in list_models()
        for i, (tag, file) in enumerate(model.weights.items())
        if (path := present(file)) is not None
    ]
    if as_json:
        print_json(here)
        return
    from ..store import format_bytes

    rows = [(entry["name"], format_bytes(entry["bytes"]), entry["path"]) for entry in here]
    print_table(("name", "size", "path"), rows)


@weights_app.command("path")
def path_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network, as for --model.")],
    as_json: JsonOption = False,
) -> None:
    """Print where the weights of a network lie, verified; nothing is downloaded.

    Example: resmem-extract weights path resmem
    """
    from ..weights import find

    record = _record(name)
    if record is None:
        raise RequestError(f"{name} has no file of weights")
    located = find(record)
    if as_json:
        print_json({"name": name, "path": str(located.path), "sha256": located.sha256})
    else:
        typer.echo(str(located.path))


def _record(name: str) -> WeightsFile | None:
    from ..models import released_weights

    return released_weights(name)


def _networks(names: list[str]) -> list[str]:
    """Return the networks that are named, those in configuration files among them."""
    from ..config import RsaRun, read_config

    found: dict[str, None] = {}
    for name in names:
        if Path(name).suffix in (".yaml", ".yml"):
            run = read_config(Path(name))
            if not isinstance(run, RsaRun) and run.weights is None and run.pretrained:
                model = run.model
                found.update(dict.fromkeys([model] if isinstance(model, str) else model))
        else:
            found[name] = None
    return list(found)


def fetch_missing(names: list[str], quiet: bool) -> None:
    """Download what a job needs before it begins, with a bar; what is here is not looked at."""
    from ..downloads import fetch
    from ..weights import present

    for name in names:
        record = _record(name)
        if record is not None and record.address and not record.hint and not present(record):
            notes(quiet)(f"downloading {record.filename} from {record.address}")
            with _download_bar(quiet) as progress:
                fetch(record, progress)


@contextmanager
def _download_bar(quiet: bool) -> Iterator[DownloadProgress | None]:
    """Give a function to be told of downloads: a bar in a terminal, else nothing."""
    if quiet or not stderr.is_terminal:
        yield None
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total or None)
            bar.update(tasks[name], completed=done)

        yield update
