"""The table of ratios: what this package promises, what it reaches on this machine, side by side.

    python benchmarks/table.py --quick                       # minutes, small numbers of images
    python benchmarks/table.py --thingsvision PYTHON         # all of it: under an hour on two cores
    python benchmarks/table.py --section features.5.4 start-up
    python benchmarks/table.py --list                        # the sections, one line each

PYTHON is the interpreter of an environment with thingsvision 2.7.3 and resmem. Every side runs as a
process of its own, in turn with the others, on the same photographs; medians over rounds. A ratio
counts only at equal numbers, and `worst` is how far any activation was from any other way's. Run it
on a quiet machine: every section prints the load it found.

At the end, one line for each promise: measured, asked, reached or not.
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
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import machine
import torch
from main_job import JOBS, WAYS, Failed, Job, Run, deviation, extract, forget, given, run
from photographs import make_photographs

from resmem_extract.cache import CACHE_VARIABLE, cache_dir

TOLERANCE = {"float32": 1e-4, "bfloat16": 1.6e-1}
"""Between two ways, one of them another release of torch; what each promises is in `deviations`."""


@dataclass(frozen=True)
class Row:
    """One promise."""

    what: str
    measured: float | None
    """None where it could not be measured."""
    asked: float
    how: str = ""
    """By what options, or why it was not measured."""
    at_most: bool = False

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        shown = "-" if self.measured is None else f"{self.measured:.2g}"
        if self.measured is not None and self.measured >= 0.1:
            shown = f"{self.measured:.2f}"
        return f"| {self.what} | {shown} | {sign} {self.asked:g} | {self._verdict} | {self.how} |"

    @property
    def _verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        good = self.measured <= self.asked if self.at_most else self.measured >= self.asked
        return "yes" if good else "**no**"


@dataclass
class Bench:
    """What all sections share."""

    scratch: Path
    images: int
    many: int
    """For the long run under `--compile auto`."""
    rounds: int
    thingsvision: str | None
    quick: bool
    rows: list[Row] = field(default_factory=list)

    def photographs(self, n: int) -> Path:
        return make_photographs(self.scratch / f"photos{n}", n)

    @property
    def ways(self) -> dict[str, list[str]]:
        """Return the other ways to do a job."""
        named = {
            "usual": [sys.executable, str(WAYS / "usual.py")],
            "feature_extractor": [sys.executable, str(WAYS / "feature_extractor.py")],
        }
        if self.thingsvision:
            named["thingsvision"] = [self.thingsvision, str(WAYS / "with_thingsvision.py")]
        return named


# --- a job, by all ways --------------------------------------------------------------------------

OURS = {
    "default": "",
    "compiled": "--compile on",
    "bfloat16": "--precision bfloat16",
    "bfloat16 compiled": "--precision bfloat16 --compile on",
}


def job_section(name: str) -> Callable[[Bench], None]:
    def section(bench: Bench) -> None:
        job = JOBS[name]
        runs, worst = by_all_ways(bench, job)
        print_runs(f"{job.name}, {bench.images} images", runs, worst)
        bench.rows += promises(bench, job, runs)

    return section


def by_all_ways(bench: Bench, job: Job) -> tuple[dict[str, list[Run]], dict[str, float]]:
    """Return the runs of every way, and how far each of ours is from any other way."""
    images = bench.photographs(bench.images)
    one = bench.photographs(1)
    runs: dict[str, list[Run]] = {}
    worst: dict[str, float] = {}
    stores: dict[str, Path] = {}
    for number in range(bench.rounds):
        for label, options in ours_here(bench).items():
            with attempt(label):
                if "compile on" in options and number == 0:  # the cache is to be warm
                    extract(job, one, bench.scratch, options.split())
                done, store = extract(job, images, bench.scratch, options.split())
                stores[label] = store.rename(store.with_name(f"{label.replace(' ', '-')}.h5"))
                runs.setdefault(label, []).append(done)
        for way, command in bench.ways.items():
            with attempt(way):
                runs.setdefault(way, []).append(run([*command, *given(job, images, bench.scratch)]))
                for label, store in stores.items():
                    far = deviation(job, store, bench.scratch)
                    worst[label] = max(worst.get(label, 0.0), far)
                forget(job, bench.scratch)
    return runs, worst


def ours_here(bench: Bench) -> dict[str, str]:
    """Return our ways that this processor does at a useful speed; compiling is not quick."""
    return {
        label: options
        for label, options in OURS.items()
        if (has_bfloat16() or "bfloat16" not in label) and not (bench.quick and "compiled" in label)
    }


def has_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def print_runs(title: str, runs: Mapping[str, Sequence[Run]], worst: Mapping[str, float]) -> None:
    print(f"{title}")
    against = next((way for way in ("thingsvision", "usual") if way in runs), "")
    print(f"  {'way':18} {'images/s':>9} {'x':>6} {'with start-up':>14} {'x':>6} {'peak MB':>8}"
          f" {'worst':>8}   (x: against {against})")  # fmt: skip
    for way, measured in runs.items():
        alone, whole = rate(measured), rate(measured, whole=True)
        ratios = [
            f"{a / b:6.2f}" if b else "     -"
            for a, b in ((alone, rate(runs.get(against, ()))),
                         (whole, rate(runs.get(against, ()), whole=True)))
        ]  # fmt: skip
        peak = statistics.median(r.peak_mb for r in measured)
        far = f"{worst[way]:8.1e}" if way in worst else ""
        print(f"  {way:18} {alone:9.2f} {ratios[0]} {whole:14.2f} {ratios[1]} {peak:8.0f} {far:>8}")
    print(flush=True)
    for label, far in worst.items():
        if not far <= TOLERANCE["bfloat16" if "bfloat16" in label else "float32"]:
            raise Failed(f"{label} deviates by {far:.1e}: its ratio does not count")


def rate(runs: Sequence[Run], *, whole: bool = False) -> float:
    """Return images a second, 0 where nothing was run."""
    if not runs:
        return 0.0
    return statistics.median(r.images / (r.wall if whole else r.seconds) for r in runs)


def promises(bench: Bench, job: Job, runs: Mapping[str, Sequence[Run]]) -> Iterator[Row]:
    """Yield what is promised against thingsvision's own extraction of the same images."""
    theirs = runs.get("thingsvision", ())
    asked: dict[str, dict[str, tuple[bool, float]]] = {
        "features.5.4": {"float32": (False, 8), "float32, start-up counted": (True, 4.5),
                         "bfloat16": (False, 20)},
        "ten": {"float32": (False, 1.4)},
        "score": {"float32": (False, 1.5), "bfloat16": (False, 8)},
    }  # fmt: skip
    name = next(key for key, value in JOBS.items() if value is job)
    for what, (whole, least) in asked.get(name, {}).items():
        precision = what.partition(",")[0]
        ours = {
            label: rate(runs[label], whole=whole)
            for label in OURS
            if label in runs and label.startswith("bfloat16") == (precision == "bfloat16")
        }
        title = f"{job.name}, {what}, warm, {bench.images} images, x thingsvision"
        if not ours:
            yield Row(title, None, least, "this processor has no bfloat16 instructions")
        elif not theirs:
            yield Row(title, None, least, "--thingsvision was not given")
        else:
            best = max(ours, key=lambda label: ours[label])
            other = ", ".join(
                f"{label}: {value / rate(theirs, whole=whole):.2f}" for label, value in ours.items()
            )
            yield Row(title, ours[best] / rate(theirs, whole=whole), least, other)


