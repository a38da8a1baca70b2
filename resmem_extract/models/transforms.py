"""Preprocessing that a user chooses in place of a network's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import RequestError, did_you_mean
from ..types import Preprocessing
from .objects import import_object
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Callback, ResizeAndCrop

__all__ = ["NAMED", "TransformChoice", "chosen_transform", "recorded_transform"]

TransformChoice = str | Callable[[Image.Image], Any] | Preprocessing | None

NAMED: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "imagenet": ResizeAndCrop(resize=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        "clip": ResizeAndCrop(
            resize=224,
            crop=224,
            interpolation="bicubic",
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        "resmem": ResizeAndCrop(resize=(256, 256), crop=227),
    }
)
"""By name: the usual one of ImageNet networks, OpenAI's of CLIP, and that of ResMem."""


def chosen_transform(choice: TransformChoice) -> Preprocessing | None:
    """Return the preprocessing that a user asked for, if one was.

    Parameters
    ----------
    choice : str, callable, Preprocessing or None
        A name of `NAMED`; or ``package.module:callable``, a function from a PIL image to a tensor
        `[channels, height, width]`, all of one shape; or such a function.

    Raises
    ------
    RequestError
        If it is neither, or does not give the same tensor twice.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice in NAMED:
            return NAMED[choice]
        if ":" not in choice:
            hint = did_you_mean(choice, list(NAMED), f"expected {', '.join(NAMED)}")
            raise RequestError(f"no transform {choice!r}: {hint}; or package.module:callable")
        return _wrapped(import_object(choice, "transform"), choice)
    return _wrapped(choice, getattr(choice, "__qualname__", None) or repr(choice))


def recorded_transform(described: Mapping[str, Any]) -> str | None:
    """Return the name of the transform that a provenance describes, if it has one.

    Parameters
    ----------
    described : mapping
        What `Preprocessing.describe` returned, also after a journey through JSON.
    """
    for name, preprocessing in NAMED.items():
        if preprocessing.describe() == described:
            return name
    name = str(described.get("transform", ""))
    return name if ":" in name else None


def _wrapped(found: Any, name: str) -> Preprocessing:
    if _is_preprocessing(found):
        return found  # type: ignore[no-any-return]
    if not callable(found):
        raise RequestError(f"transform {name}: expected a function from a PIL image to a tensor")
    return _checked(Callback(found, name))


def _is_preprocessing(value: object) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("image", "batch", "describe"))


def _checked(callback: Callback) -> Callback:
    """Raise unless a transform gives tensors, and always the same one for an image.

    Networks are often published with the transforms of their training, which crop at random.
    """
    noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    first, second = callback.image(image), callback.image(image)
    if not np.array_equal(first, second):
        raise RequestError(
            f"transform {callback.name}: gives different tensors for one image; is it the one of "
            "training?"
        )
    return callback
