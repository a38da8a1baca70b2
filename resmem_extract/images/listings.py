"""Images that a list or a table names."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import RequestError, shown
from ..types import IdForm
from .names import identify
from .stimuli import StimulusSet
from .text_lists import Listing, is_file

__all__ = ["from_listing", "refuse_url"]


def from_listing(source: Path, name: str, listing: Listing, id_form: IdForm) -> StimulusSet:
    """Return the images that a list or CSV names, all of which must be there.

    Parameters
    ----------
    source : Path
        The list or CSV, or the folder from which relative paths are meant.
    name : str
        What it is called in messages.
    """
    folder = source if source.is_dir() else source.parent
    if not listing.paths:
        raise RequestError(f"no images in {name}; give one path a line")
    paths = tuple(folder / path for path in listing.paths)
    stimuli = StimulusSet(
        ids=listing.ids or tuple(identify(path, id_form) for path in listing.paths),
        images=paths,
        columns=listing.columns,
        root=str(source),
    )
    missing = [path for path in paths if not is_file(path)]
    if missing:
        refuse_url(listing.paths[paths.index(missing[0])])
        raise RequestError(
            f"{len(missing)} of the {len(paths)} files listed in {name} do not exist,"
            f" first {shown(missing[0])}; relative paths are meant from {shown(folder)}"
        )
    return stimuli


def refuse_url(text: str) -> None:
    """Raise if what does not exist is a URL; a `Path` has one '/' of it."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", text):
        raise RequestError(f"{shown(text)}: URLs are not fetched; download the images first")