# --- as a user meets it --------------------------------------------------------------------------


def cold_section(bench: Bench) -> None:
    """`--compile auto` with a cold compile cache, start-up counted on both sides."""
    job = JOBS["features.5.4"]
    command = bench.ways.get("thingsvision")
    theirs: dict[int, Run] = {}
    numbers = [bench.images] if bench.quick else [bench.images, bench.many]
    for n, least in zip(numbers, (4, 5), strict=False):
        images = bench.photographs(n)
        ours = []
        for _ in range(bench.rounds):
            with cold_cache(bench.scratch) as environment:
                done, _ = extract(job, images, bench.scratch, [], environment)
                off, _ = extract(job, images, bench.scratch, ["--compile", "off"], environment)
            ours.append((done, off))
        wall = statistics.median(auto.wall for auto, _ in ours)
        without = statistics.median(off.wall for _, off in ours)
        print(f"--compile auto, cold, {n} images: {wall:.1f} s; --compile off: {without:.1f} s")
        title = f"features.5.4, --compile auto, cold cache, start-up counted, {n} images"
        bench.rows.append(Row(f"{title}, x --compile off", without / wall, 0.95))
        if command is None:
            bench.rows.append(Row(f"{title}, x thingsvision", None, least, "no --thingsvision"))
            continue
        if n == bench.images:
            theirs[n] = run([*command, *given(job, images, bench.scratch)])
            seconds, how = theirs[n].wall, ""
        else:  # a long run is start-up and then the same rate
            first = theirs[bench.images]
            seconds = first.wall - first.seconds + n * first.seconds / first.images
            how = f"thingsvision's {seconds:.0f} s extrapolated from {first.images} images"
        print(f"thingsvision, {n} images: {seconds:.1f} s {how}", flush=True)
        bench.rows.append(Row(f"{title}, x thingsvision", seconds / wall, least, how))


