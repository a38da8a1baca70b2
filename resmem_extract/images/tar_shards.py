"""Images in tars: one, a folder of them, a pattern ``data-{000..009}.tar`` or ``shards/*.tar``."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted, shown
from ..types import IdForm
from .columns import typed
from .names import frequent_extensions, identify, is_image
from .stimuli import StimulusSet
from .tar_index import TarIndex, index_tar

__all__ = ["TAR_EXTENSION", "expand", "from_tars", "is_pattern"]

TAR_EXTENSION = ".tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_pattern(path: str) -> bool:
    """Tell whether a path stands for several tars."""
    return path.endswith(TAR_EXTENSION) and bool(
        _RANGE.search(path) or any(sign in path for sign in "*?[")
    )


def expand(pattern: str) -> list[Path]:
    """Return the tars that a pattern stands for: ranges in their order, else sorted by name.

    Raises
    ------
    RequestError
        One of a range is missing, or nothing matches.
    """
    shards: list[Path] = []
    for name in _ranges(pattern):
        found = [Path(name)] if Path(name).is_file() else _matches(name)
        if not found:
            raise RequestError(f"no file {shown(name)}; {shown(pattern)} stands for it")
        shards += found
    return shards


def _matches(name: str) -> list[Path]:
    return sorted(path for path in map(Path, glob.glob(name)) if path.is_file())  # noqa: PTH207


def _ranges(pattern: str) -> Iterator[str]:
    """Yield the names that ``{008..011}`` stands for, as the shell does: zeros are kept."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise RequestError(f"the range {found[0]} in {shown(pattern)} runs backwards")
    is_padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    for number in range(int(first), int(last) + 1):
        for tail in _ranges(pattern[found.end() :]):
            yield f"{pattern[: found.start()]}{number:0{width}d}{tail}"


def from_tars(paths: Sequence[Path], root: str, id_form: IdForm) -> StimulusSet:
    """Return all images in tars, in the order of the tars and of their members.

    Parameters
    ----------
    paths : sequence of Path
    root : str
        What the user gave.
    id_form : {"path", "stem"}
        An image is named by its path in the tar, or by that without folder and extension.

    Returns
    -------
    StimulusSet
        Columns are what ``.cls`` (`label`), ``.txt`` (`txt`) and ``.json`` (its fields) members say
        of the sample that an image belongs to, as far as they are numbers or short texts; without
        a `label`, and where images lie in folders, it is the folder.

    Raises
    ------
    RequestError
        A tar cannot be read, there is no image in any, or two images have one id.
    """
    indexes = [index_tar(path) for path in paths]
    images = [image for index in indexes for image in index.images]
    if not images:
        others = [name for index in indexes for name in index.others]
        held = f"; it holds {counted(len(others), 'other member')}" if others else ""
        kinds = f" ({frequent_extensions(others)})" if others else ""
        raise RequestError(f"no images in {shown(root)}{held}{kinds}")
    return StimulusSet(
        ids=tuple(identify(image.name, id_form) for image in images),
        images=tuple(images),
        columns=_columns(indexes),
        root=root,
        notes=tuple(_notes(indexes)),
    )


def _columns(indexes: Sequence[TarIndex]) -> dict[str, npt.NDArray[Any]]:
    """Return what is known of the images, empty where nothing is; a column is kept as a whole."""
    rows = [index.cells.get(key, {}) for index in indexes for key in index.keys]
    dropped = _dropped(indexes)
    names = dict.fromkeys(name for row in rows for name in row if name not in dropped)
    columns = {name: typed([row.get(name, "") for row in rows]) for name in names}
    folders = [image.name.rpartition("/")[0] for index in indexes for image in index.images]
    if "label" not in columns and any(folders):
        columns["label"] = np.array(folders, dtype=np.str_)
    return columns


def _dropped(indexes: Sequence[TarIndex]) -> set[str]:
    return {name for index in indexes for name in index.dropped}


def _notes(indexes: Sequence[TarIndex]) -> Iterator[str]:
    """Yield a line about each kind of thing that was left out."""
    others = [name for index in indexes for name in index.others]
    if others:
        are = "is no image" if len(others) == 1 else "are no images"
        kinds = frequent_extensions(others)
        yield f"{counted(len(others), 'member')} of the tars {are}, and left out ({kinds})"
    if links := [name for name in others if is_image(name)]:
        yield f"among them {counted(len(links), 'link')} to images (first: {shown(links[0])})"
    if dropped := sorted(_dropped(indexes)):
        yield (
            "what cannot be a column was left out (lists, long texts, names that a store uses):"
            f" {shown(', '.join(dropped))}"
        )
    for index in indexes:
        if not index.ends:
            yield f"{shown(index.path)} lacks the mark that ends a tar; was writing it interrupted?"
