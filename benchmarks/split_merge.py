"""How fast are split and merge, against `cp`, and how much memory do they take.

    python benchmarks/split_merge.py --gigabytes 2.5 --rounds 5 --folder /tmp

A store of `features.layer2.4` of ResMem [512, 29, 29] and its output is split by rows into ten
parts, and these are merged again, each in a process of its own, whose peak memory is `VmHWM` (of
Linux; `ru_maxrss` is at least that of the process which started it). `cp` copies the same store.
Ours wait until the disk has the bytes, which `cp` does not: they are compared once with a sync
after `cp`, and once with none anywhere, which leaves the copying alone. A `cp` goes before each
step, so that a slow moment hits both, and another one before that, so that both write to memory
that was just let go of: a virtual machine takes several times as long for memory that it has not
used for a while. Medians over rounds count. Needs three times the size on the disk, and removes it
again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import machine
import numpy as np

from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

SPECS = (
    ActivationSpec("m", "m", (512, 29, 29), ("image", "channel", "height", "width")),
    ActivationSpec("output", "output", (1,), ("image", "channel")),
)
PARTS = 10
STEP = """
import json, os, re, sys, time
from pathlib import Path
from resmem_extract.store import merge_stores, split_store
step, whole, parts, merged, synced, n_parts = sys.argv[1:]
if synced == "no":
    os.fsync = os.fdatasync = lambda descriptor: None
started = time.perf_counter()
if step == "split":
    split_store(whole, parts, parts=int(n_parts))
else:
    result = merge_stores(sorted(Path(parts).iterdir())[::-1], merged)
    assert result.restored
seconds = time.perf_counter() - started
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps([seconds, int(peak)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compression", choices=("bitshuffle-lz4", "gzip"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        whole = Path(folder) / "whole.h5"
        write(whole, arguments.gigabytes, arguments.compression)
        figures = {
            "machine": {**machine.describe(), "hdf5": h5py.version.hdf5_version},
            "gigabytes": whole.stat().st_size / 1e9,
            "steps": measure(whole, arguments.rounds),
        }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=1)
    else:
        report(figures)


def write(path: Path, gigabytes: float, compression: str | None) -> None:
    n = int(gigabytes * 1e9 / SPECS[0].nbytes_per_image)
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((16, *SPECS[0].shape), dtype=np.float32), 0)
    with StoreWriter(path, SPECS, n, compression=compression) as writer:
        for start in range(0, n, 16):
            ids = [f"{row}.jpg" for row in range(start, min(start + 16, n))]
            values[:, 0, 0, 0] = start
            arrays = {"m": values[: len(ids)], "output": values[: len(ids), 0, 0, :1]}
            writer.append(ids, ["0" * 64] * len(ids), arrays)
        writer.finish(provenance={"model": "resmem"})


def measure(whole: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return, for each step, GB/s, the ratio to cp, and peak memory in MB."""
    parts, merged = whole.with_name("parts"), whole.with_name("merged.h5")
    steps = [(step, synced) for synced in ("no", "yes") for step in ("split", "merge")]
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    memory: dict[str, float] = {}
    for number in range(rounds + 1):
        if number == 1:  # the first round found nothing in memory
            seconds = {step: [] for step in steps}
        for step, synced in steps:
            os.sync()
            copy(whole, merged, synced)
            os.sync()
            by_cp = copy(whole, merged, synced)
            os.sync()
            command = [sys.executable, "-c", STEP, step, whole, parts, merged, synced, str(PARTS)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken, kilobytes = json.loads(done.stdout)
            seconds.setdefault((step, synced), []).append((by_cp, taken))
            memory[step] = max(memory.get(step, 0), kilobytes / 1e3)
            if step == "merge":
                merged.unlink()
                shutil.rmtree(parts)
    size = whole.stat().st_size / 1e9
    figures = {}
    for (step, synced), pairs in seconds.items():
        after = ", synced" if synced == "yes" else ""
        cps, ours = zip(*pairs, strict=True)
        figures[f"cp before {step}{after}"] = {"GB/s": size / statistics.median(cps), "of cp": 1.0}
        figures[f"{step}{after}"] = {
            "GB/s": size / statistics.median(ours),
            "of cp": statistics.median(theirs / own for theirs, own in pairs),
            "peak MB": memory[step],
        }
    return figures


def copy(source: Path, target: Path, synced: str) -> float:
    """Copy a file as `cp` does, and return the seconds."""
    started = time.perf_counter()
    subprocess.run(["cp", source, target], check=True)
    if synced == "yes":
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    taken = time.perf_counter() - started
    target.unlink()
    return taken


def report(figures: dict) -> None:
    print("; ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    print(f"a store of {figures['gigabytes']:.2f} GB, {PARTS} parts; medians\n")
    for step, row in figures["steps"].items():
        peak = f"{row['peak MB']:8.0f} MB at most" if "peak MB" in row else ""
        print(f"{step:24}{row['GB/s']:8.2f} GB/s{row['of cp']:8.2f} of cp{peak}")


if __name__ == "__main__":
    main()
