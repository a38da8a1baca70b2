"""Extractions killed at random moments, and disks that fail: what is lost, and what is wrong.

    python benchmarks/kill.py                # 100 kills, a quarter of an hour
    python benchmarks/kill.py --kills 1000 --seed 7

The runs, their disturbances and the checks after each are those of tests/pipeline/killing.py, of
which tests/pipeline/test_kill.py runs a few. As root, part of the results are made on a small disk
of its own (tmpfs) that is filled while a run is at work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import machine

HARNESS = Path(__file__).parents[1] / "tests" / "pipeline" / "killing.py"
MUST_BE_ZERO = ("lost", "wrong", "unreadable", "twice", "different", "litter")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{machine.one_line()}\n")
    total: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch, small_disk(Path(scratch)) as disk:
        folders = [Path(scratch) / "plain", *([disk] if disk else [])]
        for folder in folders:
            folder.mkdir(exist_ok=True)
            more = ["--fill"] if folder == disk else []
            add(total, run(folder, arguments.kills // len(folders), arguments.seed, more))
    report(total)
    sys.exit(any(total[name][name] for name in MUST_BE_ZERO) or bool(total["surprises"]))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a disk of 40 MB, if that is allowed."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        print("no small disk can be mounted here: a full disk is left out\n")
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def run(folder: Path, kills: int, seed: int, more: list[str]) -> dict[str, object]:
    """Run the harness in a process of its own, in which nothing but it has worked."""
    command = [sys.executable, str(HARNESS), str(folder), "--kills", str(kills), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--seed", str(seed)], stdout=subprocess.PIPE, env=environment, check=False
    )
    tally: dict[str, object] = json.loads(done.stdout)
    return tally


def add(total: dict[str, Counter[str]], tally: dict[str, object]) -> None:
    """Add up what happened; a list counts by its texts."""
    for name, value in tally.items():
        counts = total.setdefault(name, Counter())
        counts.update(value if isinstance(value, (dict, list)) else {name: value})


def report(total: dict[str, Counter[str]]) -> None:
    kills = ", ".join(f"{n} at {mark}" for mark, n in total["kills"].most_common())
    print(f"{total['runs']['runs']} runs; {sum(total['kills'].values())} killed ({kills})")
    interrupted, cut = total["interrupts"]["interrupts"], total["truncated"]["truncated"]
    print(f"{interrupted} interrupted, {cut} parts cut")
    print(f"ended by the disk: {dict(total['faults'])}")
    print(f"{total['finished']['finished']} results completed and compared")
    for name in MUST_BE_ZERO:
        print(f"{name:12} {total[name][name]}")
    for text in total["surprises"]:
        print(f"surprise: {text}")


if __name__ == "__main__":
    main()
