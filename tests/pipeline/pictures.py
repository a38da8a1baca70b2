"""Small pictures made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("a.jpg", "b.png", "c.jpg", "d.png", "e.jpg")


def draw(path: Path, seed: int) -> None:
    """Write a picture that differs from all others and compresses like a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(path)
