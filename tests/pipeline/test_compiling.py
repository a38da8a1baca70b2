"""When a run is compiled: asked for, impossible, or worth it; and what is remembered of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import resmem_extract as rx
from resmem_extract import capture as capture_package
from resmem_extract.config import RunOptions
from resmem_extract.pipeline import compiling
from resmem_extract.pipeline.run import prepare_capture


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(resmem) -> rx.Model:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 11, 4), nn.ReLU()).eval()
    return rx.Model("small", "own", network, resmem.preprocessing)


class Told(list[str]):
    """Keeps what it is told."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture
def compilations(monkeypatch) -> list[int]:
    """A stand-in for compiling that keeps the batch sizes it is called with."""
    done: list[int] = []

    def stand_in(capture, make_input, batch_size: int, cache: Path):
        done.append(batch_size)
        return replace(capture, engine="compiled", fallback=capture)

    monkeypatch.setattr(capture_package, "compile_capture", stand_in)
    monkeypatch.setattr(capture_package, "why_not_compile", lambda _capture: None)
    return done


def decide(model: rx.Model, n_images: int, **options):
    asked, told = RunOptions(device="cpu", **options), Told()
    capture = prepare_capture(model, ["1"], asked, told)
    capture, plan = compiling.compiled_if_worthwhile(model, capture, asked, n_images, told)
    return capture.engine, plan, told


def test_few_images_are_not_compiled_and_nothing_is_said(small, compilations, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "_seconds_per_image", lambda *_: pytest.fail("was timed"))
    assert decide(small, 499)[::2] == ("fused", [])
    assert decide(small, 10**6, compile="off")[::2] == ("fused", [])
    assert compilations == []


def timed(monkeypatch, **seconds: float) -> None:
    """Have engines take so many seconds an image."""
    monkeypatch.setattr(
        compiling, "_seconds_per_image", lambda _m, capture, _p, n_batches: seconds[capture.engine]
    )


@pytest.mark.parametrize(
    ("seconds_per_image", "n_images", "engine"),
    [(0.05, 1_000, "graph"), (0.05, 10_000, "compiled"), (1e-6, 10**6, "graph")],
)
def test_auto_weighs_gain_against_cost(
    small, compilations, monkeypatch, seconds_per_image: float, n_images: int, engine: str
) -> None:
    timed(monkeypatch, graph=seconds_per_image, compiled=seconds_per_image)
    monkeypatch.setattr(compiling, "_cold_seconds", lambda _: 30.0)
    monkeypatch.setattr(compiling, "_expected_gain", lambda _: 1.1)
    found, plan, told = decide(small, n_images, engine="graph")
    assert found == engine
    if engine == "compiled":
        assert compilations == [plan.batch_size]
        assert plan.streams == 1
        assert told[-1].startswith("compiled in ")
    else:
        assert told[-1].startswith("not compiled: it would save about ")
        assert told[-1].endswith("take about 30 s (--compile on does it)")


@pytest.mark.parametrize(
    ("engine", "precision", "gains"),
    [
        ("fused", "float32", False),
        ("graph", "float32", False),
        ("fused", "bfloat16", False),
        ("graph", "bfloat16", True),
    ],
)
def test_what_gains_nothing_is_not_compiled_unasked(
    small, compilations, monkeypatch, engine: str, precision: str, gains: bool
) -> None:
    timed(monkeypatch, graph=0.05, compiled=0.01)
    used, _, told = decide(small, 10**6, engine=engine, precision=precision)
    assert (used == "compiled") == gains == bool(compilations)
    if not gains:
        assert told == [
            "not compiled: compiled code is not expected to be faster here (--compile on finds out)"
        ]


@pytest.mark.parametrize(
    ("compiled", "n_images", "engine"),
    [(0.04, 499, "compiled"), (0.05, 499, "graph"), (0.06, 10**6, "graph")],
)
def test_auto_goes_by_what_was_measured_before(
    small, compilations, monkeypatch, compiled: float, n_images: int, engine: str
) -> None:
    timed(monkeypatch, graph=0.05, compiled=compiled)
    decide(small, 1, compile="on", engine="graph")  # the stand-in takes no time
    assert decide(small, n_images, engine="graph")[0] == engine
    if n_images < 500:  # other batches are other code, of which nothing is known
        assert decide(small, n_images, engine="graph", batch_size=3)[2] == []


def test_on_compiles_even_one_image(small, compilations) -> None:
    assert decide(small, 1, compile="on", batch_size=3)[0] == "compiled"
    assert compilations == [3]


def test_what_cannot_be_compiled_is_said(small, monkeypatch) -> None:
    monkeypatch.setattr(capture_package, "why_not_compile", lambda _capture: "no g++")
    assert decide(small, 1, compile="on")[::2] == ("fused", ["not compiled: no g++"])
    assert decide(small, 500)[::2] == ("fused", ["not compiled: no g++"])
    assert decide(small, 499)[::2] == ("fused", [])


def test_a_failure_falls_back_with_one_line(small, compilations, monkeypatch) -> None:
    def fails(*_args):
        raise capture_package.CannotCompileError("g++ broke")

    monkeypatch.setattr(capture_package, "compile_capture", fails)
    engine, plan, told = decide(small, 1, compile="on")
    assert (engine, told) == ("fused", ["not compiled: g++ broke"])
    assert plan == decide(small, 1, compile="off")[1]


def test_what_it_took_is_recalled(small, compilations, monkeypatch) -> None:
    seconds = iter((0.0, 20.0, 100.0, 107.0))
    monkeypatch.setattr(compiling, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    timed(monkeypatch, fused=0.05, compiled=0.04)
    asked = RunOptions(device="cpu", compile="on")
    capture = prepare_capture(small, ["1"], asked, Told())
    key = compiling._key(small, capture, compiling.choose_plan(capture, asked, compiled=True))
    assert compiling._recall(key) is None
    assert decide(small, 1, compile="on")[2] == ["compiled in 20.0 s"]
    assert compiling._recall(key) == compiling._Known(20.0 * compiling._WARM_SHARE, 0.04)
    timed(monkeypatch, fused=0.05, compiled=float("nan"))  # is not timed again
    assert decide(small, 1, compile="on")[2] == ["compiled in 7.0 s"]
    assert compiling._recall(key) == compiling._Known(7.0, 0.04)


def test_what_an_older_version_remembered_is_not_taken(small) -> None:
    compiling.remember("key", "12.3")
    assert compiling._recall("key") is None


def test_the_decision_is_in_the_provenance(tmp_path, photos, small, compilations) -> None:
    # In this order: what compiling took is remembered, and decides from then on.
    for choice, engine in (("auto", "fused"), ("on", "compiled")):
        out = tmp_path / f"{choice}.h5"
        rx.extract(small, "1", photos, out=out, compile=choice, device="cpu", batch_size=2)
        with rx.open_store(out) as store:
            assert store.provenance["engine"] == engine
            assert store.provenance["batch_size"] == 2
