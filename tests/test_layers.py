"""The layers of the package: imports go strictly downward, and only `cli` talks to the terminal.

Every import statement counts, also those inside functions and under ``TYPE_CHECKING``: a name that
is needed only for its type still ties two layers together. The one exception is a third-party type
under ``TYPE_CHECKING``, which costs nothing when the package runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "resmem_extract"
ROOT = Path(__file__).parents[1] / PACKAGE

# Unit -> layer. A unit is one sub-package, or modules that a reader takes together; units of one
# layer do not know each other. A new file has to be put into a unit here.
LAYER = {
    "_version": 0,
    "errors": -1,  # below all others: every layer may raise them
    "partial_files": -1,
    "path_grammar": 0,
    "types": 0,
    "cache": 0,
    "gram": 0,  # shared by compare and encoding
    "rdm": 0,  # shared by compare and store
    "images": 1,
    "weights": 1,
    "module_path": 1,
    "capture": 1,
    "store": 1,
    "compare": 1,
    "encoding": 1,
    "transforms": 1,
    "models": 2,
    "config": 2,
    "datasets": 2,
    "pipeline": 3,
    "thingsvision": 3,
    "report": 3,
    "cli": 4,
    "top": 5,
}

# Modules directly in the package that have not the name of their unit.
UNIT_OF_MODULE = {
    "decoding": "images",
    "downloads": "weights",
    "__init__": "top",
    "__main__": "top",
}

# Packages that a unit must not import, not even lazily.
FORBIDDEN = {
    "errors": {"torch", "torchvision", "h5py", "numpy"},
    "partial_files": {"torch", "torchvision", "h5py", "numpy"},
    "path_grammar": {"torch", "torchvision", "h5py", "numpy"},
    "types": {"torch", "torchvision", "h5py"},
    "cache": {"torch", "torchvision", "h5py", "numpy"},
    "images": {"torch", "torchvision"},
    "weights": {"torch", "torchvision", "h5py", "numpy", "resmem"},
    "module_path": {"h5py"},
    "capture": {"h5py"},
    "store": {"torch", "torchvision"},
    "gram": {"torchvision", "h5py"},
    "rdm": {"torch", "torchvision", "h5py"},
    "compare": {"torchvision", "h5py"},
    "encoding": {"torchvision", "h5py"},
    "transforms": {"torch", "torchvision", "h5py"},
    "models": {"h5py", "resmem"},
    "thingsvision": {"h5py"},
}


@dataclass(frozen=True)
class Import:
    """One import: by whom, of what, where, and whether only a type checker runs it."""

    module: str
    target: str
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def read_package(root: Path = ROOT) -> dict[str, str]:
    """Map each module's dotted name within the package (`store.writer`) to its source."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }


def unit(module: str) -> str | None:
    """Return the unit of a dotted name within the package, None if it has none."""
    first = module.split(".")[0] or "__init__"
    name = UNIT_OF_MODULE.get(first, first)
    return name if name in LAYER else None


def imports(module: str, source: str) -> Iterator[Import]:
    """Yield every import of a module, relative ones made absolute."""
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }
    package = [PACKAGE, *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *base]
            # `from package import name` may bind a module: the name counts as well.
            targets = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for target in targets:
            yield Import(module, target, node.lineno, id(node) in typing_only)


def internal(target: str, modules: Mapping[str, str]) -> str | None:
    """Return which module of the package an import loads, None for third-party ones."""
    first, *rest = target.split(".")
    if first != PACKAGE:
        return None
    while rest:
        for name in (".".join(rest), ".".join([*rest, "__init__"])):
            if name in modules:
                return name
        rest.pop()
    return "__init__"


def layer_problems(modules: Mapping[str, str]) -> list[str]:
    """Return every import that goes upward, sideways, or to a package that is not allowed."""
    problems = [f"{module} has no layer" for module in modules if unit(module) is None]
    for module, source in modules.items():
        own = unit(module)
        if own is None:
            continue
        for found in imports(module, source):
            target = internal(found.target, modules)
            if target is None:
                package = found.target.split(".")[0]
                if package in FORBIDDEN.get(own, ()) and not found.typing_only:
                    problems.append(f"{found}: not allowed in {own}")
                continue
            other = unit(target)
            if other is None or other == own:
                continue
            # The package itself stands on top: `from resmem_extract import x` of anything else is
            # an import of the module x, never of what __init__ gathers.
            if LAYER[other] >= LAYER[own]:
                problems.append(f"{found}: {own} (layer {LAYER[own]}) must not know {other}")
    return problems


