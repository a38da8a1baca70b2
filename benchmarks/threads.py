"""Streams x threads on a processor: batches side by side, or all cores on one batch.

    python benchmarks/threads.py                            # minutes: eight compilations when cold
    python benchmarks/threads.py --mode "eager float32" --module features.5.4 --images 128

For each way to compute and each module: images a second of the forward pass alone at every split
of the cores, then end to end with decoding in 0, 1, 2 ... threads, which over-subscribes the cores.
All splits of a round run in turn, so that a slow moment hits all of them; medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import torch
from photographs import make_photographs

from resmem_extract import Model, load_model
from resmem_extract.cache import cache_dir
from resmem_extract.capture import (
    CannotCompileError,
    Capture,
    compile_capture,
    in_precision,
    prepare,
    threads_for_each_batch,
)
from resmem_extract.config import RunOptions
from resmem_extract.decoding import load_images
from resmem_extract.images import StimulusSet, find_images
from resmem_extract.pipeline.background import in_order
from resmem_extract.pipeline.plan import Plan, cores
from resmem_extract.pipeline.run import batches, runner

MODES = ("eager float32", "eager bfloat16", "compiled float32", "compiled bfloat16")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    """A capture and how the cores are shared out to it."""

    capture: Capture
    streams: int
    threads: int

    def __str__(self) -> str:
        return f"{self.streams} x {self.threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="default: 8 with several streams, else 16")
    parser.add_argument("--module", action="append", help="default: features.5.4 and output")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all four")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    print(f"{machine.one_line()}\n")
    with tempfile.TemporaryDirectory() as folder:
        stimuli = find_images(make_photographs(Path(folder), arguments.images))
        for module in arguments.module or ("features.5.4", "output"):
            for mode in arguments.mode or MODES:
                print(f"{module}, {mode}; images/s, medians of {arguments.rounds}")
                compare(load_model("resmem"), module, mode, stimuli, arguments)


def splits_of(model: Model, module: str, mode: str, batch_size: int | None) -> dict[Split, int]:
    """Return the splits of the cores with their batch sizes; compiled code is made for each."""
    how, precision = mode.split()
    addresses = list(model.paths.resolve(module))
    capture = prepare(model.network, addresses, model.noise(), device=CPU)
    capture = in_precision(capture, precision, model.noise())
    found = {}
    n = cores()
    for streams in sorted({1, n} | {2**k for k in range(1, n.bit_length()) if n % 2**k == 0}):
        threads, size = n // streams, batch_size or (8 if streams > 1 else 16)
        ready = capture
        if how == "compiled":  # the number of threads is part of the code
            try:
                with threads_for_each_batch(threads):
                    ready = compile_capture(capture, model.noise(), size, cache_dir() / "inductor")
            except CannotCompileError as error:
                print(f"  {streams} x {threads} not compiled: {error}", file=sys.stderr)
                continue
        found[Split(ready, streams, threads)] = size
    return found


def compare(
    model: Model, module: str, mode: str, stimuli: StimulusSet, arguments: argparse.Namespace
) -> None:
    ways: dict[str, Callable[[], None]] = {}
    prepared = load_images(stimuli, model.preprocessing.image, workers=2)
    pixels = torch.from_numpy(np.stack([image.pixels for image in prepared]))
    for split, size in splits_of(model, module, mode, arguments.batch_size).items():
        inputs = [model.preprocessing.batch(part.numpy()) for part in pixels.split(size)]
        ways[f"{split}, forward alone"] = lambda s=split, i=inputs: forward(s, i)
        for workers in arguments.workers:
            plan = Plan(size, split.streams, split.threads, workers)
            ways[f"{split}, {workers} decoding"] = lambda s=split, p=plan: pipeline(
                model, s, stimuli, p
            )
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(arguments.rounds + 1):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                taken[way].append(time.perf_counter() - started)
    for way, seconds in taken.items():
        rates = [len(stimuli) / s for s in seconds]
        print(
            f"  {way:24} {statistics.median(rates):8.1f}   ({min(rates):.1f} to {max(rates):.1f})"
        )
    print(flush=True)


def forward(split: Split, inputs: list[torch.Tensor]) -> None:
    with threads_for_each_batch(split.threads):
        for _ in in_order(split.capture, inputs, split.streams):
            pass


def pipeline(model: Model, split: Split, stimuli: StimulusSet, plan: Plan) -> None:
    for _ in batches([runner(model, split.capture)], stimuli, plan, RunOptions()):
        pass


if __name__ == "__main__":
    main()