@contextmanager
def cold_cache(scratch: Path) -> Iterator[dict[str, str]]:
    """Give an environment whose user cache has everything but what has to do with compiling."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        there = cache_dir()
        for path in there.iterdir() if there.is_dir() else ():
            if path.name not in ("inductor", "hashes.json"):
                (Path(folder) / path.name).symlink_to(path)
        if (there / "hashes.json").is_file():
            memo = json.loads((there / "hashes.json").read_text())
            kept = {key: value for key, value in memo.items() if "to compile" not in key}
            (Path(folder) / "hashes.json").write_text(json.dumps(kept))
        yield {**os.environ, CACHE_VARIABLE: folder}


# --- other promises ------------------------------------------------------------------------------


def start_up_section(bench: Bench) -> None:
    """From the shell to the end of a run over one image, against `python -c "import torch"`."""
    job, one = JOBS["features.5.4"], bench.photographs(1)
    ours, torchs = [], []
    for number in range(max(3, bench.rounds) + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imported = time.perf_counter() - started
        done, _ = extract(job, one, bench.scratch, ["--compile", "off"])
        if number:  # the first round fills caches
            torchs.append(imported)
            ours.append(done.wall)
    ratio = statistics.median(ours) / statistics.median(torchs)
    print(
        f"one image {statistics.median(ours):.2f} s, import torch {statistics.median(torchs):.2f} s"
    )
    bench.rows.append(Row("one image from the shell, x import torch", ratio, 3, at_most=True))


def gemm_section(bench: Bench) -> None:
    """The forward pass against the machine's own rate of matrix products."""
    import gemm

    for precision in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
        reached = gemm.measure(
            "features.5.4",
            precision,
            batches=1 if bench.quick else 2,
            rounds=3 if bench.quick else 7,
            compiled=not bench.quick,
        )
        name, best = max(reached.items(), key=lambda pair: pair[1])
        others = ", ".join(f"{way}: {value:.2f}" for way, value in reached.items())
        if precision == "float32":
            title = "features.5.4, float32, forward, share of torch.mm's rate"
            bench.rows.append(Row(title, best, 0.75, f"{name}; {others}"))


