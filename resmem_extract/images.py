"""Finding stimuli and naming them: a folder, one image, a list or a CSV -> a `StimulusSet`.

The id of an image is the key by which everything is joined later, so whatever would make a key
ambiguous is refused here, before any work has begun. No image is opened; `decoding` does that.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from .errors import RequestError, counted, given_path
from .image_lists import Listing, is_file, read_csv, read_list, shown

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_ID_BYTES",
    "IdForm",
    "StimulusSet",
    "find_images",
    "sample_photographs",
]

IdForm = Literal["path", "stem"]

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})
"""What the name of an image in a folder ends in, in either case."""

MAX_ID_BYTES = 1024
"""The longest id, in bytes of UTF-8; ids are stored at one fixed length."""

_CSV_EXTENSIONS = frozenset({".csv", ".tsv"})
_SOURCES = "a folder, an image, a text list of paths, or a CSV with a column 'path'"
_SAMPLES = {
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "skimage": ("data", (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
        "moon.png", "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg",
        "rocket.jpg",
    )),
}
"""Package -> folder and names of its photographs; drawings and test charts are left out."""
# fmt: on


@dataclass(frozen=True, eq=False)
class StimulusSet:
    """Ordered, uniquely named images.

    Raises
    ------
    RequestError
        An id cannot be a key: empty, too long, not UTF-8, of several lines, or given twice.
    ValueError
        Ids, paths and columns differ in length.
    """

    ids: tuple[str, ...]
    """One unique key an image."""
    paths: tuple[Path, ...]
    """The file of each image."""
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """What else is known of the images: arrays of one value an image."""
    root: str = ""
    """What the user gave, as an absolute path, or a name."""
    notes: tuple[str, ...] = ()
    """What the user should be told, a line each."""

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.paths), *map(len, self.columns.values())}
        if len(lengths) != 1:
            raise ValueError(f"ids, paths and columns must have one length, not {sorted(lengths)}")
        for image_id in self.ids:
            _check_id(image_id)
        _check_unique(self.ids, self.paths)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> StimulusSet:
        """Return the images at some rows, in the order of `rows`."""
        return StimulusSet(
            tuple(self.ids[row] for row in rows),
            tuple(self.paths[row] for row in rows),
            {name: values[list(rows)] for name, values in self.columns.items()},
            self.root,
            self.notes,
        )


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
        return _from_listing(Path.cwd(), "images", Listing(paths), id_form)
    path = _existing(cast("str | os.PathLike[str]", source))
    if path.is_dir():
        return _from_folder(path, id_form)
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return StimulusSet((_identify(path.name, id_form),), (path,), root=str(path))
    is_csv = path.suffix.lower() in _CSV_EXTENSIONS
    listing = read_csv(path) if is_csv else read_list(path)
    return _from_listing(path, shown(path), listing, id_form)


def sample_photographs() -> StimulusSet:
    """Return the real photographs that come with scikit-learn and scikit-image.

    The packages are located, not imported.

    Returns
    -------
    StimulusSet
        With ids such as ``sklearn/china.jpg``.

    Raises
    ------
    RequestError
        Neither package is installed.
    """
    found = {
        f"{package}/{name}": folder / subfolder / name
        for package, (subfolder, names) in sorted(_SAMPLES.items())
        for folder in _package_folders(package)
        for name in names
        if (folder / subfolder / name).is_file()
    }
    if not found:
        raise RequestError("no sample photographs are installed; type: pip install scikit-image")
    note = f"{len(found)} real photographs that installed packages bring along"
    if not any(image_id.startswith("skimage/") for image_id in found):
        note += "; `pip install scikit-image` gives more"
    return StimulusSet(
        tuple(found), tuple(found.values()), root="sample photographs", notes=(note,)
    )


def _existing(source: str | os.PathLike[str]) -> Path:
    """Return `source` as an absolute path to something that is there."""
    if hasattr(source, "__array__"):
        raise RequestError("images: arrays cannot be given yet; save them as files, such as PNG")
    given = given_path(source, "images")
    path = given.absolute()
    try:
        path.stat()
    except (OSError, ValueError) as error:
        _refuse_url(str(given))
        problem = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"{shown(path)}: {problem}; give {_SOURCES}") from error
    if not _is_utf8(str(path)):
        raise RequestError(f"the path {str(path)!a} is not valid UTF-8; rename it")
    return path


def _from_folder(folder: Path, id_form: IdForm) -> StimulusSet:
    """Return the images in and below a folder."""
    images: list[str] = []
    others: list[str] = []
    loops: list[str] = []
    for name, is_loop in _walk(folder):
        kind = loops if is_loop else images if _extension(name) in IMAGE_EXTENSIONS else others
        kind.append(name)
    if not images:
        raise RequestError(_no_images(folder, others))
    # Sorted by path first, so that which of two clashing files is named first is reproducible.
    named = sorted((_identify(name, id_form), name) for name in images)
    labels = [name.rpartition("/")[0] for _, name in named]
    return StimulusSet(
        ids=tuple(image_id for image_id, _ in named),
        paths=tuple(folder / name for _, name in named),
        columns={"label": np.array(labels, dtype=np.str_)} if any(labels) else {},
        root=str(folder),
        notes=tuple(_folder_notes(folder, others, loops)),
    )


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield each visible file below `folder` as its relative path and False.

    Links to folders are followed, except those that lead back to a folder they lie in; these are
    yielded as their own path and True.
    """
    pending = [(str(folder), "", frozenset[tuple[int, int]]())]
    while pending:
        path, prefix, above = pending.pop()
        identity, entries = _list_folder(path)
        if identity in above:
            yield prefix.rstrip("/"), True
            continue
        for entry in entries:
            if _is_folder(entry):
                pending.append((entry.path, f"{prefix}{entry.name}/", above | {identity}))
            elif _is_readable_kind(entry):
                yield prefix + entry.name, False


