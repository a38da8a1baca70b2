"""Whether the pruned graph equals the full network, for a small member of every architecture.

    python benchmarks/architectures.py [--source torchvision] [--only vgg]

For each family (a module of torchvision or timm that defines networks) a small member is built
with random weights. Its output and three modules over the depth are captured
by the fastest engine that fits, and compared with plain hooks on the full network, on two images
of noise. Prints a Markdown table; `docs/models.md` has it for the versions named there.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch

import resmem_extract as rx
from resmem_extract.capture import deviation, prepare
from resmem_extract.errors import ResmemExtractError
from resmem_extract.models import list_models
from resmem_extract.path_grammar import Address


def families(source: str) -> dict[str, list[str]]:
    """Return the names of networks by the module that defines them."""
    found: dict[str, list[str]] = {}
    if source == "timm":
        for entry in list_models("timm"):
            found.setdefault(entry.description, []).append(entry.name)
        return found
    from torchvision import models

    for entry in list_models("torchvision"):
        builder = models.get_model_builder(entry.name.removeprefix("torchvision/"))
        family = builder.__module__.rpartition("torchvision.models.")[2]
        found.setdefault(family, []).append(entry.name)
    return found


_SMALL = ("test", "atto", "femto", "pico", "nano", "micro", "mini", "tiny", "xxs", "xs", "small",
          "_s", "18", "_t", "b0", "050", "0")  # fmt: skip
_CANDIDATES = 6


def small_member(source: str, names: list[str]) -> str:
    """Return the member with the fewest parameters of those whose names say that they are small."""

    def rank(name: str) -> tuple[int, int]:
        short = name.partition("/")[2]
        return next((i for i, word in enumerate(_SMALL) if word in short), 99), len(name)

    sizes = {}
    for name in sorted(names, key=rank)[:_CANDIDATES]:
        try:
            network = rx.load_model(name, structure_only=True).network
        except Exception:  # a definition that cannot be built here is not a small one
            continue
        sizes[name] = sum(p.numel() for p in network.parameters())
    return min(sizes, key=lambda name: (sizes[name], name), default=names[0])


def modules(model: rx.Model) -> list[str]:
    """Return three modules over the depth that give an activation, and the output."""
    usable = [i.path for i in model.list_modules() if i.calls == 1 and i.shape is not None]
    inner = [path for path in usable if path != "output"]
    picked = [inner[int(f * (len(inner) - 1))] for f in (0.1, 0.5, 0.9)] if inner else []
    return [*dict.fromkeys(picked), "output"]


def has_batch_axis(model: rx.Model, address: Address) -> bool:
    """Tell whether an activation can be stored: windows, for example, cannot."""
    try:
        prepare(model.network, [address], model.noise(), device=torch.device("cpu"),
                engine="reference")  # fmt: skip
    except ResmemExtractError:
        return False
    return True


def check(name: str) -> tuple[str, float, float]:
    """Return the engine, the deviation from plain hooks, and the seconds that it took."""
    started = time.perf_counter()
    model = rx.load_model(f"{name}@random")
    cpu, make = torch.device("cpu"), model.noise()
    addresses = [a for path in modules(model) for a in model.paths.resolve(path)]
    usable = [a for a in addresses if has_batch_axis(model, a)]
    inputs = make(2)
    expected = prepare(model.network, usable, make, device=cpu, engine="reference")(inputs)
    fast = prepare(model.network, usable, make, device=cpu)
    found = fast(inputs)
    worst = max(
        deviation(torch.from_numpy(found[path]), torch.from_numpy(expected[path]))
        for path in expected
    )
    return fast.engine, float(np.max(worst)), time.perf_counter() - started


def rows(sources: list[str], only: str) -> Iterator[tuple[str, str, str, str]]:
    for source in sources:
        for family, names in sorted(families(source).items()):
            if only and only not in family:
                continue
            name = small_member(source, names)
            try:
                engine, worst, seconds = check(name)
            except Exception as error:  # a table is wanted, whatever one network does
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                yield family, name, "none", f"{type(error).__name__}: {line[:80]}"
                continue
            yield family, name, engine, f"{worst:.1e}"
            print(f"{name}: {engine}, {worst:.1e}, {seconds:.0f} s", flush=True, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", choices=["torchvision", "timm"])
    parser.add_argument("--only", default="", help="families whose name contains this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| family | member | engine | deviation |\n|---|---|---|--:|")
    for row in rows(options.source or ["torchvision", "timm"], options.only):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
