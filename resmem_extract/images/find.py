"""What the user gives as images -> a `StimulusSet`. No image is opened; `decoding` does that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ..errors import RequestError, given_path, shown
from ..types import IdForm
from .folders import from_folder
from .listings import from_listing, refuse_url
from .names import identify, is_image, is_utf8
from .stimuli import StimulusSet
from .text_lists import Listing, read_csv, read_list

__all__ = ["Source", "find_images"]

_CSV_EXTENSIONS = frozenset({".csv", ".tsv"})
_SOURCES = "a folder, an image, a text list of paths, or a CSV with a column 'path'"

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""What can stand for images: a path, or a list or tuple of paths."""


def find_images(source: Source, *, id_form: IdForm = "path") -> StimulusSet:
    """Find the images that `source` stands for, and name them.

    Parameters
    ----------
    source : path, or list or tuple of paths
        A folder (searched recursively, sorted by id; links to folders are followed, hidden files
        and folders are not), an image, a CSV (.csv, .tsv) with the column `path`, or a text list
        with one path a line. Relative paths in a CSV or list are meant from its own folder, those
        in a list of Python from the current one.
    id_form : {"path", "stem"}
        An image is named by its path in the folder, or as the CSV or list has it; `stem` drops
        folder and extension. Ids of a CSV column `image_id` are taken as they are.

    Returns
    -------
    StimulusSet
        In the order of the CSV or list, or of the ids as strings. A folder that holds images in
        sub-folders gives the column `label`, the sub-folder's path ("" at the top).

    Raises
    ------
    RequestError
        There is no image, a listed file is missing, or ids are not fit to be keys.
    """
    if id_form not in ("path", "stem"):
        raise RequestError(f"the form of ids is 'path' or 'stem', not {id_form!r}")
    if isinstance(source, (list, tuple)):
        paths = tuple(str(given_path(path, "images")) for path in source)
        return from_listing(Path.cwd(), "images", Listing(paths), id_form)
    path = _existing(cast("str | os.PathLike[str]", source))
    if path.is_dir():
        return from_folder(path, id_form)
    if is_image(path.name):
        return StimulusSet((identify(path.name, id_form),), (path,), root=str(path))
    is_csv = path.suffix.lower() in _CSV_EXTENSIONS
    listing = read_csv(path) if is_csv else read_list(path)
    return from_listing(path, shown(path), listing, id_form)


def _existing(source: str | os.PathLike[str]) -> Path:
    """Return `source` as an absolute path to something that is there."""
    if hasattr(source, "__array__"):
        raise RequestError("images: arrays cannot be given yet; save them as files, such as PNG")
    given = given_path(source, "images")
    path = given.absolute()
    try:
        path.stat()
    except (OSError, ValueError) as error:
        refuse_url(str(given))
        problem = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"{shown(path)}: {problem}; give {_SOURCES}") from error
    if not is_utf8(str(path)):
        raise RequestError(f"the path {str(path)!a} is not valid UTF-8; rename it")
    return path
