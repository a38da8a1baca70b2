"""What all kinds of stimuli become: ordered images, each under an id of its own.

The id of an image is the key by which everything is joined later, so whatever would make a key
ambiguous is refused here, before any work has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from ..errors import RequestError, shown
from .names import check_id

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture", "StimulusSet"]


class Picture(Protocol):
    """One image that is no file of its own: a member of a tar, a row of a stack, an object."""

    @property
    def path(self) -> Path | None:
        """The file that it lies in, if it lies in one."""
        ...

    def read(self) -> bytes | Image.Image:
        """Return the bytes of an image file, or the picture itself, for the caller to keep.

        Several threads may call this at the same time.

        Raises
        ------
        OSError
            It cannot be read.
        """
        ...

    def __str__(self) -> str:
        """Return where it is, for messages: ``stack.h5:/imgBrick[7]``."""
        ...


@dataclass(frozen=True, eq=False)
class StimulusSet:
    """Ordered, uniquely named images.

    Raises
    ------
    RequestError
        An id cannot be a key: empty, too long, not UTF-8, of several lines, or given twice.
    ValueError
        Ids, images and columns differ in length.
    """

    ids: tuple[str, ...]
    """One unique key an image."""
    images: tuple[Path | Picture, ...]
    """The file of each image, or what else it can be read from."""
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """What else is known of the images: arrays of one value an image."""
    root: str = ""
    """What the user gave, as an absolute path, or a name."""
    notes: tuple[str, ...] = ()
    """What the user should be told, a line each."""

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.images), *map(len, self.columns.values())}
        if len(lengths) != 1:
            raise ValueError(f"ids, images and columns must have one length, not {sorted(lengths)}")
        for image_id in self.ids:
            check_id(image_id)
        _check_unique(self.ids, self.images)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read: that of each image, and each stack and tar once."""
        files = (image for image in self.images if isinstance(image, Path))
        shared = (image.path for image in self.images if not isinstance(image, Path))
        return (*files, *(path for path in dict.fromkeys(shared) if path is not None))

    def read(self, row: int) -> bytes | Image.Image:
        """Return the bytes of an image file, or the picture itself where it is in no file.

        Raises
        ------
        OSError
            It cannot be read.
        """
        image = self.images[row]
        return image.read_bytes() if isinstance(image, Path) else image.read()

    def take(self, rows: Sequence[int]) -> StimulusSet:
        """Return the images at some rows, in the order of `rows`."""
        return StimulusSet(
            tuple(self.ids[row] for row in rows),
            tuple(self.images[row] for row in rows),
            {name: values[list(rows)] for name, values in self.columns.items()},
            self.root,
            self.notes,
        )


def _check_unique(ids: Sequence[str], images: Sequence[Path | Picture]) -> None:
    """Raise if two images have one id."""
    first: dict[str, Path | Picture] = {}
    for image_id, image in zip(ids, images, strict=True):
        if image_id in first:
            same_file = str(image) == str(first[image_id])
            hint = "list each image once" + (
                "" if same_file else ", or name them by --id path or by the CSV column image_id"
            )
            raise RequestError(
                f"two images have the id {shown(image_id)}: {shown(first[image_id])} and"
                f" {shown(image)}; {hint if isinstance(image, Path) else 'rename one'}"
            )
        first[image_id] = image
