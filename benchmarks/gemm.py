"""How much of the machine's own matrix-multiplication rate the pruned network reaches.

    python benchmarks/gemm.py
    python benchmarks/gemm.py --threads 1 --module features.5.4 --module output

`torch.mm` of two square matrices, in the same dtype and with the same threads, is what this
machine can do; the forward pass of the network pruned to a module is compared with it, in floating
point operations a second. Only convolutions and matrix products are counted (torch's own counter):
all else is overhead here. All of a round run in turn; medians, and the best.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import machine
import torch
from torch.utils.flop_counter import FlopCounterMode

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
from resmem_extract.capture.device import arithmetic
from resmem_extract.pipeline.plan import cores

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", action="append", help="default: features.5.4")
    parser.add_argument("--precision", choices=DTYPES, action="append", help="default: both")
    parser.add_argument("--size", type=int, default=4096, help="of the square matrices")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4, help="forward passes timed together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    print(machine.one_line())
    print(f"{arguments.threads} threads, batches of {arguments.batch_size}\n")
    model = load_model("resmem")
    with threads_for_each_batch(arguments.threads):
        for module in arguments.module or ("features.5.4",):
            for precision in arguments.precision or DTYPES:
                compare(model, module, precision, arguments)


def compare(model: Model, module: str, precision: str, arguments: argparse.Namespace) -> None:
    addresses = list(model.paths.resolve(module))
    capture = prepare(model.network, addresses, model.noise(), device=CPU)
    size = arguments.batch_size
    inputs = model.noise()(size)
    flop = flop_of(capture, inputs)
    capture = in_precision(capture, precision, model.noise())
    captures = {"eager": capture}
    if not arguments.no_compile:
        try:
            captures["compiled"] = compile_capture(
                capture, model.noise(), size, cache_dir() / "inductor"
            )
        except CannotCompileError as error:
            print(f"not compiled: {error}", file=sys.stderr)
    a = torch.randn(arguments.size, arguments.size).to(DTYPES[precision])
    b = torch.randn(arguments.size, arguments.size).to(DTYPES[precision])
    ways: dict[str, tuple[float, Callable[[], object]]] = {
        "torch.mm": (2.0 * arguments.size**3, lambda: torch.mm(a, b)),
        **{
            name: (float(arguments.batches * flop), lambda c=c: several(c, inputs, arguments))
            for name, c in captures.items()
        },
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(arguments.rounds + 1):
        for way, (work, run) in ways.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                rates[way].append(work / 1e9 / (time.perf_counter() - started))
    print(f"{module}, {precision}: {flop / size / 1e9:.2f} GFLOP an image")
    print(f"  {'':10} {'GFLOP/s':>9} {'best':>9} {'of mm':>7} {'best of best':>13} {'images/s':>9}")
    usual, best = statistics.median(rates["torch.mm"]), max(rates["torch.mm"])
    for way, reached in rates.items():
        median = statistics.median(reached)
        images = f"{1e9 * median * size / flop:9.1f}" if way != "torch.mm" else ""
        print(
            f"  {way:10} {median:9.0f} {max(reached):9.0f} {median / usual:7.2f} "
            f"{max(reached) / best:13.2f} {images}"
        )
    print(flush=True)


def several(capture: Capture, inputs: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Run the network and leave the result where it is: no copy to NumPy is timed."""
    with torch.inference_mode(), arithmetic(capture.precision, capture.device):
        for _ in range(arguments.batches):
            capture.forward(inputs)


def flop_of(capture: Capture, inputs: torch.Tensor) -> int:
    """Return the floating point operations of one batch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        capture.forward(inputs)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
