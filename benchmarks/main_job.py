"""The main job against the ways it is done elsewhere: images a second, and peak memory.

    python benchmarks/main_job.py                       # against the usual way and torchvision's
    python benchmarks/main_job.py --thingsvision PYTHON # and thingsvision, in that environment

Every side runs as a process of its own, in turn, over the same JPEG photographs (seeded crops of
those inside scikit-image and scikit-learn), and writes its result to disk. `seconds` leave out
start-up (imports, weights, dry run, compiling), which both sides report themselves; `wall` has it.
Medians over rounds. All activations are compared: a ratio counts only at equal numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import machine
import numpy as np
from photographs import make_photographs

WAYS = Path(__file__).parent / "ways"
TEN = (
    "conv1",
    "conv5",
    "features.conv1",
    "features.layer1.2",
    "features.layer2.4",
    "features.layer3.10",
    "features.layer3.35",
    "features.layer4.2",
    "features.avgpool",
    "fc7",
)


class Failed(Exception):
    """A process did not do its job."""


@dataclass(frozen=True)
class Job:
    """What every side has to do."""

    name: str
    modules: tuple[str, ...]


JOBS = {
    "features.5.4": Job("features.5.4", ("features.layer2.4",)),
    "late": Job("features.layer4.2", ("features.layer4.2",)),
    "ten": Job("ten modules", TEN),
    "score": Job("score (fc12)", ("fc12",)),
}


@dataclass(frozen=True)
class Run:
    """One process, measured."""

    images: int
    seconds: float
    wall: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", choices=JOBS, action="append")
    parser.add_argument("--ours", default="", help="more options of `extract`, in one string")
    parser.add_argument("--thingsvision", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--against", nargs="*", metavar="WAY", help="only these; default: all")
    parser.add_argument("--memory", type=int, nargs="*", help="also peak memory at these numbers")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    print(f"{machine.one_line()}\n")
    ways = {
        "usual": [sys.executable, str(WAYS / "usual.py")],
        "feature_extractor": [sys.executable, str(WAYS / "feature_extractor.py")],
    }
    if arguments.thingsvision:
        ways["thingsvision"] = [arguments.thingsvision, str(WAYS / "with_thingsvision.py")]
    against = ways if arguments.against is None else arguments.against
    ways = {way: ways[way] for way in against}
    usual_way = [sys.executable, str(WAYS / "usual.py")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in arguments.job or ["features.5.4"]:
            images = make_photographs(folder / f"photos{arguments.images}", arguments.images)
            compare(JOBS[name], images, folder, ways, arguments)
        for n in arguments.memory or []:
            images = make_photographs(folder / f"photos{n}", n)
            ours, _ = extract(JOBS["features.5.4"], images, folder, arguments.ours.split())
            usual = run([*usual_way, *given(JOBS["features.5.4"], images, folder)])
            print(
                f"peak memory, {n} images: ours {ours.peak_mb:.0f} MB, usual {usual.peak_mb:.0f} MB"
            )


def compare(
    job: Job,
    images: Path,
    folder: Path,
    ways: dict[str, list[str]],
    arguments: argparse.Namespace,
) -> None:
    runs: dict[str, list[Run]] = {"ours": [], **{way: [] for way in ways}}
    worst = 0.0
    for _ in range(arguments.rounds):
        ours, store = extract(job, images, folder, arguments.ours.split())
        runs["ours"].append(ours)
        for way, command in ways.items():
            runs[way].append(run([*command, *given(job, images, folder)]))
            worst = max(worst, deviation(job, store, folder))
            forget(job, folder)
    print(f"{job.name}, {arguments.images} images, ours: extract {arguments.ours or '(defaults)'}")
    print(f"largest deviation of any module from any other way: {worst:.1e}")
    if worst > arguments.tolerance:
        sys.exit(f"more than {arguments.tolerance:.0e}: the ratios do not count")
    print(
        f"{'way':18} {'images/s':>9} {'ratio':>6} {'with start-up':>14} {'ratio':>6} {'peak MB':>8}"
    )
    fast = rates(runs["ours"])
    for way, measured in runs.items():
        slow = rates(measured)
        print(
            f"{way:18} {slow[0]:9.2f} {fast[0] / slow[0]:6.2f} {slow[1]:14.2f} "
            f"{fast[1] / slow[1]:6.2f} {statistics.median(r.peak_mb for r in measured):8.0f}"
        )
    print()


def rates(runs: Sequence[Run]) -> tuple[float, float]:
    """Return images a second, without and with start-up."""
    return (
        statistics.median(r.images / r.seconds for r in runs),
        statistics.median(r.images / r.wall for r in runs),
    )


def given(job: Job, images: Path, folder: Path) -> list[str]:
    modules = [word for module in job.modules for word in ("--module", module)]
    return [*modules, "--images", str(images), "--out", str(folder)]


def extract(
    job: Job,
    images: Path,
    folder: Path,
    more: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> tuple[Run, Path]:
    store = folder / "ours.h5"
    command = [str(Path(sys.executable).with_name("extract")), *given(job, images, folder)[:-1]]
    return run([*command, str(store), "--overwrite", "--json", *more], environment), store


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a process to its end; its last line on stdout, or all of it, is JSON.

    Raises
    ------
    Failed
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        text = output.read().decode()
        if status:
            raise Failed(f"{' '.join(command)} failed:\n{errors.read().decode()[-2000:]}")
    said = json.loads(text if text.startswith("{\n") else text.splitlines()[-1])
    return Run(said["images"], said["seconds"], wall, usage.ru_maxrss / 1024)


def saved(module: str, folder: Path) -> Path:
    """Return where a way has saved a module; thingsvision makes a folder of it."""
    file = folder / f"{module}.npy"
    return file if file.exists() else folder / module / "features.npy"


def forget(job: Job, folder: Path) -> None:
    """Remove what a way has saved."""
    for module in job.modules:
        saved(module, folder).unlink(missing_ok=True)


def deviation(job: Job, store: Path, folder: Path) -> float:
    """Return max|a - b| / max|b| over the modules, b what the other way has saved."""
    worst = 0.0
    with h5py.File(store) as file:
        for module in job.modules:
            b = np.load(saved(module, folder), mmap_mode="r")
            a = file["features"][module]
            scale = max(abs(b[i]).max() for i in range(len(b)))
            # Rows differ in order where a tool sorts file names otherwise: here they are padded.
            error = max(abs(a[i] - b[i].reshape(a.shape[1:])).max() for i in range(len(b)))
            worst = max(worst, float(error / scale))
    return worst


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
