"""``verify``: whether a store is what was written, and can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption, QuietOption, StoreArgument, WeightsOption
from .terminal import notes, print_json, progress_bar, results

if TYPE_CHECKING:
    from ..pipeline.verify import Reproduction
    from ..store import Verification

__all__ = ["verify_command"]

_AGAIN = "Making a sample again"
_MOST_IDS = 3


def verify_command(
    file: StoreArgument,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="PATH",
            help="The images: make a sample of rows again, as the file says it was made.",
            rich_help_panel=_AGAIN,
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            metavar="N",
            help="Rows to make again, rounded up to whole batches.",
            rich_help_panel=_AGAIN,
        ),
    ] = 16,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Draws another sample.", rich_help_panel=_AGAIN),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="In place of the recorded one.",
            rich_help_panel=_AGAIN,
        ),
    ] = None,
    weights: WeightsOption = None,
    transform: Annotated[
        str | None,
        typer.Option(
            "--transform",
            metavar="NAME",
            help="How images were prepared, if the file cannot say; default: as it says.",
            rich_help_panel=_AGAIN,
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read a feature store and report what is damaged; exit code 1 if anything is.

    With --images, also say whether its activations come out the same here.

    Example: resmem-extract verify activations.h5 --images photos/ --sample 16
    """
    from ..store import verify_store

    with progress_bar("verifying", f"opening {file}", quiet, unit="bytes") as progress:
        found = verify_store(file, progress=progress)
    made = None
    if images is not None and found.intact:
        from ..pipeline import reproduce_store

        with progress_bar("making again", "loading the network", quiet) as progress:
            made = reproduce_store(
                file,
                images,
                sample=sample,
                seed=seed,
                weights=weights,
                transform=transform,
                device=device,
                progress=progress,
                tell=notes(quiet),
            )
    if as_json:
        again = {} if images is None else {"reproduction": made and made.describe()}
        print_json({**found.describe(), **again})
    elif not quiet:
        for line in (*_lines(found), *(_lines_of(made) if made else ())):
            results.print(line, markup=False)
        if made and made.modules:
            _print_modules(made)
    if not found.intact or (made and not made.reproducible):
        raise typer.Exit(1)


def _lines(found: Verification) -> Iterator[str]:
    """Yield what was found in the file."""
    from ..errors import counted
    from ..store import format_bytes

    if found.intact:
        what = f"{counted(found.images, 'image')}, {format_bytes(found.bytes)} of activations"
        if found.unchecked:
            yield f"{found.path}: can be read ({what}); it has no checksums, as older files"
        else:
            yield f"{found.path}: intact ({what}, {counted(found.chunks, 'chunk')})"
        return
    yield f"{found.path}: damaged"
    for name, reason in found.unreadable.items():
        yield f"{name}: cannot be read ({reason})"
    for name in found.changed:
        yield f"/{name}: is not what was written"
    for damage in found.damaged:
        first, stop = damage.rows
        yield (
            f"{damage.module}: rows {first} to {stop - 1} ({_some(damage.ids)}), "
            f"{counted(damage.chunks, 'chunk')}: {damage.reason}"
        )


def _lines_of(made: Reproduction) -> Iterator[str]:
    """Yield what came of making a sample again."""
    from ..errors import counted

    n = counted(len(made.sample), "image")
    verdict = "reproducible" if made.reproducible else "not reproducible"
    yield f"sample of {n}: {verdict} here"
    for words, ids in (
        ("not among the images given", made.missing),
        ("another SHA-256 than was recorded", made.changed),
    ):
        if ids:
            yield f"{counted(len(ids), 'image')}: {words} ({_some(ids)})"
    yield from (f"{image_id}: {reason}" for image_id, reason in made.unreadable)
    yield from made.differences
    yield from (f"note: {note}" for note in made.notes)


def _print_modules(made: Reproduction) -> None:
    from .tables import print_table

    rows = [
        (
            module.path,
            f"{module.deviation:.1e}",
            f"{module.bound:.1e}",
            "identical" if module.identical else "within" if module.within else "BEYOND",
        )
        for module in made.modules
    ]
    print_table(("module", "deviation", "bound", ""), rows)


def _some(ids: tuple[str, ...]) -> str:
    shown = ", ".join(ids[:_MOST_IDS]) or "ids cannot be read"
    return shown + (f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else "")
