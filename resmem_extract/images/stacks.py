"""Stacks: many pictures in one array, `[N, H, W, 3]` or `[N, H, W]`, whatever holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import RequestError, counted, shown
from .stimuli import StimulusSet

__all__ = ["Row", "Stack", "as_picture", "check_pixels", "checked_ids", "from_stack", "is_id"]


class Stack(Protocol):
    """Images that are read by number, from 0 on."""

    @property
    def path(self) -> Path | None:
        """The file that holds them, if one does."""
        ...

    def read(self, index: int) -> bytes | Image.Image:
        """Return one image; the contract is that of `stimuli.Picture.read`."""
        ...

    def __str__(self) -> str:
        """Return what the stack is called in messages."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a stack, a `stimuli.Picture`."""

    stack: Stack
    index: int

    @property
    def path(self) -> Path | None:
        """The file that holds the stack, if one does."""
        return self.stack.path

    def read(self) -> bytes | Image.Image:
        """Return the image."""
        return self.stack.read(self.index)

    def __str__(self) -> str:
        return f"{self.stack}[{self.index}]"


def from_stack(
    stack: Stack,
    n_images: int,
    ids: Iterable[Any] | None,
    notes: tuple[str, ...] = (),
    root: str | None = None,
) -> StimulusSet:
    """Return all images of a stack, named by their number where they have no ids.

    Raises
    ------
    RequestError
        Ids are not one an image, or not fit to be keys.
    """
    numbers = range(n_images)
    return StimulusSet(
        ids=checked_ids(numbers if ids is None else ids, n_images, str(stack)),
        images=tuple(Row(stack, index) for index in numbers),
        root=str(stack) if root is None else root,
        notes=notes,
    )


def as_picture(values: Any) -> Image.Image:
    """Return uint8 `[H, W, 3]` or `[H, W]` as a picture."""
    return Image.fromarray(np.ascontiguousarray(values))


def check_pixels(shape: Sequence[int], dtype: object, name: str, first_axis: str = "N, ") -> None:
    """Raise unless an array is a stack of 8-bit pictures.

    Parameters
    ----------
    shape : sequence of int
    dtype : object
        Whatever is written ``uint8``; that of torch has ``torch.`` before it.
    name : str
        What the array is called in the message.
    first_axis : str
        How the message begins a shape; empty for one picture, `[H, W, 3]` or `[H, W]`.

    Raises
    ------
    RequestError
        One line that says what was expected, and how to get there.
    """
    kind, axes = str(dtype).removeprefix("torch."), tuple(shape)
    got = f"[{', '.join(map(str, axes))}]"
    if hint := _kind_hint(kind) or _shape_hint(axes if first_axis else (1, *axes)):
        raise RequestError(
            f"{shown(name)}: expected uint8 [{first_axis}H, W, 3], or [{first_axis}H, W] for grey,"
            f" got {kind} {got}; {hint}"
        )
    if 0 in axes:
        raise RequestError(f"no images in {shown(name)}: its shape is {got}")


def _kind_hint(kind: str) -> str | None:
    """Return what helps where values are no bytes."""
    if kind == "uint8":
        return None
    if "float" in kind:
        return (
            "floating-point values have no fixed range; where it is 0..1, give"
            " (255 * x).round().astype('uint8')"
        )
    if kind in ("uint16", ">u2"):
        return "(x >> 8).astype('uint8') keeps the high byte, as for files of 16 bits"
    if "int" in kind or kind == "bool":
        return "convert it to 8 bits"
    return "pictures of different sizes, and paths, are given as a list"


def _shape_hint(shape: tuple[int, ...]) -> str | None:
    """Return what helps where a shape is not that of a stack of pictures."""
    if len(shape) == 3 and shape[2] not in (3, 4):
        return None
    if len(shape) == 3:
        return "is it one picture? x[None] is a stack of one"
    if len(shape) != 4:
        return "one axis of images comes first, then height and width"
    if shape[3] == 3:
        return None
    if shape[3] == 1:
        return "x[..., 0] is grey without an axis of channels"
    if shape[3] == 4:
        return "x[..., :3] is without transparency"
    if shape[1] == 3:
        return "channels come last: x.transpose(0, 2, 3, 1)"
    return "there are three channels, red, green and blue"


def checked_ids(ids: Iterable[Any], n_images: int, name: str) -> tuple[str, ...]:
    """Return ids as text: strings, UTF-8 bytes or integers, one an image.

    Raises
    ------
    RequestError
        There are more or fewer of them than images, or they are something else.
    """
    values = np.asarray(ids).tolist() if hasattr(ids, "dtype") else list(ids)
    if len(values) != n_images:
        raise RequestError(
            f"{shown(name)}: {counted(len(values), 'id')} for {counted(n_images, 'image')};"
            " give each image one"
        )
    return tuple(_as_id(value, name) for value in values)


def is_id(value: object) -> bool:
    """Tell whether a value can be an id: text, UTF-8 bytes or an integer."""
    return isinstance(value, (str, bytes, int, np.integer)) and not isinstance(value, bool)


def _as_id(value: Any, name: str) -> str:
    if not is_id(value):
        raise RequestError(f"{shown(name)}: ids are text or integers, not {type(value).__name__}")
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"{shown(name)}: the id {value!r} is not valid UTF-8") from error
