"""Whether the pruned graph equals the full network, for a small member of every architecture.

    python benchmarks/architectures.py [--source torchvision] [--only vgg]
    python benchmarks/architectures.py --rows rows.csv --seconds 500     # until none are left

For each family (a module of torchvision or timm that defines networks) a small member is built
with random weights. Its output and three modules over the depth are captured by the fastest
engine that fits, and compared with plain hooks on the full network, on two images of noise.
Prints a Markdown table; `docs/architectures.md` has it for the versions named there.

All take more than an hour. `--rows` keeps each row as it is found, and goes on from those.
"""

from __future__ import annotations

import argparse
import csv
import math
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import resmem_extract as rx
from resmem_extract.capture import Capture, deviation, prepare
from resmem_extract.errors import ResmemExtractError
from resmem_extract.models import list_models
from resmem_extract.path_grammar import Address


class Row(NamedTuple):
    """One line of the table."""

    family: str
    member: str
    engine: str
    deviation: str
    """Or why it was not run."""


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
_LARGEST = 500e6
"""Parameters; families without a smaller member are listed as not run."""


def small_member(names: list[str]) -> rx.Model:
    """Return the member with the fewest parameters of those whose names say that they are small.

    Only its structure, where possible on the meta device.
    """

    def rank(name: str) -> tuple[int, int]:
        short = name.partition("/")[2]
        return next((i for i, word in enumerate(_SMALL) if word in short), 99), len(name)

    def size(model: rx.Model) -> int:
        return sum(p.numel() for p in model.network.parameters())

    members = []
    for name in sorted(names, key=rank)[:_CANDIDATES]:
        with suppress(Exception):  # a definition that cannot be built here is not a small one
            members.append(rx.load_model(name, structure_only=True))
    smallest = min(members, key=lambda model: (size(model), model.name))
    if size(smallest) > _LARGEST:
        raise RuntimeError(f"{smallest.name} has {size(smallest) / 1e6:.0f} M parameters")
    return smallest


def modules(model: rx.Model) -> list[str]:
    """Return three modules over the depth that give an activation, and the output."""
    usable = [i.path for i in model.list_modules() if i.calls == 1 and i.shape is not None]
    inner = [path for path in usable if path != "output"]
    picked = [inner[int(f * (len(inner) - 1))] for f in (0.1, 0.5, 0.9)] if inner else []
    return [*dict.fromkeys(picked), "output"]


def by_plain_hooks(model: rx.Model, addresses: list[Address]) -> tuple[Capture, list[Address]]:
    """Return the reference, and what of the addresses can be stored: windows cannot."""
    arguments = {"device": torch.device("cpu"), "engine": "reference"}
    with suppress(ResmemExtractError):
        return prepare(model.network, addresses, model.noise(), **arguments), addresses
    usable = []
    for address in addresses:
        with suppress(ResmemExtractError):
            prepare(model.network, [address], model.noise(), **arguments)
            usable.append(address)
    return prepare(model.network, usable, model.noise(), **arguments), usable


def check(member: rx.Model) -> tuple[str, float, float]:
    """Return the engine, the deviation from plain hooks, and the seconds that it took."""
    started = time.perf_counter()
    model = rx.load_model(f"{member.name}@random")
    make, inputs = model.noise(), model.noise()(2)
    addresses = [a for path in modules(member) for a in model.paths.resolve(path)]
    reference, usable = by_plain_hooks(model, addresses)
    expected = reference(inputs)
    fast = prepare(model.network, usable, make, device=torch.device("cpu"))
    found = fast(inputs)
    worst = [
        deviation(torch.from_numpy(found[path]), torch.from_numpy(expected[path]))
        for path in expected
    ]
    return fast.engine, float(np.max(worst)), time.perf_counter() - started


def row(family: str, names: list[str], patience: int) -> Row:
    """Return what became of one family in so many seconds, whatever that is."""
    name = ""
    signal.alarm(patience)
    try:
        member = small_member(names)
        name = member.name
        engine, worst, seconds = check(member)
    except (Exception, OutOfTime) as error:  # a table is wanted, whatever one network does
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Row(family, name, "not run", line[:100])
    finally:
        signal.alarm(0)
    print(f"{name}: {engine}, {worst:.1e}, {seconds:.0f} s", flush=True, file=sys.stderr)
    return Row(family, name, engine, f"{worst:.1e}")


class OutOfTime(BaseException):
    """No library's `except Exception` is to hold this up."""


def give_up(*_: object) -> None:
    raise OutOfTime("took too long here")


def read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [Row(*cells) for cells in csv.reader(stream)]


def keep(path: Path | None, new: Row) -> None:
    if path is not None:
        with path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", choices=["torchvision", "timm"])
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--rows", type=Path, help="a CSV file that has rows, and gets the new ones")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin none after these")
    parser.add_argument("--patience", type=int, default=150, help="seconds for one family")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, give_up)
    started = time.perf_counter()
    known = read(options.rows)
    done = {known_row.family for known_row in known}
    left = 0
    for source in options.source or ["torchvision", "timm"]:
        for short, names in sorted(families(source).items()):
            family = f"{source}: {short}"
            if options.only not in short or family in done:
                continue
            if time.perf_counter() - started > options.seconds:
                left += 1
                continue
            known.append(row(family, names, options.patience))
            keep(options.rows, known[-1])
    print("| family | member | engine | deviation |\n|---|---|---|--:|")
    for found in sorted(known, key=lambda r: (r.family.startswith("timm"), r.family)):
        print(f"| {' | '.join(found)} |")
    print(f"{left} families left", file=sys.stderr)


if __name__ == "__main__":
    main()
