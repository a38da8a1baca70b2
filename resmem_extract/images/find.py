"""What the user gives as images -> a `StimulusSet`. No image is opened; `decoding` does that."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError, given_path, shown
from ..types import IdForm
from .folders import from_folder
from .listings import from_listing, refuse_url
from .names import extension, identify, is_image, is_utf8
from .numpy_stacks import from_npy, from_npz
from .python_images import ImageSequence, from_objects
from .stacks import checked_ids
from .stimuli import StimulusSet
from .tar_shards import TAR_EXTENSION, expand, from_tars, is_pattern
from .text_lists import Listing, is_file, read_csv, read_list

__all__ = ["Source", "find_images", "find_named"]

_CSV_EXTENSIONS = frozenset({".csv", ".tsv"})
_STACK_EXTENSIONS = frozenset({".h5", ".hdf5", ".hdf", ".he5", ".npy", ".npz", ".nwb"})
_SOURCES = (
    "a folder, an image, a text list of paths, a CSV with a column 'path', a stack (FILE.h5,"
    " FILE.h5:/DATASET, FILE.npy, FILE.npz) or tars (FILE.tar, 'data-{000..009}.tar')"
)

Source = str | os.PathLike[str] | Iterable[Any] | ImageSequence
"""What can stand for images."""


def find_images(
    source: Source | StimulusSet, *, id_form: IdForm = "path", ids: Iterable[Any] | None = None
) -> StimulusSet:
    """Find the images that `source` stands for, and name them.

    Parameters
    ----------
    source : path, paths, pictures or arrays
        A folder (searched recursively, sorted by id; links to folders are followed, hidden files
        and folders are not), an image, a CSV (.csv, .tsv) with the column `path`, or a text list
        with one path a line. Relative paths in a CSV or list are meant from its own folder, those
        in a list of Python from the current one.

        A stack of pictures, uint8 `[N, H, W, 3]`, or `[N, H, W]` for grey: the data set `imgBrick`
        of an HDF5 file, or another one as ``FILE.h5:/path/to/dataset``; the array of a `.npy` or
        `.npz` file, one of several as ``FILE.npz:/name``.

        Tars: one, a folder of them, a list of them, or a pattern such as ``data-{000..009}.tar`` or
        ``shards/*.tar``.

        In Python also images themselves (PIL, uint8 `[H, W, 3]` or `[H, W]`, or the bytes of an
        image file): one, an array of them, a list, any other sequence with ``__len__`` and
        ``__getitem__``, a mapping from ids to images, or an iterator of images or of pairs
        (id, image), which is gone through at once and kept in a temporary file.
    id_form : {"path", "stem"}
        An image is named by its path in the folder or tar, or as the CSV or list has it; `stem`
        drops folder and extension. Ids that are given as such are taken as they are.
    ids : iterable of str or int, optional
        One an image, for stacks and for lists in Python. By default those of an array `image_id` or
        `id` beside a stack, else the decimal index.

    Returns
    -------
    StimulusSet
        In the order of the stack, tars, CSV or list, or of the ids as strings. A folder that holds
        images in sub-folders gives the column `label`, the sub-folder's path ("" at the top).

    Raises
    ------
    RequestError
        There is no image, a listed file is missing, something is no image or no stack of them, or
        ids are not fit to be keys.
    WorkError
        The disk has no room for a temporary file that is needed.
    """
    if id_form not in ("path", "stem"):
        raise RequestError(f"the form of ids is 'path' or 'stem', not {id_form!r}")
    if isinstance(source, StimulusSet):
        _refuse_ids(ids)
        return source
    if isinstance(source, (str, os.PathLike)):
        return _from_path(given_path(source, "images"), id_form, ids)
    if isinstance(source, Iterator):
        source = _paths_or_iterator(source)
    if isinstance(source, (list, tuple)) and (not source or any(map(_is_path, source))):
        return _from_paths(source, id_form, ids)
    return from_objects(source, ids)


def find_named(source: Source | StimulusSet, ids: Collection[str]) -> StimulusSet:
    """Find images that have been named before: by path or stem, as more of the ids are found.

    Parameters
    ----------
    source : path, paths, pictures, arrays or StimulusSet
        As of `find_images`.
    ids : collection of str

    Returns
    -------
    StimulusSet
        All images; perhaps without some of the ids.

    Raises
    ------
    RequestError, WorkError
        As of `find_images`.
    """
    named = find_images(source)
    if set(ids) <= set(named.ids) or not isinstance(source, (str, os.PathLike)):
        return named
    try:
        by_stem = find_images(source, id_form="stem")
    except RequestError:  # two files of one stem
        return named
    return max(named, by_stem, key=lambda stimuli: len(set(ids) & set(stimuli.ids)))


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def _paths_or_iterator(source: Iterator[Any]) -> Iterable[Any]:
    """Return all of an iterator if it begins with a path, else an iterator like it."""
    for first in source:
        whole = itertools.chain([first], source)
        return list(whole) if _is_path(first) else whole
    return source


def _from_paths(source: Sequence[Any], id_form: IdForm, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the images, or the tars, that a list of Python names."""
    paths = [str(given_path(path, "images")) for path in source]
    if paths and all(extension(path) == TAR_EXTENSION for path in paths):
        _refuse_ids(ids)
        root = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        return from_tars([_existing(Path(path)) for path in paths], root, id_form)
    named = None if ids is None else checked_ids(ids, len(paths), "images")
    return from_listing(Path.cwd(), "images", Listing(tuple(paths), named), id_form)


def _from_path(given: Path, id_form: IdForm, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the images that a path stands for."""
    path, array = _split(given.absolute())
    if array is None and is_pattern(str(path)) and not is_file(path):
        refuse_url(str(given))
        _refuse_ids(ids)
        return from_tars(expand(str(path)), str(path), id_form)
    path = _existing(given if array is None else path)
    if array is not None or (extension(path.name) in _STACK_EXTENSIONS and not path.is_dir()):
        return _from_stack_file(path, array, ids)
    _refuse_ids(ids)
    if path.is_dir():
        return from_folder(path, id_form)
    if extension(path.name) == TAR_EXTENSION:
        return from_tars([path], str(path), id_form)
    if is_image(path.name):
        return StimulusSet((identify(path.name, id_form),), (path,), root=str(path))
    listing = read_csv(path) if extension(path.name) in _CSV_EXTENSIONS else read_list(path)
    return from_listing(path, shown(path), listing, id_form)


def _split(path: Path) -> tuple[Path, str | None]:
    """Return a file and the array in it that ``FILE.h5:/DATASET`` means, else the path and None."""
    file, _, array = str(path).rpartition(":/")
    if file and is_file(Path(file)) and not is_file(path):
        return Path(file), array
    return path, None


def _existing(given: Path) -> Path:
    """Return an absolute path to something that is there."""
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


def _from_stack_file(path: Path, array: str | None, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the pictures of an array in a file; any file may be HDF5 if the array is named."""
    kind = extension(path.name)
    if kind == ".npz":
        return from_npz(path, array, ids)
    if kind == ".npy" and array is None:
        return from_npy(path, ids)
    from .hdf5_stacks import from_hdf5  # here, because h5py takes a while to import

    return from_hdf5(path, array, ids)


def _refuse_ids(ids: object) -> None:
    if ids is not None:
        raise RequestError(
            "ids are given for stacks, and for images and paths in Python; other images are named"
            " by their path, or by a CSV with the columns path and image_id"
        )
