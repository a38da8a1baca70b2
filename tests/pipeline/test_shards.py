"""Several processes that share the rows of one result."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_model import MODULES, assert_same, draw_many, small

import resmem_extract as rx
from resmem_extract.errors import RequestError
from resmem_extract.pipeline import parts
from resmem_extract.pipeline.request import Record
from resmem_extract.pipeline.work import WorkFolder

N, BATCH = 100, 4  # chunks have 32 rows


@pytest.fixture(scope="module")
def model() -> rx.Model:
    return small()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_many(tmp_path_factory.mktemp("shards") / "in", N)


@pytest.fixture(scope="module")
def undisturbed(model: rx.Model, pictures: Path) -> Path:
    out = pictures.parent / "undisturbed.h5"
    rx.extract(model, MODULES, pictures, out=out, batch_size=BATCH)
    return out


def extract(model: rx.Model, images: Path, out: Path, shard: Any, **options: Any):
    told: list[str] = []
    options = {"batch_size": BATCH, "streams": 1, **options}
    summary = rx.extract(model, MODULES, images, out=out, shard=shard, tell=told.append, **options)
    return summary, told


@pytest.mark.parametrize("order", [("1/3", "2/3", "3/3"), ("2/3", "0/3", "1/3")])
def test_the_last_shard_joins(tmp_path, model, pictures, undisturbed, order):
    out = tmp_path / "f.h5"
    done = 0
    for i, shard in enumerate(order):
        assert not out.exists()
        summary, _ = extract(model, pictures, out, shard)
        done += summary.computed
        assert (summary.images, summary.missing) == (done, N - done)
        assert summary.bytes == (out.stat().st_size if i == 2 else 0)
    assert_same(out, undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5"]
    assert extract(model, pictures, out, "1/3")[0].already_complete


def test_more_shards_than_there_is_work_for(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    computed = [extract(model, pictures, out, (i, 6))[0].computed for i in range(6)]
    assert (sum(computed), computed.count(0)) == (N, 2)
    assert_same(out, undisturbed)


def test_a_plain_run_does_what_lost_shards_left(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    extract(model, pictures, out, "0/3")
    extract(model, pictures, out, "2/3")
    summary, _ = extract(model, pictures, out, None, batch_size=None)
    assert (summary.computed, summary.missing) == (32, 0)
    assert_same(out, undisturbed)


def test_another_number_of_shards_goes_on(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    assert extract(model, pictures, out, "1/2")[0].computed == 36
    assert [extract(model, pictures, out, (i, 4))[0].computed for i in range(2)] == [32, 32]
    assert_same(out, undisturbed)


def test_overlapping_parts_are_joined_without_doubles(tmp_path, model, pictures, undisturbed):
    """Two runs that cut the rows in different ways at the same time may do some of them twice."""
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    extract(model, pictures, one, "0/2")  # rows 0 to 64
    WorkFolder(two).path.mkdir()
    shutil.copy(WorkFolder(one).path / "request.json", WorkFolder(two).path)
    extract(model, pictures, two, "1/3")  # rows 32 to 64
    extract(model, pictures, two, "2/3")  # and 64 to 100
    for part in WorkFolder(two).parts():
        part.path.rename(WorkFolder(one).path / part.path.name)
    assert [part.rows for part in WorkFolder(one).parts()] == [
        range(64), range(32, 64), range(64, 100)
    ]  # fmt: skip
    assert extract(model, pictures, one, None)[0].computed == 0
    assert_same(one, undisturbed)


def test_a_shard_goes_on_where_it_was_interrupted(
    tmp_path, model, pictures, undisturbed, monkeypatch
):
    monkeypatch.setattr(parts, "LIMITS", parts.Limits(nbytes=1))
    monkeypatch.setattr(parts.Blueprint, "align", BATCH)
    out = tmp_path / "f.h5"

    def stop(done: int, _total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="20 of 100 images are kept"):
        extract(model, pictures, out, "0/2", progress=stop)
    extract(model, pictures, out, "1/2")
    totals: list[tuple[int, int]] = []
    summary, _ = extract(
        model, pictures, out, "0/2", progress=lambda done, total: totals.append((done, total))
    )
    assert (summary.computed, totals[0], totals[-1]) == (28, (20, 48), (48, 48))
    assert_same(out, undisturbed)


def test_the_same_shard_twice_at_a_time_is_refused(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    refused: list[str] = []

    def meddle(done: int, _total: int) -> None:
        if done == BATCH:
            for shard in ("1/2", "3/2", None):
                with pytest.raises(RequestError) as caught:
                    extract(model, pictures, out, shard)
                refused.append(str(caught.value))

    extract(model, pictures, out, "1/2", progress=meddle)
    assert [line.split(" is being made by ")[0] for line in refused[::2]] == [
        f"shard 1/2 of {out}", str(out)
    ]  # fmt: skip
    assert "shard '3/2': should be i/n" in refused[1]


def test_other_shards_work_beside(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"

    def meddle(done: int, _total: int) -> None:
        if done == BATCH:
            assert extract(model, pictures, out, "1/2")[0].missing == 64

    assert extract(model, pictures, out, "0/2", progress=meddle)[0].missing == 0
    assert_same(out, undisturbed)


def test_the_plan_of_the_first_shard_counts(tmp_path, model, pictures, undisturbed, monkeypatch):
    """Also where two begin at the same time and one of them is a little late."""
    out = tmp_path / "f.h5"
    settle, late = WorkFolder.settle, []

    def second(work: WorkFolder, record: Record) -> Record:
        if not late:
            late.append(record)
            extract(model, pictures, out, "1/2")  # decides on batches of 4
        return settle(work, record)

    monkeypatch.setattr(WorkFolder, "settle", second)
    summary, told = extract(model, pictures, out, "0/2", batch_size=None)
    assert late[0].plan["batch_size"] != BATCH
    assert any(line.startswith("batches of 4,") for line in told)
    assert summary.missing == 0
    assert_same(out, undisturbed)


def test_a_part_that_is_damaged_before_joining_is_not_joined(
    tmp_path, model, pictures, undisturbed
):
    out = tmp_path / "f.h5"
    extract(model, pictures, out, "0/2")
    (part,) = WorkFolder(out).parts()
    part.path.write_bytes(part.path.read_bytes()[:1000])
    summary, told = extract(model, pictures, out, "1/2")
    assert summary.missing == 64
    assert any("start its shard again" in line for line in told)
    assert extract(model, pictures, out, "0/2")[0].computed == 64
    assert_same(out, undisturbed)


@pytest.mark.parametrize("shard", ["3/2", "x/2", "1", "-1/2", "0/0", (1, 2, 3), 4])
def test_wrong_shards(tmp_path, model, pictures, shard):
    with pytest.raises(RequestError, match="should be i/n with i from 0 to n, such as 3/8"):
        extract(model, pictures, tmp_path / "f.h5", shard)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overwrite": True}, "--overwrite replaces a file, --shard shares the making of a new"),
        ({"restart": True}, "--restart with --shard would undo what other shards do"),
    ],
)
def test_options_that_contradict_it(tmp_path, model, pictures, options, message):
    with pytest.raises(RequestError, match=message):
        extract(model, pictures, tmp_path / "f.h5", "0/2", **options)


@pytest.mark.slow
def test_processes_at_the_same_time(tmp_path, pictures, undisturbed):
    script = (
        "import sys\n"
        "from small_model import MODULES, small\n"
        "import resmem_extract as rx\n"
        "rx.extract(small(), MODULES, sys.argv[1], out=sys.argv[2], shard=sys.argv[3])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(pictures), str(tmp_path / "f.h5"), f"{i}/4"],
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
        )
        for i in range(4)
    ]
    for process in processes:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err.decode()
    with rx.open_store(tmp_path / "f.h5") as store:
        assert len(store) == N
