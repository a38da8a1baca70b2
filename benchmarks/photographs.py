"""Make a folder of many different photographs out of the few that ship with other packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from resmem_extract.images import sample_photographs

__all__ = ["make_photographs"]


def make_photographs(folder: Path, n: int, width: int = 500, height: int = 400) -> Path:
    """Fill a folder with `n` JPEG files, seeded crops of real photographs, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in sample_photographs().paths]
    for i in range(n):
        source = sources[i % len(sources)]
        share = rng.uniform(0.5, 1.0)
        w, h = int(source.width * share), int(source.height * share)
        left, top = rng.integers(source.width - w + 1), rng.integers(source.height - h + 1)
        crop = source.crop((int(left), int(top), int(left) + w, int(top) + h))
        path = folder / f"{i:06d}.jpg"
        if not path.exists():
            crop.resize((width, height)).save(path, quality=90)
    return folder