def bound_section(bench: Bench) -> None:
    """End to end against the bound that decoding and the forward pass leave on the cores."""
    from resmem_extract.pipeline.bench import bench as measure

    result = measure(
        "resmem", "features.5.4", bench.photographs(bench.images), n_images=bench.images,
        rounds=3, folder=bench.scratch,
    )  # fmt: skip
    stages = ", ".join(f"{stage.name} {stage.core_ms:.1f} ms" for stage in result.stages)
    print(f"bound {result.bound:.1f} images/s, measured {result.measured:.1f}; {stages}")
    bench.rows.append(Row("end to end, share of the bound", result.ratio, 0.9, stages))


def deviations_section(bench: Bench) -> None:
    """Every engine against plain hooks on photographs, on modules over the whole depth."""
    import precision

    modes = ["float32", "compiled float32"]
    if has_bfloat16():
        modes += ["bfloat16", "compiled bfloat16"]
    table = precision.measure(modes, images=8 if bench.quick else 24)
    precision.print_table(*table)
    bounds = {"float32": 1e-5, "compiled float32": 1e-4}
    for mode, column in table[1].items():
        title = f"deviation of {mode} over {len(column)} modules"
        asked = bounds.get(mode, TOLERANCE["bfloat16"])
        bench.rows.append(Row(title, max(column), asked, at_most=True))


def memory_section(bench: Bench) -> None:
    """Peak memory and rate against the number of images: a flat line."""
    job = JOBS["features.5.4"]
    peaks = {}
    for n in (16, 64) if bench.quick else (64, 256, 1024):
        images = bench.photographs(n)
        ours, _ = extract(job, images, bench.scratch, [])
        peaks[n] = ours.peak_mb
        line = f"{n:5d} images: ours {n / ours.wall:6.2f} images/s, {ours.peak_mb:5.0f} MB"
        usual = run([*bench.ways["usual"], *given(job, images, bench.scratch)])
        print(f"{line}; usual {n / usual.wall:6.2f} images/s, {usual.peak_mb:5.0f} MB", flush=True)
    few, many = min(peaks), max(peaks)
    title = f"peak memory, MB more for {many} images than for {few}"
    bench.rows.append(Row(title, peaks[many] - peaks[few], 50, at_most=True))


SECTIONS: dict[str, Callable[[Bench], None]] = {
    **{name: job_section(name) for name in JOBS},
    "cold": cold_section,
    "start-up": start_up_section,
    "gemm": gemm_section,
    "bound": bound_section,
    "deviations": deviations_section,
    "memory": memory_section,
}
QUICK = ("features.5.4", "start-up", "gemm", "bound", "memory")


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Go on after a way, or a section, that fails; say so. An hour's work is not to be lost."""
    try:
        yield
    except Failed as error:
        print(f"{what}: {error}", flush=True)
    except Exception:
        print(f"{what} failed:\n{traceback.format_exc()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--section", nargs="*", choices=SECTIONS, help="default: all")
    parser.add_argument("--quick", action="store_true", help="few images, one round, half of it")
    parser.add_argument("--thingsvision", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--images", type=int, help="default: 256; quick: 32")
    parser.add_argument("--many", type=int, default=2048, help="of the long run (cold)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the sections")
    arguments = parser.parse_args()
    if arguments.list:
        for name, section in SECTIONS.items():
            about = JOBS[name].name if name in JOBS else (section.__doc__ or "").splitlines()[0]
            print(f"{name:14} {about}")
        return
    print(f"{machine.one_line()}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            scratch=Path(scratch),
            images=arguments.images or (32 if arguments.quick else 256),
            many=arguments.many,
            rounds=arguments.rounds,
            thingsvision=arguments.thingsvision,
            quick=arguments.quick,
        )
        try:
            for name in arguments.section or (QUICK if arguments.quick else SECTIONS):
                print(f"== {name} (load {os.getloadavg()[0]:.1f})", flush=True)
                started = time.perf_counter()
                with attempt(name):
                    SECTIONS[name](bench)
                print(f"   {time.perf_counter() - started:.0f} s\n", flush=True)
        finally:
            print("| what | measured | asked | reached | how |\n|---|--:|--:|---|---|")
            print(*bench.rows, sep="\n")


if __name__ == "__main__":
    main()
