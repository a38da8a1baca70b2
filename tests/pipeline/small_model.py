"""A network that is quick, and pictures for it: what tests of interrupted runs need many times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image
from torch import nn

import resmem_extract as rx

MODULES = ("conv", "output")


class Pixels:
    """Preprocessing to 32 x 32."""

    def image(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((32, 32)))

    def batch(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)

    def describe(self) -> dict[str, Any]:
        return {"size": [32, 32]}


class Small(nn.Module):
    """One convolution, `[8, 30, 30]`, and one number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def small(seed: int = 0, name: str = "small") -> rx.Model:
    return rx.Model(name, "tests", Small(seed).eval(), Pixels())


def draw_many(folder: Path, n: int) -> Path:
    """Write pictures, in several folders so that there is a column of labels."""
    rng = np.random.default_rng(n)
    for i in range(n):
        path = folder / f"{i % 3}" / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def contents(path: Path) -> dict[str, np.ndarray]:
    """Return all that has to be equal bit for bit, read by plain h5py."""
    with h5py.File(path) as file:
        assert file.attrs["complete"]
        found = {f"images/{name}": data[()] for name, data in file["images"].items()}
        found |= {f"skipped/{name}": data[()] for name, data in file.get("skipped", {}).items()}
        return found | {f"features/{name}": data[()] for name, data in file["features"].items()}


def assert_same(a: Path, b: Path) -> None:
    """See that two stores have the same ids, activations and columns."""
    ours, theirs = contents(a), contents(b)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
