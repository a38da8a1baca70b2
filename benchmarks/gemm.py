"""How much of the machine's own matrix-multiplication rate the pruned network reaches.

    python benchmarks/gemm.py
    python benchmarks/gemm.py --module features.5.4 --module output --no-compile

`torch.mm` of two square matrices, in the same dtype and on all cores, is what this machine can do;
the forward pass of the network pruned to a module is compared with it, in floating point operations
a second: the plain graph and compiled code by batches that have all cores, fused convolutions by
streams of one core each as well. Only convolutions and matrix products are counted (torch's own
counter): all else is overhead here. All of a round run in turn; medians, and the best.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import machine
import torch
from torch.utils.flop_counter import FlopCounterMode

from resmem_extract import Model, load_model
from resmem_extract.cache import cache_dir
from resmem_extract.capture import (
    CannotCompileError,
    Capture,
    compile_capture,
    graph_of,
    in_precision,
    prepare,
    threads_for_each_batch,
)
from resmem_extract.capture.device import arithmetic
from resmem_extract.pipeline.background import in_order
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
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    print(machine.one_line())
    print(f"{cores()} cores, batches of {arguments.batch_size}\n")
    for module in arguments.module or ("features.5.4",):
        for precision in arguments.precision or DTYPES:
            measure(
                module,
                precision,
                size=arguments.size,
                batch_size=arguments.batch_size,
                batches=arguments.batches,
                rounds=arguments.rounds,
                compiled=not arguments.no_compile,
            )


def measure(
    module: str,
    precision: str,
    *,
    size: int = 4096,
    batch_size: int = 16,
    batches: int = 4,
    rounds: int = 7,
    compiled: bool = True,
) -> dict[str, float]:
    """Print the rates of all ways, and return each one's share of that of `torch.mm`."""
    model, n = load_model("resmem"), cores()
    captures = captures_of(model, module, precision, batch_size if compiled else None)
    inputs = model.noise()(batch_size)
    flop = flop_of(captures["graph"], inputs)
    a, b = (torch.randn(size, size).to(DTYPES[precision]) for _ in range(2))

    def products() -> None:
        with threads_for_each_batch(n):
            torch.mm(a, b)

    ways: dict[str, tuple[float, Callable[[], None]]] = {"torch.mm": (2.0 * size**3, products)}
    for name, capture in captures.items():
        for streams in {1, n} if capture.concurrent else {1}:
            way = name if streams == 1 else f"{name}, {streams} streams"
            ways[way] = (
                float(batches * streams * flop),
                lambda c=capture, s=streams: several(c, inputs, batches * s, s),
            )
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, (work, run) in ways.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                rates[way].append(work / 1e9 / (time.perf_counter() - started))
    print(f"{module}, {precision}: {flop / batch_size / 1e9:.2f} GFLOP an image")
    print(f"  {'':18} {'GFLOP/s':>9} {'best':>9} {'of mm':>7} {'best of best':>13} {'images/s':>9}")
    usual, best = statistics.median(rates["torch.mm"]), max(rates["torch.mm"])
    for way, reached in rates.items():
        median = statistics.median(reached)
        images = f"{1e9 * median * batch_size / flop:9.1f}" if way != "torch.mm" else ""
        print(
            f"  {way:18} {median:9.1f} {max(reached):9.1f} {median / usual:7.2f} "
            f"{max(reached) / best:13.2f} {images}"
        )
    print(flush=True)
    del rates["torch.mm"]
    return {way: statistics.median(reached) / usual for way, reached in rates.items()}


def captures_of(
    model: Model, module: str, precision: str, compile_for: int | None
) -> dict[str, Capture]:
    """Return the plain graph, fused convolutions, and compiled code unless there is no size."""
    capture = prepare(model.network, model.paths.resolve(module), model.noise(), device=CPU)
    fused = in_precision(capture, precision, model.noise())
    graph = graph_of(capture.run)
    assert graph is not None
    graph.network.to(memory_format=torch.channels_last)
    captures = {"graph": replace(capture, engine="graph", run=graph, precision=precision)}
    if fused.engine == "fused":
        captures["fused"] = fused
    if compile_for is not None:
        try:
            captures["compiled"] = compile_capture(
                fused, model.noise(), compile_for, cache_dir() / "inductor"
            )
        except CannotCompileError as error:
            print(f"not compiled: {error}", file=sys.stderr)
    return captures


def several(capture: Capture, inputs: torch.Tensor, batches: int, streams: int) -> None:
    """Run the network and leave the results where they are: no copy to NumPy is timed."""

    def forward(batch: torch.Tensor) -> None:
        with torch.inference_mode(), arithmetic(capture.precision, capture.device):
            capture.forward(batch)

    with threads_for_each_batch(cores() // streams):
        for _ in in_order(forward, [inputs] * batches, streams):
            pass


def flop_of(capture: Capture, inputs: torch.Tensor) -> int:
    """Return the floating point operations of one batch through a graph that is not fused."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        capture.forward(inputs)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
