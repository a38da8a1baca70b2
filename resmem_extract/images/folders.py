"""Images in and below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import RequestError, counted, shown
from ..types import IdForm
from .names import IMAGE_EXTENSIONS, extension, frequent_extensions, identify, is_image
from .stimuli import StimulusSet
from .tar_shards import TAR_EXTENSION, from_tars

__all__ = ["from_folder"]


def from_folder(folder: Path, id_form: IdForm) -> StimulusSet:
    """Return the images in and below a folder; those in its tars, if there are no others."""
    images: list[str] = []
    others: list[str] = []
    loops: list[str] = []
    for name, is_loop in _walk(folder):
        kind = loops if is_loop else images if is_image(name) else others
        kind.append(name)
    if not images:
        if tars := sorted(name for name in others if extension(name) == TAR_EXTENSION):
            return from_tars([folder / name for name in tars], str(folder), id_form)
        raise RequestError(_no_images(folder, others))
    # Sorted by path first, so that which of two clashing files is named first is reproducible.
    named = sorted((identify(name, id_form), name) for name in images)
    labels = [name.rpartition("/")[0] for _, name in named]
    return StimulusSet(
        ids=tuple(image_id for image_id, _ in named),
        images=tuple(folder / name for _, name in named),
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


def _folder_notes(folder: Path, others: Sequence[str], loops: Sequence[str]) -> Iterator[str]:
    """Yield a line about each kind of thing in the folder that was left out."""
    where, kinds = f"in {shown(folder.name)}/", frequent_extensions(others)
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


def _no_images(folder: Path, others: Sequence[str]) -> str:
    message = f"no images in {shown(folder)}"
    if others:
        message += (
            f"; it holds {counted(len(others), 'other file')} ({frequent_extensions(others)})"
        )
    return f"{message}; image files end in {' '.join(sorted(IMAGE_EXTENSIONS))}"
