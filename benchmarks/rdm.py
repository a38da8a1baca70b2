"""RDMs: against NumPy's recipe in memory, rsatoolbox, and the matrix product alone.

    python benchmarks/rdm.py                        # in memory, 1,000 images x 100,000 features
    python benchmarks/rdm.py --only streamed        # from a store, 4,000 x 430,592, 2 GB of memory
    python benchmarks/rdm.py --only scaling         # cost against the number of images
    python benchmarks/rdm.py --only sampled         # a sample of pairs instead, 2,048 features

The recipe is what one writes: patterns less their means, divided by their lengths, and 1 minus
``Z @ Z.T``, all in float32. The bound of the streamed case is that product alone, of blocks in
memory. What is compared runs in turn, and ratios are of medians; each streamed run is a process of
its own, whose peak memory the system tells.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np

from resmem_extract.compare import METRICS, PairSample, rdm
from resmem_extract.store import StoreWriter, open_store
from resmem_extract.types import ActivationSpec

SHAPE = (512, 29, 29)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("memory", "streamed", "scaling", "sampled"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--stored-images", type=int, default=4000)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-rsatoolbox", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one_streamed(arguments.one, arguments.memory)
        return
    print(machine.one_line())
    for part in (memory, streamed, scaling, sampled):
        if arguments.only in (None, part.__name__):
            part(arguments)


def memory(arguments: argparse.Namespace) -> None:
    features = made(arguments.images, arguments.features)
    ways: dict[str, Callable[[], object]] = {"NumPy's recipe": lambda: recipe(features)}
    ways |= {f"rdm {metric}": lambda m=metric: rdm(features, m) for metric in METRICS}
    print(f"\n{arguments.images} images x {arguments.features} features, in memory")
    seconds = in_turn(ways, arguments.rounds)
    usual = seconds["NumPy's recipe"]
    for way, spent in seconds.items():
        print(f"  {way:18} {spent:8.2f} s   {usual / spent:6.2f} of the recipe's speed")
    found = rdm(features, "correlation").square()
    print(f"  largest difference from the recipe: {np.abs(found - recipe(features)).max():.1e}")
    if not arguments.no_rsatoolbox:
        import rsatoolbox

        dataset = rsatoolbox.data.Dataset(features)
        started = time.perf_counter()
        rsatoolbox.rdm.calc_rdm(dataset, method="correlation")
        spent = time.perf_counter() - started
        print(
            f"  {'rsatoolbox':18} {spent:8.2f} s   rdm is {spent / seconds['rdm correlation']:.0f} "
            "times as fast"
        )


def recipe(features: np.ndarray) -> np.ndarray:
    z = features - features.mean(axis=1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return 1 - z @ z.T


def streamed(arguments: argparse.Namespace) -> None:
    n, p = arguments.stored_images, int(np.prod(SHAPE))
    path = arguments.folder / f"benchmark-rdm-{n}.h5"
    write(path, n)
    try:
        command = [sys.executable, __file__, "--one", str(path), "--memory", arguments.memory]
        print(f"\n{n} images x {p} features from a store, memory {arguments.memory}", flush=True)
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")
    finally:
        path.unlink()
    block = made(n, 8192)
    spent = in_turn({"product": lambda: block @ block.T}, 3)["product"]
    print(f"  the products alone would take {spent * p / 8192:.1f} s")


def one_streamed(path: Path, budget: str) -> None:
    with open_store(path) as store:
        started = time.perf_counter()
        rdm(store["features.layer2.4"], "correlation", memory=budget)
        spent = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"  correlation: {spent:.1f} s, peak memory of the process {peak:.2f} GB")


def write(path: Path, n: int) -> None:
    spec = ActivationSpec("features.layer2.4", "x", SHAPE, ("image", "channel", "height", "width"))
    with StoreWriter(path, [spec], n) as writer:
        for start in range(0, n, 64):
            rows = range(start, min(start + 64, n))
            block = made(len(rows), int(np.prod(SHAPE)), seed=start).reshape(-1, *SHAPE)
            writer.append([f"{k:06d}" for k in rows], ["0" * 64] * len(rows), {spec.path: block})
        writer.finish(provenance={"model": "benchmark"})


def scaling(arguments: argparse.Namespace) -> None:
    print("\ncorrelation, 50,000 features in memory")
    for n in (250, 500, 1000, 2000, 4000):
        features = made(n, 50_000)
        spent = in_turn({"rdm": lambda f=features: rdm(f, "correlation")}, 3)["rdm"]
        rate = n * n * 50_000 / spent / 1e9
        print(f"  {n:5} images {spent:8.2f} s   {rate:6.0f} GFLOP/s of multiplying each pair once")


def sampled(arguments: argparse.Namespace) -> None:
    print("\ncorrelation of a sample of pairs, 2,048 features in memory")
    for n in (10_000, 100_000):
        features = made(n, 2048)
        ids = [str(k) for k in range(n)]
        for n_pairs in (100_000, 1_000_000):
            pairs = PairSample.draw(ids, n_pairs)
            started = time.perf_counter()
            pairs.dissimilarities(features, ids=ids, memory=arguments.memory)
            spent = time.perf_counter() - started
            print(f"  {n:7} images, {n_pairs:8} pairs {spent:8.2f} s", flush=True)


def made(n: int, p: int, seed: int = 0) -> np.ndarray:
    """Return features as behind a ReLU: their means differ, and half of them are zero."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, p), dtype=np.float32)
    features += np.random.default_rng(1).standard_normal(p, dtype=np.float32)
    return np.maximum(features, 0, out=features)


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each way; the first round warms up."""
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            if number:
                spent[way].append(time.perf_counter() - started)
    return {way: statistics.median(times) for way, times in spent.items()}


if __name__ == "__main__":
    main()
