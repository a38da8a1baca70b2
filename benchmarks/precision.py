"""How far each precision, and a compiled graph, is from plain float32 hooks on photographs.

    python benchmarks/precision.py                          # every mode that this device has
    python benchmarks/precision.py --mode bfloat16 --images 64 --device cuda

Prints, as a markdown table, max|a - b| / max|b| over all images for modules over the depth of
ResMem; b is a float32 forward of the full network under plain hooks. The numbers do not depend on
how busy the machine is. Compiling for a module list over the whole depth takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np
from photographs import make_photographs

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
    "tf32",
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
    size, device = arguments.batch_size, pick_device(arguments.device)
    model = load_model("resmem")
    paths = arguments.module or MODULES
    addresses = [address for path in paths for address in model.paths.resolve(path)]
    with tempfile.TemporaryDirectory() as folder:
        pixels = photographs(model, Path(folder), arguments.images)
    print(machine.one_line())
    print(f"{arguments.images} photographs, batches of {size}, on {device}\n", flush=True)
    reference = prepare(model.network, addresses, model.noise(), device=device, engine="reference")
    expected = activations(model, reference, pixels, size)
    # Only now, as it changes the layout of the weights that both share.
    graph = prepare(model.network, addresses, model.noise(), device=device)
    columns = {}
    for mode in arguments.mode or MODES:
        try:
            capture = in_mode(model, graph, mode, size)
        except (CannotCompileError, RequestError) as error:
            print(f"{mode}: {error}", file=sys.stderr)
            continue
        found = activations(model, capture, pixels, size)
        columns[mode] = [deviation(found[path], b) for path, b in expected.items()]
        print(f"{mode}: worst {max(columns[mode]):.1e}", file=sys.stderr, flush=True)
    print_table(list(expected), columns)


def photographs(model: Model, folder: Path, n: int) -> np.ndarray:
    """Return `n` photographs after the first step of the model's preprocessing, `[n, ...]`."""
    stimuli = find_images(make_photographs(folder, n))
    return np.stack([i.pixels for i in load_images(stimuli, model.preprocessing.image, workers=2)])


def batches(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (pixels[start : start + size] for start in range(0, len(pixels), size))


def in_mode(model: Model, graph: Capture, mode: str, size: int) -> Capture:
    """Return the capture in another arithmetic, compiled if the name says so."""
    precision = mode.removeprefix("compiled ")
    check_precision(precision, graph.device)
    capture = in_precision(graph, precision, model.noise())
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
        1e-4 if mode == "compiled float32" else BOUNDS[mode.removeprefix("compiled ")]
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
