"""Images that are Python objects: pictures, arrays, data sets of torch, iterators."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..errors import RequestError, counted
from .spool import Spool
from .stacks import as_picture, check_pixels, from_stack, is_id
from .stimuli import StimulusSet

__all__ = ["ImageSequence", "ObjectStack", "from_objects"]

_ROOT = "Python objects"


class ImageSequence(Protocol):
    """Whatever has a length and gives an image by its number, as data sets of torch do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_objects(source: Any, ids: Iterable[Any] | None) -> StimulusSet:
    """Return images that are in memory, or are made when they are asked for.

    Parameters
    ----------
    source : object
        A picture; a stack `[N, H, W, 3]` or `[N, H, W]` of whatever indexes like NumPy; a list or
        another sequence of images, or of pairs (image, target); a list of pairs (id, image); a
        mapping from ids to images; or an iterable of images or of pairs (id, image), which is
        gone through once and kept in a temporary file.
    ids : iterable of str or int, optional
        One an image; by default those of pairs or of the mapping, else the decimal index.

    Raises
    ------
    RequestError
        Something is no image, there is none, or ids do not fit.
    WorkError
        The disk has no room for the images of an iterable.
    """
    if isinstance(source, Image.Image):
        return _from_sequence([source], ids)
    if isinstance(source, Mapping):
        return _from_sequence(list(source.values()), _only_ids(list(source), ids))
    if isinstance(source, (list, tuple)) and all(map(_is_pair, source)):
        named = [image_id for image_id, _ in source]
        return _from_sequence([image for _, image in source], _only_ids(named, ids))
    if isinstance(source, (str, bytes, bytearray, set, frozenset)):  # a set has no order
        raise RequestError(f"images: expected a path, got {type(source).__name__}")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _from_sequence(source, ids)
    if isinstance(source, Iterable):
        return _from_iterable(source, ids)
    raise RequestError(
        f"images: expected a path, a list of paths, pictures or arrays, got {type(source).__name__}"
    )


def _only_ids(named: list[Any], ids: object) -> list[Any]:
    """Return the ids that images come with; raise if others are given too."""
    if ids is not None:
        raise RequestError("images: they come with ids, and ids are given too; leave one out")
    return named


def _from_sequence(source: ImageSequence, ids: Iterable[Any] | None) -> StimulusSet:
    if _is_array(source):
        check_pixels(source.shape, source.dtype, "images")  # type: ignore[attr-defined]
    if not len(source):
        raise RequestError("no images in images; it is empty")
    stack = ObjectStack(source)
    if isinstance(source, (list, tuple)):
        for number, item in enumerate(source):
            _check(item, f"{stack}[{number}]")
    else:
        stack.check_first()
    return from_stack(stack, len(source), ids, root=_ROOT)


def _from_iterable(source: Iterable[Any], ids: Iterable[Any] | None) -> StimulusSet:
    spool = Spool()
    named: list[Any] = []
    for item in source:
        if _is_pair(item):
            named.append(item[0])
            item = item[1]
        spool.append(_content(item, f"{spool}[{len(spool)}]"))
    if not len(spool):
        raise RequestError("no images in images; an iterator gives its images only once")
    if named and len(named) < len(spool):
        raise RequestError("images: some come as a pair (id, image), and some without an id")
    note = (
        f"{counted(len(spool), 'image')} of an iterable, {spool.nbytes / 1e6:.0f} MB, put into a"
        " temporary file"
    )
    return from_stack(
        spool, len(spool), _only_ids(named, ids) if named else ids, (note,), root=_ROOT
    )


class ObjectStack:
    """Images of a sequence in Python, which one thread at a time asks for one.

    Data sets may hold open files, and pictures of Pillow read theirs when they are first used;
    neither bears two threads.

    Parameters
    ----------
    items : ImageSequence
    """

    path: Path | None = None

    def __init__(self, items: ImageSequence) -> None:
        self._items = items
        self._lock = threading.Lock()

    def check_first(self) -> None:
        """Raise a `RequestError` if the first item is no image."""
        try:
            item = self._items[0]
        except Exception as error:  # whatever the code of a data set raises
            raise RequestError(f"{self}[0] cannot be had ({_told(error)})") from error
        if _is_pair(item):
            raise RequestError(
                f"{self}: ids of pairs (id, image) have to be known beforehand; give ids=[...], or"
                " iter(images), which is gone through once and kept in a temporary file"
            )
        _check(item, f"{self}[0]")

    def read(self, index: int) -> bytes | Image.Image:
        """Return one image.

        Raises
        ------
        OSError
            It cannot be had, or is no image.
        """
        with self._lock:
            try:
                return _content(self._items[index], f"{self}[{index}]")
            except (OSError, MemoryError):
                raise
            except Exception as error:  # whatever the code of a data set raises
                raise OSError(_told(error)) from error

    def __str__(self) -> str:
        return "images"

    def __reduce__(self) -> tuple[type[ObjectStack], tuple[ImageSequence]]:
        return ObjectStack, (self._items,)


def _content(item: Any, name: str) -> bytes | Image.Image:
    """Return an item as the bytes of an image file, or as a picture that nobody else has."""
    _check(item, name)
    image = _without_target(item)
    if isinstance(image, bytes):
        return image
    return image.copy() if isinstance(image, Image.Image) else as_picture(image)


def _check(item: Any, name: str) -> None:
    """Raise unless an item is an image, or a tuple of one and what else is known of it."""
    image = _without_target(item)
    if isinstance(image, (bytes, Image.Image)):
        return
    if not _is_array(image):
        raise RequestError(
            f"{name}: expected a PIL image, a uint8 array or the bytes of an image file, got"
            f" {type(image).__name__}"
        )
    check_pixels(image.shape, image.dtype, name, first_axis="")


def _without_target(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) and item else item


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and is_id(item[0])


def _is_array(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
