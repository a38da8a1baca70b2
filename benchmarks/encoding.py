"""Encoding models: speed and memory against himalaya, size, and what simulations must show.

    python benchmarks/encoding.py speed                      # 2,000 x 100,000 x 1,000
    python benchmarks/encoding.py size                       # 10,000 x 430,592 x 20,000, hours
    python benchmarks/encoding.py size --features 20000 --targets 1000 --folds 1
    python benchmarks/encoding.py layers --pool avg          # the true layer named, at SNR 1
    python benchmarks/encoding.py layers --pool avg --photographs FOLDER
    python benchmarks/encoding.py null                       # p of targets of noise

`size` reads through a synthetic reader that makes the bytes of a store as they are asked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from machine import one_line

from resmem_extract.compare import false_discovery_rate
from resmem_extract.encoding import (
    Chance,
    FeatureOptions,
    Fold,
    cross_validate,
    dual,
    kfolds,
    place_on,
    ridge,
    ridge_models,
)
from resmem_extract.encoding.basis import from_products
from resmem_extract.gram import grams
from resmem_extract.store import StoreWriter, open_store
from resmem_extract.types import ActivationSpec

PENALTIES = np.logspace(1, 7, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "ours", "himalaya", "size", "layers", "null"])
    parser.add_argument("--images", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--targets", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--memory", default="400MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--photographs", type=Path, help="a folder; crops of twenty by default")
    parser.add_argument("--pool", choices=["none", "avg", "max"], default="none")
    asked = parser.parse_args()
    if asked.what not in ("ours", "himalaya"):
        print(one_line())
    ways = {"speed": speed, "ours": ours, "himalaya": himalaya, "size": size}
    {**ways, "layers": layers, "null": null}[asked.what](asked)


# Against himalaya, each way in a process of its own


def speed(asked: argparse.Namespace) -> None:
    n, p, t = asked.images or 2000, asked.features or 100_000, asked.targets or 1000
    print(f"{n} images x {p} features x {t} targets, 10 penalties, 5 folds; medians")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features.h5"
        write(store, n, p)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "himalaya": []}
        for _ in range(asked.rounds):
            for way, runs in found.items():
                arguments = ["--store", store, "--targets", t, "--memory", asked.memory]
                command = [sys.executable, __file__, way, *map(str, arguments)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {
        way: {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
        for way, runs in found.items()
    }
    for way, one in middle.items():
        print(f"{way:10} {one['seconds']:6.2f} s   peak {one['peak']:5.2f} GB   {one['check']:.6f}")
    a, b = middle["ours"], middle["himalaya"]
    print(
        f"time {a['seconds'] / b['seconds']:.2f}, memory {a['peak'] / b['peak']:.2f} of himalaya's"
    )


def write(path: Path, n: int, p: int) -> None:
    spec = ActivationSpec("features", "features", (p,), ("image", "unit"))
    with StoreWriter(path, [spec], n) as writer:
        for start in range(0, n, 100):
            rows = range(start, min(start + 100, n))
            rng = np.random.default_rng(start)
            block = rng.standard_normal((len(rows), p), dtype=np.float32)
            writer.append([f"{k:06d}" for k in rows], ["0" * 64] * len(rows), {"features": block})
        writer.finish({}, provenance={"model": "benchmark"})


def responses(n: int, t: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, t)).astype(np.float32)


def inner(n: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array_split(np.arange(n), 5))


def ours(asked: argparse.Namespace) -> None:
    """Fit as `KernelRidgeCV.fit` does, from the file."""
    with open_store(asked.store) as store:
        rows = store["features"]
        n = rows.shape[0]
        y = responses(n, asked.targets)
        started = time.perf_counter()
        products = grams(rows, memory=asked.memory)["plain"].products
        everything = np.arange(n)
        fold = Fold("all", everything, everything[:0], inner(n))
        basis = from_products(products, everything, fold, place_on())
        found = ridge(basis, y, fold.inner, PENALTIES)
        made = dual(basis, y, found.penalties)
    report(time.perf_counter() - started, made)


def himalaya(asked: argparse.Namespace) -> None:
    """Fit in memory, on PyTorch; reading the file is not counted."""
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    backend = set_backend("torch")
    with open_store(asked.store) as store:
        x = store["features"][:]
    y = responses(len(x), asked.targets)
    started = time.perf_counter()
    model = KernelRidgeCV(PENALTIES, cv=5, fit_intercept=True)
    model.fit(backend.asarray(x), backend.asarray(y))
    report(time.perf_counter() - started, backend.to_numpy(model.dual_coef_))


def report(seconds: float, made: np.ndarray) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": seconds, "peak": peak, "check": float(np.abs(made).mean()) * 1e3}))


# Size


class Synthetic:
    """Activations that are made when they are asked for: as many bytes, no file."""

    dtype = np.dtype(np.float32)

    def __init__(self, n: int, p: int) -> None:
        self.shape = (n, p)
        self._noise = np.random.default_rng(0).standard_normal(2**22, dtype=np.float32)
        self._offsets = np.random.default_rng(1).integers(0, 2**20, n)
        self.spent = 0.0

    def __getitem__(self, key: tuple) -> np.ndarray:
        started = time.perf_counter()
        rows = np.arange(self.shape[0])[key[0]] if isinstance(key, tuple) else key
        start, stop, _ = key[1].indices(self.shape[1])
        block = np.empty((len(rows), stop - start), dtype=np.float32)
        width = stop - start
        for place, row in enumerate(rows):
            at = (self._offsets[row] + start * 7919) % (len(self._noise) - width)
            block[place] = self._noise[at : at + width]
        self.spent += time.perf_counter() - started
        return block


def size(asked: argparse.Namespace) -> None:
    n, p, t = asked.images or 10_000, asked.features or 430_592, asked.targets or 20_000
    ids = [f"{k:06d}" for k in range(n)]
    folds = list(kfolds(ids, 5))[: asked.folds]
    y = responses(n, t)
    rows = Synthetic(n, p)
    print(f"{n} images x {p} features x {t} targets, {len(folds)} of 5 outer folds, 10 penalties")
    rate = {dtype: gemm(dtype) for dtype in (np.float32, np.float64)}
    started = time.perf_counter()
    options = FeatureOptions(form="kernel", memory="3.5GB")
    models = ridge_models(rows, np.arange(n), folds, options, place_on(), PENALTIES)
    marks = [time.perf_counter()]
    found = cross_validate(models, y, progress=lambda: marks.append(time.perf_counter()))
    seconds = time.perf_counter() - started
    train = len(folds[0].train)
    products = n * n * p / rate[np.float32]  # each pair once
    each = (11 * 2 * train**2 * t + 2 * (n - train) * train * t) / rate[np.float64]
    print(f"mean r {np.nanmean(found.mean_r):.4f}")
    print(f"all {seconds:.0f} s, of it making the features {rows.spent:.0f} s")
    print(f"folds {[round(b - a) for a, b in itertools.pairwise(marks)]} s")
    bound = products + each * len(folds)
    print(
        f"products of matrices alone: {bound:.0f} s ({products:.0f} s of features in float32, "
        f"{each:.0f} s a fold in float64), at {rate[np.float32] / 1e9:.0f} and "
        f"{rate[np.float64] / 1e9:.0f} GFLOP/s"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def gemm(dtype: type) -> float:
    a = np.ones((3000, 3000), dtype=dtype)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return 2 * 3000**3 / min(times)


# Simulations


def layers(asked: argparse.Namespace) -> None:
    """Make voxels from each of five layers of ResMem at SNR 1; count how often it is named."""
    import resmem_extract as rx

    t = asked.targets or 200
    modules = ["relu2", *(f"features.layer{k}" for k in (1, 2, 3, 4))]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        images = some_photographs(asked, folder)
        rx.extract("resmem", modules, images, out=folder / "f.h5", pool=asked.pool)
        rng = np.random.default_rng(1)
        with open_store(folder / "f.h5") as store:
            n, ids = len(store), store.image_ids
            voxels = {
                name: signals_of(store[name], t) + rng.standard_normal((n, t)) for name in store
            }
        regions = {name.replace(".", "_"): values for name, values in voxels.items()}
        np.savez(folder / "voxels.npz", image_id=ids, **regions)
        found = rx.encode(folder / "f.h5", responses=folder / "voxels.npz")
        print(f"{n} photographs, pool {asked.pool}, {t} voxels of each layer")
        for place, name in enumerate(voxels):
            module = [scored.module for scored in found.scores].index(name)
            own = slice(place * t, (place + 1) * t)
            named, r = (found.best[own] == module).mean(), found.table[module, own].mean()
            print(f"{name:20} named for {named:6.1%}, mean r {r:.3f}")


def some_photographs(asked: argparse.Namespace, folder: Path) -> Path:
    """Return a folder of the first photographs of those given, or of crops of a few."""
    from photographs import make_photographs

    if asked.photographs is None:
        return make_photographs(folder / "photographs", asked.images or 400)
    chosen = folder / "photographs"
    chosen.mkdir()
    for path in sorted(asked.photographs.iterdir())[: asked.images or 400]:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            (chosen / path.name).symlink_to(path.resolve())
    return chosen


def signals_of(rows: h5py.Dataset, t: int) -> np.ndarray:
    """Return sums of all features with weights of chance, each of variance 1, `[n, t]`.

    They are drawn by what they covary: the inner products of images.
    """
    products = grams(rows)["plain"].products
    centred = products - products.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(centred)
    drawn = np.random.default_rng(0).standard_normal((len(values), t))
    signals = vectors @ (np.sqrt(values.clip(0))[:, None] * drawn)
    return signals / signals.std(axis=0)


def null(asked: argparse.Namespace) -> None:
    """Score targets of noise."""
    import scipy.stats

    n, t = asked.images or 100, asked.targets or 4000
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 300)) @ np.diag(np.arange(1, 301) ** -0.7)
    y = rng.standard_normal((n, t))
    folds = list(kfolds([f"{k:04d}" for k in range(n)]))
    made = ridge_models(x, np.arange(n), folds, FeatureOptions(), place_on())
    found = cross_validate(made, y, Chance(199, np.arange(n)[:, None]))
    low, high = scipy.stats.binom.interval(0.95, t, 0.05)
    print(
        f"{t} targets of noise, {n} images, 199 permutations: p <= 0.05 for "
        f"{(found.p <= 0.05).sum()} (95 % interval {low:.0f} to {high:.0f}), after correction "
        f"{(false_discovery_rate(found.p) <= 0.05).sum()}; mean r {found.mean_r.mean():.4f}"
    )


if __name__ == "__main__":
    main()