def cycles(modules: Mapping[str, str]) -> list[str]:
    """Return a chain for each import cycle; a submodule does not count as importing its package."""
    edges = {
        module: sorted(
            {
                target
                for found in imports(module, source)
                if (target := internal(found.target, modules)) and target != module
            }
        )
        for module, source in modules.items()
    }
    done: set[str] = set()
    problems: list[str] = []

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            problems.append(" -> ".join([*chain[chain.index(module) :], module]))
        elif module not in done:
            for target in edges[module]:
                visit(target, [*chain, module])
            done.add(module)

    for module in modules:
        visit(module, [])
    return problems


def terminal_problems(modules: Mapping[str, str]) -> list[str]:
    """Return every place outside `cli` that writes to the terminal."""
    problems = []
    for module, source in modules.items():
        if unit(module) == "cli":
            continue
        for found in imports(module, source):
            if found.target.split(".")[0] in {"click", "rich", "typer"}:
                problems.append(str(found))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                problems.append(f"{module}:{node.lineno} calls print")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "sys.stdout",
                "sys.stderr",
            }:
                problems.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
    return problems


# --- the package ---------------------------------------------------------------------------------


def test_imports_go_downward() -> None:
    assert layer_problems(read_package()) == []


def test_no_import_cycles() -> None:
    assert cycles(read_package()) == []


def test_only_the_command_line_writes_to_the_terminal() -> None:
    assert terminal_problems(read_package()) == []


# --- the checker can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store.writer", "import torch"),
        ("store.writer", "def f():\n    import torch.nn as nn"),
        ("store.dataset", "from torch.utils.data import Dataset"),
        ("capture.engine", "import h5py"),
        ("images", "from torchvision import transforms"),
        ("decoding", "import torch"),
        ("compare.rdm", "import h5py"),
        ("weights", "import numpy as np"),
        ("models.resmem", "import resmem"),
        ("capture.engine", "from resmem_extract.store import writer"),
        ("capture.engine", "from resmem_extract import store"),
        ("capture.engine", "import resmem_extract.store.writer"),
        ("capture.engine", "from ..store.writer import Writer"),
        ("capture.engine", "def f():\n    from .. import store"),
        ("capture.engine", "from resmem_extract.pipeline import extract"),
        ("weights", "from resmem_extract.images import find"),
        ("models.resmem", "from resmem_extract.config import Run"),
        ("report.figures", "from resmem_extract.pipeline import extract"),
        ("errors", "from resmem_extract.types import DType"),
        ("pipeline", "from resmem_extract.cli import main"),
        ("pipeline", "import resmem_extract"),
        ("cli.extract", "from resmem_extract import load_model"),
        (
            "capture.engine",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from resmem_extract.store.writer import Writer",
        ),
        ("brand_new", ""),
    ],
)
def test_planted_layer_violation_is_found(module: str, source: str) -> None:
    modules = {"__init__": "", "store.__init__": "", "store.writer": "", "capture.__init__": ""}
    modules |= {"pipeline": "", "cli.__init__": "", "images": "", "config": "", "types": ""}
    problems = layer_problems(modules | {module: source})
    assert len(problems) == 1
    assert problems[0].startswith(module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store.writer", "import h5py\nfrom resmem_extract.errors import StoreError"),
        ("store.writer", "from .schema import FORMAT\nfrom . import schema"),
        ("images", "from resmem_extract.decoding import decode"),
        ("types", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("pipeline", "from resmem_extract.store.writer import Writer\nimport torch, h5py"),
        ("cli.extract", "from resmem_extract import pipeline"),
        ("__init__", "from resmem_extract.cli import main"),
    ],
)
def test_allowed_import_is_not_reported(module: str, source: str) -> None:
    modules = dict.fromkeys(
        ["__init__", "store.__init__", "store.schema", "store.writer", "pipeline", "decoding"], ""
    )
    modules |= {"cli.__init__": "", "errors": ""}
    assert layer_problems(modules | {module: source}) == []


@pytest.mark.parametrize(
    "modules",
    [
        {"store.a": "from . import b", "store.b": "def f():\n    from .a import g"},
        {
            "store.a": "from .b import x",
            "store.b": "from .c import x",
            "store.c": "from .a import x",
        },
        {"store.a": "from resmem_extract.store import open_store"},
    ],
)
def test_planted_cycle_is_found(modules: dict[str, str]) -> None:
    package = {"__init__": "", "store.__init__": "from .a import open_store"}
    assert len(cycles(package | modules)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "print('done')",
        "import typer\ndef f():\n    typer.echo('done')",
        "def f():\n    from rich.console import Console",
        "import sys\nsys.stderr.write('done')",
    ],
)
def test_planted_output_is_found(source: str) -> None:
    assert len(terminal_problems({"pipeline": source})) == 1
    assert terminal_problems({"cli.extract": source}) == []
