"""Voxels made from one layer of ResMem, and noise: an encoding model has to name that layer.

    python examples/encoding_voxels.py --out voxels/

Crops of the real photographs that scikit-image and scikit-learn carry go through ResMem. Voxels of
`V1` are random sums of the first stage's units, those of `IT` of the last one's, plus as much noise
as signal (SNR 1) in each of three repeats. The crops of a photograph stay together in the folds:
otherwise a model would be tested on what it has nearly seen.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

import resmem_extract as rx
from resmem_extract.report.encoding_figures import draw_encoding

MODULES = [f"features.layer{k}" for k in (1, 2, 3, 4)]
TRUE = {"V1": "features.layer1", "IT": "features.layer4"}
REPEATS = 3


def main() -> None:
    """Make images, activations and voxels, and hold the layers against them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--voxels", type=int, default=100, help="of each region")
    asked = parser.parse_args()
    run(asked.out, asked.images, asked.voxels)


def run(out: Path, n_images: int, n_voxels: int) -> dict[str, float]:
    """Return, for each region, the share of voxels whose true layer is named."""
    table = make_crops(out / "crops", n_images)
    store = out / "layers.h5"
    rx.extract("resmem", MODULES, table, out=store, pool="avg")
    make_voxels(store, out / "voxels.npz", n_voxels)
    result = rx.encode(
        store,
        responses=out / "voxels.npz",
        out=out / "encode",
        groups="photograph",
        folds=10,
        scale="zscore",
        overwrite=True,
    )
    draw_encoding(out / "encode", result, ["png"])
    shares = {}
    best = np.array([result.scores[k].module for k in result.best])
    for region, layer in TRUE.items():
        own = np.array(result.rois) == region
        shares[region] = float((best[own] == layer).mean())
        r = result.table[MODULES.index(layer), own].mean()
        print(
            f"{region}: {layer} is the best of {shares[region]:.0%} of {own.sum()} voxels; "
            f"mean r {r:.2f} of a ceiling of {result.ceiling[own].mean():.2f}"
        )
    return shares


def make_crops(folder: Path, n: int) -> Path:
    """Cut seeded crops, and return a table of them: `path`, `image_id`, `photograph`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    photographs = rx.sample_photographs()
    lines = []
    for k in range(n):
        which = k % len(photographs)
        with Image.open(photographs.paths[which]) as opened:
            source = opened.convert("RGB")
        size = int(min(source.size) * rng.uniform(0.3, 0.7))
        left, top = (int(rng.integers(side - size + 1)) for side in source.size)
        crop = source.crop((left, top, left + size, top + size)).resize((256, 256))
        crop.save(folder / f"{k:04d}.png")
        lines.append((f"{k:04d}.png", f"{k:04d}", photographs.ids[which]))
    with (folder / "crops.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "image_id", "photograph"), *lines])
    return folder / "crops.csv"


def make_voxels(store: Path, out: Path, n: int) -> None:
    """Write voxels `[repeats, images, n]` of each region, beside the ids of the images."""
    rng = np.random.default_rng(1)
    arrays = {}
    with rx.open_store(store) as opened:
        ids = opened.image_ids
        for region, layer in TRUE.items():
            x = opened[layer][:].astype(np.float64)
            x = (x - x.mean(axis=0)) / x.std(axis=0).clip(1e-6)
            signal = x @ rng.standard_normal((x.shape[1], n))
            signal /= signal.std(axis=0)
            arrays[region] = signal + rng.standard_normal((REPEATS, *signal.shape))
    np.savez(out, image_id=ids, **arrays)


if __name__ == "__main__":
    main()
