"""What networks do to a photograph before they see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..errors import RequestError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Callback", "Interpolation", "ResizeAndCrop"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize, crop the centre, scale, normalise: torchvision's transforms to the last bit.

    The equal of ``Compose([Resize(resize), CenterCrop(crop), ToTensor(), Normalize(mean, std)])``
    on a PIL image. Photographs stay bytes, channels last, until they are beside the network.
    """

    resize: int | tuple[int, int] | None
    """The shorter side, the aspect ratio being kept; or height and width, in which case it is
    not; None for no resizing."""
    crop: int | tuple[int, int]
    """Side of the central square, or height and width; what is too small gets black margins."""
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] | None = None
    """Of the three channels in 0..1, subtracted; None for no normalisation."""
    std: tuple[float, ...] | None = None
    """Divided by."""

    def image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return an RGB photograph as bytes, `[height, width, 3]`."""
        if (size := self._resized(image)) != image.size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        height, width = self._crop
        if image.width < width or image.height < height:
            image = self._with_margins(image)
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return np.asarray(image.crop((left, top, left + width, top + height)))

    def batch(self, images: npt.NDArray[Any]) -> torch.Tensor:
        """Return bytes `[n, height, width, 3]` as float32 `[n, 3, height, width]`."""
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        if self.mean is not None and self.std is not None:
            batch.sub_(torch.tensor(self.mean).view(3, 1, 1))
            batch.div_(torch.tensor(self.std).view(3, 1, 1))
        return batch

    def describe(self) -> dict[str, Any]:
        """Return all that determines the numbers."""
        resize = list(self.resize) if isinstance(self.resize, tuple) else self.resize
        described: dict[str, Any] = {
            "colour": "RGB",
            "resize": resize,
            "interpolation": f"{self.interpolation}, antialiased",
            "centre_crop": list(self.crop) if isinstance(self.crop, tuple) else self.crop,
            "scale": "1/255",
        }
        if self.mean is not None and self.std is not None:
            described |= {"mean": list(self.mean), "std": list(self.std)}
        return described

    @property
    def _crop(self) -> tuple[int, int]:
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return width and height after resizing; of the longer side the fraction is cut off."""
        if self.resize is None:
            return image.size
        if isinstance(self.resize, tuple):
            height, width = self.resize
            return width, height
        short, long = sorted(image.size)
        longer = int(self.resize * long / short)
        return (self.resize, longer) if image.width <= image.height else (longer, self.resize)

    def _with_margins(self, image: Image.Image) -> Image.Image:
        """Pad with black, an odd pixel more at right and bottom, as torchvision's CenterCrop."""
        height, width = self._crop
        missing = max(width - image.width, 0), max(height - image.height, 0)
        padded = Image.new("RGB", (image.width + missing[0], image.height + missing[1]))
        padded.paste(image, (missing[0] // 2, missing[1] // 2))
        return padded


@dataclass(frozen=True)
class Callback:
    """Any function from a PIL image to a tensor `[channels, height, width]`, as it is.

    What it returns travels as float32, four times the bytes of a photograph.
    """

    function: Callable[[Image.Image], Any]
    name: str
    """By which it is recorded: ``package.module:name``, or what it prints as."""

    def image(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Return what the function makes of an RGB photograph.

        Raises
        ------
        RequestError
            If that is no tensor of one image.
        """
        made = self.function(image)
        if not isinstance(made, (torch.Tensor, np.ndarray)) or made.ndim < 3:
            shape = f" {list(made.shape)}" if hasattr(made, "shape") else ""
            raise RequestError(
                f"transform {self.name}: expected a tensor [channels, height, width], got "
                f"{type(made).__name__}{shape}"
            )
        array = made.numpy() if isinstance(made, torch.Tensor) else made
        return array.astype(np.float32, copy=False)

    def batch(self, images: npt.NDArray[Any]) -> torch.Tensor:
        """Return stacked tensors as they are."""
        return torch.from_numpy(np.ascontiguousarray(images))

    def describe(self) -> dict[str, Any]:
        """Return the name, and what the function prints as if that tells more than an address."""
        shown = repr(self.function)
        return {"transform": self.name} | ({} if " at 0x" in shown else {"parameters": shown})
