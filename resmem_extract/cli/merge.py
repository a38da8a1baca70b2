"""``merge``: stores into one."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import FLAG, JsonOption, OverwriteOption, QuietOption
from .terminal import notes, print_json, progress_bar, results

__all__ = ["merge_command"]


def merge_command(
    files: Annotated[
        list[str], typer.Argument(metavar="PART", help="Feature stores, parts or others.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="HDF5 file to write.")],
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            metavar=FLAG,
            help="Merge parts of one split although some are missing; the result is a part again.",
        ),
    ] = False,
    delete_parts: Annotated[
        bool,
        typer.Option(
            "--delete-parts",
            metavar=FLAG,
            help="Delete the parts once the result was read again and equals what they held.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge feature stores into one.

    Parts of one split, in any order, become the file that was split. Others must have been made in
    the same way: different images follow one another in the order given, different modules of the
    same images are joined by id.

    Example: resmem-extract merge parts/*.h5 --out activations.h5
    """
    from ..errors import counted
    from ..store import format_bytes, merge_stores

    with progress_bar("merging", "reading the parts", quiet, unit="bytes") as progress:
        merged = merge_stores(
            files,
            out,
            partial=partial,
            overwrite=overwrite,
            delete_parts=delete_parts,
            progress=progress,
            tell=notes(quiet),
        )
    if as_json:
        deleted = [str(path) for path in merged.deleted]
        print_json({**vars(merged), "path": str(merged.path), "deleted": deleted})
    elif merged.already_complete and not quiet:
        results.print(f"{merged.path} is already complete", markup=False)
    elif not quiet:
        equal = "; equal to the file that was split, by its checksums" if merged.restored else ""
        results.print(
            f"{merged.path}: {counted(merged.images, 'image')}, "
            f"{counted(len(merged.modules), 'module')}, {format_bytes(merged.bytes)}{equal}",
            markup=False,
        )
    if merged.deleted and not quiet and not as_json:
        results.print(f"deleted {counted(len(merged.deleted), 'file')}", markup=False)
