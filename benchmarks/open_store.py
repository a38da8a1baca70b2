"""How soon is a store of many rows open, and how fast are its rows found by id.

    python benchmarks/open_store.py --rows 100000 --rounds 20 --folder /tmp

A store with one small module, as of a pooled layer, is opened again and again, each time anew;
its rows are read by id: the first one, which reads all ids, then single ones and batches drawn at
random. Medians over rounds, in milliseconds; the file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import machine
import numpy as np

from resmem_extract.store import StoreWriter, open_store
from resmem_extract.types import ActivationSpec

SPEC = ActivationSpec("features.avgpool", "features.avgpool", (64,), ("image", "channel"))
AIMS = {"open": 50.0, "a row by id": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "f.h5"
        ids = write(path, arguments.rows)
        figures = {
            "machine": {**machine.describe(), "hdf5": h5py.version.hdf5_version},
            "milliseconds": measure(path, ids, arguments.rounds),
        }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=1)
        return
    print("; ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    print(f"{arguments.rows} rows of {SPEC.shape}; medians\n")
    for what, value in figures["milliseconds"].items():
        aim = f"   (to be below {AIMS[what]:.0f})" if what in AIMS else ""
        print(f"{what:32}{value:9.3f} ms{aim}")


def write(path: Path, n: int) -> list[str]:
    rng = np.random.default_rng(0)
    ids = [f"class{row % 1000:04d}/image_{row:08d}.jpg" for row in range(n)]
    with StoreWriter(path, [SPEC], n) as writer:
        for start in range(0, n, 4096):
            some = ids[start : start + 4096]
            values = rng.standard_normal((len(some), *SPEC.shape), dtype=np.float32)
            writer.append(some, ["0" * 64] * len(some), {SPEC.path: values})
        writer.finish({"label": [name.partition("/")[0] for name in ids]})
    return ids


def measure(path: Path, ids: list[str], rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    taken: dict[str, list[float]] = {}

    def clock(what: str, function: Callable[[], object]) -> None:
        started = time.perf_counter()
        function()
        taken.setdefault(what, []).append(1e3 * (time.perf_counter() - started))

    for _ in range(rounds):
        some = [ids[row] for row in rng.integers(0, len(ids), 256)]
        clock("open", lambda: open_store(path)["features.avgpool"].shape)
        with open_store(path) as store:
            array = store["features.avgpool"]
            clock("the first row by id", lambda a=array, s=some: a.rows(s[:1]))
            for k in range(1, 20):
                clock("a row by id", lambda a=array, s=some, k=k: a.rows(s[k : k + 1]))
            clock("256 rows by id, at random", lambda a=array, s=some: a.rows(s))
            clock("256 rows in order", lambda a=array: a[1000:1256])
            clock("all ids", lambda s=store: s.image_ids)
    return {what: statistics.median(values) for what, values in taken.items()}


if __name__ == "__main__":
    main()
