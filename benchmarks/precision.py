"""How far each precision, and a compiled graph, is from plain float32 hooks on photographs.

    python benchmarks/precision.py                          # every mode that this device has
    python benchmarks/precision.py --mode bfloat16 --images 64 --device cuda

Prints, as a markdown table, max|a - b| / max|b| over all images for modules over the depth of
ResMem; b is a float32 forward of the full network under plain hooks. The numbers do not depend on
how busy the machine is. Compiling for a module list over the whole depth takes minutes.

`tf32 emulated` needs no GPU: inputs and weights of all convolutions and matrix products are rounded
to the 10 bits that TF32 keeps of a mantissa, and multiplied and added in float32, as tensor cores
do.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import machine
import numpy as np
import torch
from photographs import make_photographs
from torch import nn

from resmem_extract import Model, load_model
from resmem_extract.cache import cache_dir
from resmem_extract.capture import (
    BOUNDS,
    CannotCompileError,
    Capture,
    check_precision,
    compile_capture,
    in_precision,
    pick_device,
    prepare,
)
from resmem_extract.decoding import load_images
from resmem_extract.errors import RequestError
from resmem_extract.images import find_images

MODULES = (
    "conv1",
    "conv5",
    "features.conv1",
    "features.layer1.0.relu@0",
    "features.layer1.2",
    "features.layer2.4",
    "features.layer3.10",
    "features.layer3.35",
    "features.layer4.2",
    "features.avgpool",
    "fc7",
    "output",
)
MODES = (
    "float32",
    "graph float32",
    "tf32",
    "tf32 emulated",
    "bfloat16",
    "float16",
    "compiled float32",
    "compiled bfloat16",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", choices=MODES, action="append", help="repeatable; default: all")
    parser.add_argument("--module", action="append", help="repeatable; default: twelve")
    arguments = parser.parse_args()
    print(machine.one_line())
    print(f"{arguments.images} photographs, batches of {arguments.batch_size}\n", flush=True)
    print_table(
        *measure(
            arguments.mode or MODES,
            arguments.module or MODULES,
            images=arguments.images,
            size=arguments.batch_size,
            device=arguments.device,
        )
    )


def measure(
    modes: Sequence[str],
    modules: Sequence[str] = MODULES,
    *,
    images: int = 24,
    size: int = 8,
    device: str = "cpu",
) -> tuple[list[str], dict[str, list[float]]]:
    """Return the canonical paths, and for each mode that can be had the deviation of each."""
    model = load_model("resmem")
    addresses = [address for path in modules for address in model.paths.resolve(path)]
    with tempfile.TemporaryDirectory() as folder:
        pixels = photographs(model, Path(folder), images)

    def prepared(network: nn.Module, engine: str) -> Capture:
        where = pick_device(device)
        return prepare(network, addresses, model.noise(), device=where, engine=engine)

    expected = activations(model, prepared(model.network, "reference"), pixels, size)
    # Only now, as these may change the layout of the weights that all share.
    usual = prepared(model.network, "auto")
    columns: dict[str, list[float]] = {}
    for mode in modes:
        try:
            if mode == "tf32 emulated":
                capture = prepared(with_tf32_operands(model.network), "reference")
            elif mode == "graph float32":
                capture = prepared(model.network, "graph")
            else:
                capture = in_mode(model, usual, mode, size)
        except (CannotCompileError, RequestError) as error:
            print(f"{mode}: {error}", file=sys.stderr)
            continue
        found = activations(model, capture, pixels, size)
        columns[mode] = [deviation(found[path], b) for path, b in expected.items()]
        print(f"{mode}: worst {max(columns[mode]):.1e}", file=sys.stderr, flush=True)
    return list(expected), columns


def with_tf32_operands(network: nn.Module) -> nn.Module:
    """Return a copy of a network that multiplies numbers of 10 bits of mantissa."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = rounded_to_tf32(module.weight.data)
            module.register_forward_pre_hook(lambda _m, args: (rounded_to_tf32(args[0]),))
    return network


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers rounded to 10 bits of mantissa, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def photographs(model: Model, folder: Path, n: int) -> np.ndarray:
    """Return `n` photographs after the first step of the model's preprocessing, `[n, ...]`."""
    stimuli = find_images(make_photographs(folder, n))
    return np.stack([i.pixels for i in load_images(stimuli, model.preprocessing.image, workers=2)])


def batches(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (pixels[start : start + size] for start in range(0, len(pixels), size))


def in_mode(model: Model, usual: Capture, mode: str, size: int) -> Capture:
    """Return the capture in another arithmetic, compiled if the name says so."""
    precision = mode.removeprefix("compiled ")
    check_precision(precision, usual.device)
    capture = in_precision(usual, precision, model.noise())
    if mode == precision:
        return capture
    return compile_capture(capture, model.noise(), size, cache_dir() / "inductor")


def activations(
    model: Model, capture: Capture, pixels: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    parts = [capture(model.preprocessing.batch(batch)) for batch in batches(pixels, size)]
    return {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    """Return max|a - b| / max|b|."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def print_table(paths: list[str], columns: dict[str, list[float]]) -> None:
    """Print deviations, a module a line, the worst and the bound that tests check below."""
    rows = [(path, *(f"{c[i]:.1e}" for c in columns.values())) for i, path in enumerate(paths)]
    bounds = [
        1e-4 if mode == "compiled float32" else BOUNDS[mode.replace("emulated", "").split()[-1]]
        for mode in columns
    ]
    rows.append(("**worst**", *(f"{max(c):.1e}" for c in columns.values())))
    rows.append(("**bound**", *(f"{bound:.0e}" for bound in bounds)))
    print("| " + " | ".join(("module", *columns)) + " |")
    print("|---|" + "--:|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
