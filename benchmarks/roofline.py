"""Where the time of the forward pass goes, and how far each convolution is from what binds it.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --module output --batch-size 8 --each

The network runs as a run on a processor does: fused convolutions, a stream on every core, each with
one thread. For each kind of convolution: how often, its work and the bytes it reads and writes, the
time it took, and the time that the machine itself sets, the larger of work / rate of `torch.mm` and
bytes / rate of adding two arrays. Both rates are measured here, one core's share with all cores at
it. Times are of the processor, so that others on the machine disturb little; what is smaller than
the caches may be faster than the bytes allow, and Winograd's way of 3 x 3 would need less work.
"""

from __future__ import annotations

import argparse
import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import machine
import torch
from torch import fx

from resmem_extract import load_model
from resmem_extract.capture import FusedEngine, prepare, threads_for_each_batch
from resmem_extract.capture.fused_conv import PlainConv
from resmem_extract.pipeline.plan import cores

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """Convolutions of the same shape, or other operations of the same name."""

    name: str
    flop: int = 0
    nbytes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", default="features.5.4")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", action="store_true", help="a line each, not one a shape")
    arguments = parser.parse_args()
    print(f"{machine.one_line()}\n", flush=True)
    n = cores()
    with threads_for_each_batch(1):
        products, adding = on_every_core(n, matrix_products), on_every_core(n, additions)
        print(f"a core, with all {n} at work: torch.mm {products / 1e9:.1f} GFLOP/s, "
              f"adding arrays {adding / 1e9:.1f} GB/s")  # fmt: skip
        print(f"work is the limit from {products / adding:.1f} FLOP a byte on\n", flush=True)
        times, kinds = time_nodes(arguments, n)
    report(times, kinds, products, adding, arguments)


def on_every_core(n: int, rate: Callable[[], float]) -> float:
    """Return the best rate that one of `n` threads reaches, all at it at the same time."""
    together = threading.Barrier(n)

    def one(_number: int) -> float:
        torch.set_num_threads(1)  # of this thread: MKL would take all cores
        together.wait()
        return max(rate() for _ in range(7))

    with ThreadPoolExecutor(n) as pool:
        return statistics.median(pool.map(one, range(n)))


def matrix_products(size: int = 1536) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    started = time.thread_time()
    torch.mm(a, b)
    return 2.0 * size**3 / (time.thread_time() - started)


def additions(size: int = 2**24) -> float:
    """Return bytes a second; far more than the caches hold are read twice and written once."""
    a, b, c = (torch.zeros(size) for _ in range(3))
    torch.add(a, b, out=c)
    started = time.thread_time()
    torch.add(a, b, out=c)
    return 3.0 * a.nbytes / (time.thread_time() - started)


class Timed(fx.Interpreter):
    """Runs a graph node by node, and keeps the processor time and the kind of each."""

    def __init__(self, network: fx.GraphModule, each: bool) -> None:
        super().__init__(network)
        self.each = each
        self.seconds: dict[str, float] = {}
        self.kinds: dict[str, Kind] = {}

    def run_node(self, n: fx.Node) -> Any:
        arguments = self.fetch_args_kwargs_from_env(n)[0] if n.op == "call_module" else ()
        started = time.thread_time()
        result = super().run_node(n)
        self.seconds[n.name] = time.thread_time() - started
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, PlainConv):
            self.kinds[n.name] = kind_of(module, arguments, result, n.name if self.each else "")
        else:
            what = str(n.target) if module is None else type(module).__name__
            self.kinds[n.name] = Kind(what)
        return result