def _list_folder(path: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """Return what identifies a folder on this machine, and its visible entries."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a million Path objects would cost more than the walk
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise RequestError(
            f"the folder {shown(path)} cannot be read: {error.strerror}; grant access or move it"
        ) from error
    return (status.st_dev, status.st_ino), visible


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_readable_kind(entry: os.DirEntry[str]) -> bool:
    """Tell files and links (a broken one is reported when it is read) from pipes and devices."""
    return entry.is_symlink() or entry.is_file()


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _folder_notes(folder: Path, others: Sequence[str], loops: Sequence[str]) -> Iterator[str]:
    """Yield a line about each kind of thing in the folder that was left out."""
    where, kinds = f"in {shown(folder.name)}/", _extensions(others)
    if len(others) == 1:
        yield f"1 file {where} is not an image by its extension and was left out ({kinds})"
    elif others:
        yield (
            f"{len(others)} files {where} are not images by their extension and were left out"
            f" ({kinds})"
        )
    if loops:
        yield (
            f"links that lead back to a folder they lie in were not followed: {len(loops)}"
            f" (first: {shown(min(loops))})"
        )


def _extensions(names: Iterable[str]) -> str:
    """Return the most frequent extensions among `names`, for a message."""
    counts = Counter(_extension(name) or "no extension" for name in names)
    frequent = sorted(counts, key=lambda extension: (-counts[extension], extension))
    return shown(", ".join(frequent[:5]) + (", ..." if len(frequent) > 5 else ""))


def _no_images(folder: Path, others: Sequence[str]) -> str:
    message = f"no images in {shown(folder)}"
    if others:
        message += f"; it holds {counted(len(others), 'other file')} ({_extensions(others)})"
    return f"{message}; image files end in {' '.join(sorted(IMAGE_EXTENSIONS))}"


def _from_listing(source: Path, name: str, listing: Listing, id_form: IdForm) -> StimulusSet:
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
    stimuli = StimulusSet(
        ids=listing.ids or tuple(_identify(path, id_form) for path in listing.paths),
        paths=tuple(folder / path for path in listing.paths),
        columns=listing.columns,
        root=str(source),
    )
    missing = [path for path in stimuli.paths if not is_file(path)]
    if missing:
        _refuse_url(listing.paths[stimuli.paths.index(missing[0])])
        raise RequestError(
            f"{len(missing)} of the {len(stimuli)} files listed in {name} do not exist,"
            f" first {shown(missing[0])}; relative paths are meant from {shown(folder)}"
        )
    return stimuli


def _refuse_url(text: str) -> None:
    """Raise if what does not exist is a URL; a `Path` has one '/' of it."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", text):
        raise RequestError(f"{shown(text)}: URLs are not fetched; download the images first")


def _identify(name: str, id_form: IdForm) -> str:
    return PurePosixPath(name).stem if id_form == "stem" else name


def _check_id(image_id: str) -> None:
    """Raise if an id cannot be stored and written, one a line, as it is."""
    if not _is_utf8(image_id):
        raise RequestError(f"the image name {image_id!a} is not valid UTF-8; rename it")
    if any(character in image_id for character in "\0\n\r"):
        raise RequestError(f"the image id {image_id!a} holds a NUL or a newline; rename it")
    if not image_id:
        raise RequestError("an image id is empty; name every image")
    if len(image_id.encode()) > MAX_ID_BYTES:
        raise RequestError(
            f"the image id {shown(image_id[:60])}... is {len(image_id.encode())} bytes long, more"
            f" than {MAX_ID_BYTES}; use shorter names, or --id stem"
        )


def _is_utf8(text: str) -> bool:
    """Tell whether a name that the file system gave was UTF-8 (others hold lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_unique(ids: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise if two images have one id."""
    first: dict[str, Path] = {}
    for image_id, path in zip(ids, paths, strict=True):
        if image_id in first:
            raise RequestError(
                f"two images have the id {shown(image_id)}: {shown(first[image_id])} and"
                f" {shown(path)}; list each image once, or name them by --id path or by the CSV"
                " column image_id"
            )
        first[image_id] = path


def _package_folders(package: str) -> list[Path]:
    """Return where an installed package lies, without executing it; nothing if it is absent."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a stand-in without a spec is in its place
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
