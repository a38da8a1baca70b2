"""What answers at once imports neither torch nor torchvision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

HEAVY = ("torch", "torchvision", "sklearn", "skimage", "resmem", "scipy")
RUNNER = """
import json, sys
sys.path.insert(0, {root!r})
from resmem_extract import cli
sys.argv = {arguments!r}
try:
    cli.{main}()
except SystemExit as ended:
    print(json.dumps([ended.code, [name for name in {heavy!r} if name in sys.modules]]))
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    spec = ActivationSpec("conv1", "conv1", (2,), ("image", "unit"))
    with StoreWriter(tmp_path / "f.h5", [spec], 1) as writer:
        writer.append(["a"], ["0" * 64], {"conv1": np.zeros((1, 2), np.float32)})
        writer.finish(provenance={"model": "resmem"})
    return tmp_path / "f.h5"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("extract", ["--help"]),
        ("extract", ["--module", "conv1"]),  # a usage error
        ("resmem-extract", ["--version"]),
        ("resmem-extract", ["--help"]),
        ("resmem-extract", ["models"]),
        ("resmem-extract", ["models", "--json"]),
        ("resmem-extract", ["info", "FILE"]),
        ("resmem-extract", ["score", "--batch-size", "0"]),
    ],
)
def test_no_network_library_is_imported(store, program, arguments):
    code = RUNNER.format(
        root=str(Path(__file__).parents[1]),
        arguments=[program, *(str(store) if a == "FILE" else a for a in arguments)],
        main="extract_main" if program == "extract" else "main",
        heavy=HEAVY,
    )
    for _ in range(1 + (arguments[0] == "models")):  # the first listing ever asks the libraries
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    expected = 2 if arguments[0] in ("--module", "score") else 0
    assert json.loads(done.stdout.splitlines()[-1]) == [expected, []]


def test_an_eager_extraction_imports_no_more_of_torch_than_it_needs(tmp_path, photographs):
    """torchvision would take longer to import than the rest; what compiles is for compiling."""
    photographs[0].save(tmp_path / "a.png")
    sympy = () if metadata.version("torch").startswith("2.0.") else ("sympy",)  # 2.0 needs it
    code = RUNNER.format(
        root=str(Path(__file__).parents[1]),
        arguments=["extract", "--module", "conv1", "--images", str(tmp_path / "a.png"),
                   "--out", str(tmp_path / "f.h5"), "--device", "cpu", "--json"],
        main="extract_main",
        heavy=("torchvision", "torch._dynamo", "torch._inductor", *HEAVY[2:], *sympy, "torch"),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, ["torch"]]


def test_importing_the_package_costs_nothing():
    names = (*HEAVY, "numpy", "h5py")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        f"import resmem_extract; print([n for n in {names!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_interrupt_while_the_program_is_loaded_is_one_line(tmp_path):
    late = tmp_path / "typer.py"
    late.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "resmem_extract", "models"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted: nothing was begun\n")


LIBRARY = """
import ctypes, os, signal, typer
from resmem_extract.cli.terminal import run_app

app = typer.Typer()

@app.command()
def load():
    run = ctypes.pythonapi.PyRun_String  # as extension modules do
    run.argtypes, run.restype = [ctypes.c_char_p, ctypes.c_int] + 2 * [ctypes.py_object], int
    {}

run_app(app, "load")
"""
RUNS = 'run(b"import os; os.kill(os.getpid(), 15)", 257, {"__builtins__": __builtins__}, {})'
FAILS = f"""try: {RUNS}
    except KeyboardInterrupt: raise ImportError("initialization failed")"""


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (RUNS, "nothing was written; the same command starts again from the beginning"),
        (FAILS, "the same command starts again"),
    ],
)
def test_the_end_of_a_time_limit_while_a_library_is_loaded(tmp_path, library, said):
    (tmp_path / "program.py").write_text(LIBRARY.format(library))
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (143, f"error: terminated: {said}\n")
