"""What networks do to a photograph before they see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

__all__ = ["ResizeAndCrop"]


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize, crop the centre, scale 0..255 to 0..1: torchvision's transforms to the last bit.

    The equal of ``Compose([Resize(resize), CenterCrop(crop), ToTensor()])`` on a PIL image.
    Photographs stay bytes, channels last, until they are beside the network.
    """

    resize: tuple[int, int]
    """Height and width; the aspect ratio is not kept."""
    crop: int
    """Side of the central square."""

    def image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return an RGB photograph as bytes, `[crop, crop, 3]`."""
        height, width = self.resize
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
        return np.asarray(resized.crop((left, top, left + self.crop, top + self.crop)))

    def batch(self, images: npt.NDArray[Any]) -> torch.Tensor:
        """Return bytes `[n, crop, crop, 3]` as float32 `[n, 3, crop, crop]` in 0..1."""
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def describe(self) -> dict[str, Any]:
        """Return all that determines the numbers."""
        return {
            "colour": "RGB",
            "resize": list(self.resize),
            "interpolation": "bilinear, antialiased",
            "centre_crop": self.crop,
            "scale": "1/255",
        }
