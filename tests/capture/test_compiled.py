"""Compiled graphs: equal numbers, one compilation, and a clean way back to eager."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import convolution, images
from torch import nn

from resmem_extract.capture import (
    CannotCompileError,
    Capture,
    compile_capture,
    prepare,
    why_not_compile,
)
from resmem_extract.capture import compiled as compiled_module
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")
MODULES = ("conv1", "features.layer1.0", "features.layer1.0.relu@0")


def capture_of(network: nn.Module, *texts: str, make_input=images, engine: str = "auto") -> Capture:
    addresses = [a for text in texts for a in ModulePaths(network).resolve(text)]
    return prepare(network, addresses, make_input, device=CPU, engine=engine)


def small() -> Capture:
    torch.manual_seed(0)
    return capture_of(nn.Sequential(convolution(), nn.ReLU()), "1")


@dataclass(frozen=True)
class Both:
    eager: Capture
    compiled: Capture
    cache: Path
    inputs: torch.Tensor


@pytest.fixture(scope="module")
def both(resmem_model, photographs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """The start of ResMem, eager and compiled for batches of four; the one real compilation."""
    model, cache = resmem_model, tmp_path_factory.mktemp("inductor")
    before = os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    addresses = [address for text in MODULES for address in model.paths.resolve(text)]
    eager = prepare(model.network, addresses, model.noise(), device=CPU)
    if reason := why_not_compile(eager):
        pytest.skip(reason)
    pixels = np.stack([model.preprocessing.image(image) for image in photographs])
    try:
        compiled = compile_capture(eager, model.noise(), 4, cache)
        yield Both(eager, compiled, cache, model.preprocessing.batch(pixels))
    finally:
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        if before is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def worst(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert list(a) == list(b)
    return max(float(np.abs(a[path] - b[path]).max() / np.abs(b[path]).max()) for path in b)


@pytest.mark.slow
def test_it_equals_the_graph_on_photographs(both: Both) -> None:
    found, expected = both.compiled(both.inputs), both.eager(both.inputs)
    assert list(found) == list(MODULES)
    assert worst(found, expected) <= 1e-4
    assert all(values.flags.c_contiguous for values in found.values())
    assert (both.compiled.engine, both.compiled.fallback) == ("compiled", both.eager)
    assert not both.compiled.concurrent


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_a_smaller_batch_is_padded_and_not_compiled_anew(both: Both, n: int) -> None:
    from torch._dynamo.utils import counters

    both.compiled(both.inputs)
    before = counters["stats"]["unique_graphs"]
    found = both.compiled(both.inputs[:n])
    assert counters["stats"]["unique_graphs"] == before
    assert {len(values) for values in found.values()} == {n}
    assert worst(found, both.eager(both.inputs[:n])) <= 1e-4


@pytest.mark.slow
def test_what_is_compiled_is_kept_in_the_given_folder(both: Both) -> None:
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(both.cache)
    kept = [path.suffix for path in both.cache.rglob("*") if path.is_file()]
    assert {".cpp", ".so"} & set(kept)


@pytest.mark.slow
def test_weights_are_frozen_and_norms_folded(both: Both) -> None:
    made = [path.read_text() for path in both.cache.rglob("*.py")]
    (code,) = (text for text in made if "convolution" in text and "def call" in text)
    assert "_frozen_param" in code
    assert "batch_norm" not in code


@pytest.mark.slow
def test_a_users_own_cache_folder_is_left_alone(both: Both, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    compile_capture(small(), images, 4, tmp_path / "ours")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "own")


@pytest.fixture
def no_compiling(monkeypatch):
    """Stand-ins for `torch.compile`, so that nothing is compiled here."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nonexistent")

    def use(make) -> None:
        monkeypatch.setattr(torch, "compile", lambda network, **_: make(network))

    return use


@pytest.mark.freezing
def test_any_failure_is_told_in_one_line(no_compiling, tmp_path) -> None:
    def fails(_network):
        def run(_inputs):
            raise RuntimeError("g++ broke\nmany\nmore lines")

        return run

    no_compiling(fails)
    with pytest.raises(CannotCompileError, match=r"^g\+\+ broke$"):
        compile_capture(small(), images, 4, tmp_path)


@pytest.mark.freezing
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_wrong_numbers_are_refused(no_compiling, tmp_path, factor: float) -> None:
    no_compiling(lambda network: lambda inputs: [factor * out for out in network(inputs)])
    with pytest.raises(CannotCompileError, match="it deviates by"):
        compile_capture(small(), images, 4, tmp_path)


@pytest.mark.freezing
def test_rounding_is_accepted(no_compiling, tmp_path) -> None:
    no_compiling(lambda network: lambda inputs: [1.00001 * out for out in network(inputs)])
    assert compile_capture(small(), images, 4, tmp_path).engine == "compiled"


@pytest.mark.freezing
def test_the_logger_of_cpp_extension_speaks_again_afterwards(no_compiling, tmp_path) -> None:
    chatty = logging.getLogger("torch.utils.cpp_extension")
    level = chatty.level
    no_compiling(lambda network: network)
    compile_capture(small(), images, 4, tmp_path)
    assert chatty.level == level


def test_hooks_have_no_graph_to_compile(tmp_path) -> None:
    hooks = capture_of(nn.Sequential(convolution(), nn.ReLU()), "1", engine="hooks")
    assert why_not_compile(hooks) == "engine hooks has no graph"
    with pytest.raises(CannotCompileError, match="engine hooks has no graph"):
        compile_capture(hooks, images, 4, tmp_path)


def test_no_compiler(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert compiled_module._has_compiler() == (why_not_compile(small()) is None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert why_not_compile(small()) == "no C++ compiler (g++) on this machine"


def test_a_torch_that_cannot_freeze(monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.0.1+cpu")
    assert why_not_compile(small()) == "torch 2.0.1+cpu cannot freeze weights"
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert why_not_compile(small()) != "torch 2.10.0 cannot freeze weights"
