"""What `bench` measures adds up, what binds is the slowest, and advice fits what was asked."""

from __future__ import annotations

import pytest

from resmem_extract.config import ExtractOptions
from resmem_extract.errors import RequestError
from resmem_extract.images import find_images
from resmem_extract.pipeline import bench as module
from resmem_extract.pipeline import bench_advice as advice
from resmem_extract.pipeline.bench import Stage, bench


def stages(decode: float, transform: float, forward: float, write: float) -> list[Stage]:
    """Return stages of one core each, from milliseconds an image; forward has two cores."""
    one = {"decode": decode, "transform": transform, "write": write}
    made = {name: Stage(name, ms, 1e3 / ms) for name, ms in one.items()}
    made["forward"] = Stage("forward", forward, 2e3 / forward)
    return [made[name] for name in ("decode", "transform", "forward", "write")]


def test_all_stages_are_measured(tmp_path, photos, resmem) -> None:
    told: list[str] = []
    result = bench(
        resmem, "conv1", photos, n_images=7, rounds=1, folder=tmp_path / "not" / "yet",
        device="cpu", batch_size=2, streams=1, threads=1, workers=1, tell=told.append,
    )  # fmt: skip
    assert [stage.name for stage in result.stages] == ["decode", "transform", "forward", "write"]
    assert all(s.core_ms > 0 and s.images_per_second > 0 for s in result.stages)
    assert (result.model, result.modules, result.images) == ("resmem", ("conv1",), 7)
    assert (result.engine, result.precision, result.device) == ("fused", "float32", "cpu")
    assert result.bytes_per_image == 4 * 48 * 55 * 55
    assert result.ratio == result.measured / result.bound > 0
    assert result.binds in {"decode", "forward", "write"}
    assert "batches of 2, 1 at a time, 1 thread each; 1 thread decoding" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_images_are_spread_or_repeated(photos) -> None:
    few = find_images(photos)
    many = module._as_many(few, 12)
    assert (len(many), len(set(many.ids)), many.images[5]) == (12, 12, few.images[0])
    assert module._as_many(few, 2).ids == (few.ids[0], few.ids[2])


@pytest.mark.parametrize(
    ("costs", "binds", "bound"),
    [
        ((1, 1, 16, 2), "forward", 100),  # 2 cores in 20 ms
        ((6, 4, 1, 1), "decode", 100),  # one thread decodes
        ((1, 1, 1, 10), "write", 100),
    ],
)
def test_what_binds(costs, binds, bound) -> None:
    assert advice.slowest(stages(*costs)) == binds
    assert advice.rate_bound(stages(*costs), 2) == pytest.approx(bound)


def test_a_device_takes_no_core() -> None:
    made = [*stages(1, 1, 1, 2)[:2], Stage("forward", 5, 200, True), Stage("write", 2, 500)]
    assert advice.rate_bound(made, 1) == pytest.approx(200)


def test_advice_on_writing_leaves_out_what_was_given() -> None:
    lines = list(advice._faster_writing(ExtractOptions(compression="bitshuffle-lz4")))
    assert [line.split()[0] for line in lines] == ["--compression", "--pool", "--dtype", "--out"]
    lines = list(advice._faster_writing(ExtractOptions(pool="avg", dtype="float16")))
    assert [line.split()[0] for line in lines] == ["--out"]


def test_a_busy_machine_is_named() -> None:
    assert "load 9 on 2" in advice.why_far(9, 2)
    assert "--workers" in advice.why_far(0.1, 2)


@pytest.mark.parametrize("wrong", [{"n_images": 0}, {"rounds": 0}, {"batch_size": 0}])
def test_wrong_requests(photos, resmem, wrong) -> None:
    with pytest.raises(RequestError):
        bench(resmem, "conv1", photos, **wrong)