def kind_of(conv: PlainConv, arguments: Any, y: torch.Tensor, name: str) -> Kind:
    x, *others = arguments
    inside = x.shape[1] // conv.groups * math.prod(conv.kernel_size)
    weights = y.shape[1] * inside * x.element_size()
    what = (
        f"{conv.kernel_size[0]}x{conv.kernel_size[1]}/{conv.stride[0]}"
        f"{f' g{conv.groups}' if conv.groups > 1 else ''} {x.shape[1]}->{y.shape[1]} "
        f"at {y.shape[2]}x{y.shape[3]}{' + sum' * bool(others)}"
        f"{f' + {conv.activation.attr}' if conv.activation else ''}"
    )
    return Kind(
        f"{what} {name.removeprefix('_fused_')}".strip(),
        flop=2 * y.numel() * inside,
        nbytes=weights + sum(t.nbytes for t in (x, y, *others)),
    )


def time_nodes(arguments: argparse.Namespace, n: int) -> tuple[dict[str, float], dict[str, Kind]]:
    """Return the median time of each node of the graph in one of `n` streams."""
    model = load_model("resmem")
    addresses = model.paths.resolve(arguments.module)
    capture = prepare(model.network, addresses, model.noise(), device=CPU, engine="fused")
    assert isinstance(capture.run, FusedEngine)
    network = capture.run.network
    inputs = model.noise()(arguments.batch_size).contiguous(memory_format=torch.channels_last)

    def stream(_number: int) -> list[Timed]:
        rounds = []
        with torch.inference_mode():
            for _ in range(arguments.rounds + 1):
                rounds.append(Timed(network, arguments.each))
                rounds[-1].run(inputs.clone(memory_format=torch.channels_last))
        return rounds[1:]

    with ThreadPoolExecutor(n) as pool:
        rounds, *_ = pool.map(stream, range(n))
    times = {
        name: statistics.median(timed.seconds[name] for timed in rounds)
        for name in rounds[0].seconds
    }
    return times, rounds[0].kinds


def report(
    times: dict[str, float],
    kinds: dict[str, Kind],
    products: float,
    adding: float,
    arguments: argparse.Namespace,
) -> None:
    size, whole = arguments.batch_size, sum(times.values())
    groups: dict[Kind, list[float]] = defaultdict(list)
    for name, seconds in times.items():
        groups[kinds[name]].append(seconds)
    print(f"{arguments.module}, batches of {size}; GFLOP, MB and ms are of an image, in all calls")
    print(
        "| operation | calls | GFLOP | MB | FLOP/byte | ms | GFLOP/s | bound ms | by | of bound |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|")
    bound = work = 0.0
    for kind, spent in sorted(groups.items(), key=lambda pair: -sum(pair[1])):
        calls, seconds = len(spent), sum(spent)
        if not kind.flop:
            continue
        by_work, by_bytes = calls * kind.flop / products, calls * kind.nbytes / adding
        least = max(by_work, by_bytes)
        bound, work = bound + least, work + calls * kind.flop
        print(
            f"| {kind.name} | {calls} | {calls * kind.flop / size / 1e9:.3f} "
            f"| {calls * kind.nbytes / size / 1e6:.1f} | {kind.flop / kind.nbytes:.0f} "
            f"| {1e3 * seconds / size:.2f} | {calls * kind.flop / seconds / 1e9:.1f} "
            f"| {1e3 * least / size:.2f} | {'work' if by_work > by_bytes else 'bytes'} "
            f"| {least / seconds:.2f} |"
        )
    others = {k.name: sum(s) for k, s in groups.items() if not k.flop and sum(s) > 0.001 * whole}
    for name, seconds in sorted(others.items(), key=lambda pair: -pair[1]):
        print(f"| {name} | | | | | {1e3 * seconds / size:.2f} | | | | |")
    print(
        f"\nwhole: {1e3 * whole / size:.1f} ms of a core an image, {work / size / 1e9:.2f} GFLOP, "
        f"{work / whole / 1e9:.1f} GFLOP/s, {work / whole / products:.2f} of torch.mm"
    )
    print(
        f"bound of the convolutions: {1e3 * bound / size:.1f} ms, {bound / whole:.2f} of the time; "
        f"{cores()} cores could do {cores() * size / bound:.1f} images/s, do "
        f"{cores() * size / whole:.1f}"
    )


if __name__ == "__main__":
    main()
