"""How fast is the feature store: the writer against np.save, our chunks against others.

    python benchmarks/store.py --images 512 --rounds 5 --folder /tmp

The variants of a round run in turn, so that a slow moment of the disk hits all of them, and each
round begins with another, since the first after a sync is slow; medians over rounds count.
NumPy reserves a file's blocks before it writes, which is slow on some file systems; `file.write`
of the same bytes is listed for that reason. Files are removed again. Reading is from the
page cache: it shows the cost of the chunk's shape, not of the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import h5py
import machine
import numpy as np

from resmem_extract.store import StoreWriter, open_store
from resmem_extract.types import ActivationSpec

SHAPE = (512, 29, 29)
BATCH = 16
SPEC = ActivationSpec("m", "m", SHAPE, ("image", "channel", "height", "width"))
CHUNKS = {
    "8 x 32 (ours)": (8, 32, 29, 29),
    "4 x 64": (4, 64, 29, 29),
    "16 x 16": (16, 16, 29, 29),
    "rows only, 1 x 512": (1, 512, 29, 29),
    "channels only, 256 x 1": (256, 1, 29, 29),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    values = rng.standard_normal((arguments.images, *SHAPE), dtype=np.float32)
    np.maximum(values, 0, out=values)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = {
            "machine": {**machine.describe(), "hdf5": h5py.version.hdf5_version},
            "gigabytes": values.nbytes / 1e9,
            "writing": writing(Path(folder), values, arguments.rounds),
            "reading": reading(Path(folder), values, arguments.rounds),
        }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=1)
    else:
        report(figures)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def batches(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, n)) for start in range(0, n, BATCH))


def write(path: Path, values: np.ndarray, compression: str | None = None) -> None:
    n = len(values)
    with StoreWriter(path, [SPEC], n, compression=compression) as writer:
        for rows in batches(n):
            ids = [f"{i}.jpg" for i in range(rows.start, rows.stop)]
            writer.append(ids, ["0" * 64] * len(ids), {"m": values[rows]})
        writer.finish()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def save(path: Path, values: np.ndarray) -> None:
    np.save(path, values)


def write_bytes(path: Path, values: np.ndarray) -> None:
    path.write_bytes(values.data)


def save_and_sync(path: Path, values: np.ndarray) -> None:
    np.save(path, values)
    sync(path)


def write_without_sync(path: Path, values: np.ndarray) -> None:
    with mock.patch("os.fsync"):
        write(path, values)


def write_compressed(path: Path, values: np.ndarray) -> None:
    write(path, values, "bitshuffle-lz4")


def writing(folder: Path, values: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Return GB/s of every variant, and its median ratio to np.save of the same kind."""
    variants = {
        "np.save": (save, "np.save"),
        "file.write": (write_bytes, "np.save"),
        "StoreWriter, no fsync": (write_without_sync, "np.save"),
        "np.save + fsync": (save_and_sync, "np.save + fsync"),
        "StoreWriter": (write, "np.save + fsync"),
        "StoreWriter, bitshuffle-lz4": (write_compressed, "np.save + fsync"),
    }
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        if number == 1:  # the first round touched memory and disk for the first time
            taken = {name: [] for name in variants}
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            function = variants[name][0]
            path = folder / "w.npy"
            taken[name].append(seconds(lambda f=function, p=path: f(p, values)))
            path.unlink()
            os.sync()
    return {
        name: {
            "GB/s": values.nbytes / 1e9 / statistics.median(taken[name]),
            "ratio": statistics.median(
                theirs / ours for theirs, ours in zip(taken[base], taken[name], strict=True)
            ),
        }
        for name, (_, base) in variants.items()
    }


def reading(folder: Path, values: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Return, for every chunk shape, the times of writing and of three ways of reading."""
    rng = np.random.default_rng(1)
    n = len(values)
    chosen = rng.choice(n, min(64, n), replace=False)
    result = {}
    for name, chunk in CHUNKS.items():
        path = folder / "r.h5"
        chunk = (min(chunk[0], n), *chunk[1:])
        with mock.patch("resmem_extract.store.layout.chunk_shape", lambda *_, c=chunk: c):
            written = seconds(lambda p=path: write(p, values))
        ways: dict[str, Callable[[], object]] = {
            "64 images, ms": lambda p=path: ours(p, chosen),
            "16 channels, ms": lambda p=path: ours(p, np.s_[:, 100:116]),
            "all, ms": lambda p=path: stream(p),
            "64 images by h5py, ms": lambda p=path: plain(p, np.sort(chosen)),
            "16 channels by h5py, ms": lambda p=path: plain(p, np.s_[:, 100:116]),
        }
        result[name] = {"write, ms": 1e3 * written} | {
            way: 1e3 * statistics.median(seconds(function) for _ in range(rounds))
            for way, function in ways.items()
        }
        path.unlink()
    return result


def ours(path: Path, key: object) -> None:
    with open_store(path) as store:
        store["m"][key]


def stream(path: Path) -> None:
    with open_store(path) as store:
        for _ in store["m"].blocks():
            pass


def plain(path: Path, key: object) -> None:
    with h5py.File(path) as file:
        file["features/m"][key]


def report(figures: dict) -> None:
    print("; ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    print(f"float32 [N, 512, 29, 29], {figures['gigabytes']:.2f} GB, batches of {BATCH}; medians\n")
    for name, row in figures["writing"].items():
        print(f"{name:30}{row['GB/s']:8.2f} GB/s{row['ratio']:8.2f} of np.save")
    print()
    for name, row in figures["reading"].items():
        print(f"{name:24}", ", ".join(f"{way[:-4]} {value:.0f} ms" for way, value in row.items()))


if __name__ == "__main__":
    main()
