"""Runs that end early and go on: what is kept, what is computed again, what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_model import MODULES, assert_same, contents, draw_many, small

import resmem_extract as rx
from resmem_extract.errors import ImageError, RequestError, WorkError
from resmem_extract.pipeline import parts
from resmem_extract.pipeline.work import WorkFolder

N, BATCH = 60, 4


@pytest.fixture(scope="module")
def model() -> rx.Model:
    return small()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_many(tmp_path / "in", N)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: rx.Model) -> Path:
    """The result of a run that nothing interrupts: one file, written straight through."""
    folder = tmp_path_factory.mktemp("undisturbed")
    extract(model, draw_many(folder / "in", N), folder / "f.h5")
    return folder / "f.h5"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close a part after every other batch."""
    monkeypatch.setattr(parts, "LIMITS", parts.Limits(nbytes=2 * BATCH * 8 * 30 * 30 * 4))
    monkeypatch.setattr(parts.Blueprint, "align", BATCH)


class Stop(Exception):
    """Stands for a kill."""


def extract(model: rx.Model, images: Any, out: Path, stop_after: int | None = None, **options: Any):
    """Extract; raise `Stop`, without any tidying up, once some images are done."""

    def progress(done: int, _total: int) -> None:
        if stop_after is not None and done >= stop_after:
            raise Stop

    told: list[str] = []
    options = {"batch_size": BATCH, "streams": 1, "progress": progress, **options}
    summary = rx.extract(model, MODULES, images, out=out, tell=told.append, **options)
    return summary, told


def interrupted(model: rx.Model, images: Any, out: Path, after: int = 30, **options: Any) -> Path:
    """Run until some images are done, and return the work folder."""
    with pytest.raises(Stop):
        extract(model, images, out, after, **options)
    work = WorkFolder(out)
    assert work.parts()
    assert not out.exists()
    return work.path


# --- going on ---


@pytest.mark.parametrize("streams", [1, 2])
def test_the_same_command_goes_on_and_computes_nothing_twice(
    tmp_path, model, pictures, undisturbed, streams
):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)
    kept = sum(len(part.rows) for part in WorkFolder(out).parts())
    assert 16 <= kept < N
    summary, told = extract(model, pictures, out, streams=streams)
    assert f"continuing {out}: {kept} of {N} images are done" in told
    assert (summary.images, summary.computed, summary.missing) == (N, N - kept, 0)
    assert_same(out, undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "in"]
    assert extract(model, pictures, out)[0].already_complete


def test_parts_and_their_join_change_nothing_but_the_provenance(
    tmp_path, model, pictures, undisturbed
):
    extract(model, pictures, tmp_path / "joined.h5")
    assert_same(tmp_path / "joined.h5", undisturbed)
    with h5py.File(undisturbed) as one, h5py.File(tmp_path / "joined.h5") as joined:
        assert one["features/conv"].chunks == joined["features/conv"].chunks
        assert dict(one["features/conv"].attrs) == dict(joined["features/conv"].attrs)
        assert "row" not in joined["images"]


def test_a_part_is_a_feature_store(tmp_path, model, pictures):
    work = interrupted(model, pictures, tmp_path / "f.h5")
    first = sorted(work.glob("part-*.h5"))[0]
    assert first.name == "part-000000000-000000008.h5"
    with rx.open_store(first) as store:
        assert store.columns["row"].tolist() == list(range(8))
        assert store.columns["label"].tolist() == ["0"] * 8
        assert store.provenance["rows"] == [0, 8]
        assert store["conv"].shape == (8, 8, 30, 30)


def test_the_plan_of_the_first_run_is_followed(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    plan = json.loads((work / "request.json").read_text())["plan"]
    assert (plan["batch_size"], plan["device"]) == (BATCH, "cpu")
    summary, told = extract(model, pictures, out, batch_size=None)  # as the first run had it
    assert any(line.startswith(f"batches of {BATCH},") for line in told)
    assert summary.engine == plan["engine"]
    assert_same(out, undisturbed)
    with rx.open_store(out) as store:
        assert store.provenance["batch_size"] == BATCH


def test_parts_in_another_order_and_gaps(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out, 50)
    for name in ("part-000000000-000000008.h5", "part-000000024-000000032.h5"):
        (work / name).unlink()
    n_kept = sum(len(part.rows) for part in WorkFolder(out).parts())
    summary, _ = extract(model, pictures, out)
    assert summary.computed == N - n_kept
    assert_same(out, undisturbed)


def test_everything_is_done_but_joining(tmp_path, model, pictures, undisturbed, monkeypatch):
    out = tmp_path / "f.h5"

    def killed(*_args: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(WorkFolder, "publish", killed)
        extract(model, pictures, out)
    assert not out.exists()
    summary, _ = extract(model, pictures, out)
    assert summary.computed == 0
    assert_same(out, undisturbed)


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_between_the_name_and_the_end(
    tmp_path, model, pictures, undisturbed, monkeypatch, overwrite
):
    out = tmp_path / "f.h5"

    def killed(*_args: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(WorkFolder, "remove", killed)
        extract(model, pictures, out, overwrite=overwrite)
    assert WorkFolder(out).path.exists()
    before = out.stat().st_mtime_ns
    assert extract(model, pictures, out, overwrite=overwrite)[0].already_complete
    assert (out.stat().st_mtime_ns, WorkFolder(out).path.exists()) == (before, False)


def test_skipped_images(tmp_path, model, pictures):
    names = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    for row in (3, *range(8, 16), 20, 59):
        (pictures / names[row]).write_bytes(b"no image")
    extract(model, pictures, tmp_path / "u.h5", on_error="skip")
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out, on_error="skip")
    summary, _ = extract(model, pictures, out, on_error="skip")
    assert [image_id for image_id, _ in summary.skipped] == [
        names[row] for row in (3, *range(8, 16), 20, 59)
    ]
    assert (summary.images, len(contents(out)["images/id"])) == (49, 49)
    assert_same(out, tmp_path / "u.h5")


def test_a_bad_image_stops_a_run_that_goes_on_without_it(tmp_path, model, pictures):
    names = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    (pictures / names[41]).write_bytes(b"")
    extract(model, pictures, tmp_path / "u.h5", on_error="skip")
    out = tmp_path / "f.h5"
    with pytest.raises(
        ImageError,
        match=r"the file is empty; --on-error skip .*; 40 of 60 images are kept, and the",
    ):
        extract(model, pictures, out)
    summary, _ = extract(model, pictures, out, on_error="skip")
    assert summary.computed == 20
    assert_same(out, tmp_path / "u.h5")


def test_ctrl_c_keeps_what_is_computed(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"

    def progress(done: int, _total: int) -> None:
        if done == 12:  # in the middle of a part
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="12 of 60 images are kept, and the same command"):
        extract(model, pictures, out, progress=progress)
    assert [part.rows for part in WorkFolder(out).parts()] == [range(8), range(8, 12)]
    assert extract(model, pictures, out)[0].computed == N - 12
    assert_same(out, undisturbed)


def test_nothing_is_kept_of_a_run_that_did_nothing(tmp_path, model, pictures):
    def progress(_done: int, _total: int) -> None:
        raise AssertionError

    names = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    (pictures / names[0]).write_bytes(b"")
    with pytest.raises(ImageError, match="the file is empty; --on-error skip"):
        extract(model, pictures, tmp_path / "new" / "f.h5", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_without_a_part_another_request_may_begin(tmp_path, model, pictures):
    out = tmp_path / "f.h5"

    def stop(_done: int, _total: int) -> None:
        raise Stop

    work = WorkFolder(out)
    with pytest.raises(Stop):
        extract(model, pictures, out, progress=stop)
    assert not work.path.exists()
    work.path.mkdir()  # as a kill would have left it
    (work.path / "request.json").write_text(json.dumps({"format": 1, "run": "x", "request": {},
                                                        "plan": {}, "provenance": {}}))  # fmt: skip
    (work.path / ".open-000000000.h5.1-00000000-00000000.partial").write_bytes(b"x")
    assert extract(model, pictures, out, dtype="float16")[0].computed == N
    assert not work.path.exists()


# --- parts that cannot be used ---


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def unfinish(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False


def swap_ids(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        ids = file["images/id"][()]
        file["images/id"][...] = ids[::-1]


def cut_rows(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["features/conv"].resize(3, axis=0)


def spoil(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["features/conv"][3, 2, 1, 0] = 7


@pytest.mark.parametrize("damage", [truncate, empty, unfinish, swap_ids, cut_rows, spoil])
def test_a_damaged_part_is_computed_again(tmp_path, model, pictures, undisturbed, damage):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)
    parts_there = WorkFolder(out).parts()
    damage(parts_there[1].path)
    summary, told = extract(model, pictures, out)
    assert any(str(parts_there[1].path) in line and "computed again" in line for line in told)
    assert summary.computed == N - sum(len(p.rows) for p in parts_there) + len(parts_there[1].rows)
    assert_same(out, undisturbed)


def test_a_part_under_a_wrong_name_is_computed_again(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    (work / "part-000000000-000000008.h5").rename(work / "part-000000040-000000048.h5")
    _, told = extract(model, pictures, out)
    assert any("computed again: it has not the rows of its name" in line for line in told)
    assert_same(out, undisturbed)


@pytest.mark.parametrize("shards", [False, True])
def test_parts_of_another_run_are_not_used(tmp_path, model, pictures, undisturbed, shards):
    """Such as a kill leaves them that comes while a work folder is removed."""
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    for part in WorkFolder(out).parts():  # the same rows, with other values
        with h5py.File(part.path, "r+") as file:
            file["features/conv"][...] = 7
    (work / "request.json").unlink()
    if shards:
        for shard in ("0/2", "1/2", "0/2"):
            extract(model, pictures, out, shard=shard)
    else:
        assert extract(model, pictures, out)[0].computed == N
    assert_same(out, undisturbed)


def test_what_a_killed_removal_leaves_is_removed(tmp_path, model, pictures, monkeypatch):
    out = tmp_path / "f.h5"
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("part-"):
            raise Stop
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Path, "unlink", killed)
        extract(model, pictures, out)
    assert WorkFolder(out).parts()
    assert WorkFolder(out).read() is None
    assert extract(model, pictures, out)[0].already_complete
    assert not WorkFolder(out).path.exists()


def test_a_damaged_request_is_one_line(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    (work / "request.json").write_text("{")
    with pytest.raises(RequestError, match=r"request\.json cannot be read .* --restart begins"):
        extract(model, pictures, out)
    assert extract(model, pictures, out, restart=True)[0].computed == N


# --- another request ---


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"dtype": "float16"}, "conv: float32 (8, 30, 30) there, float16 (8, 30, 30) asked"),
        ({"pool": "avg"}, "pool: none there, avg asked"),
        ({"exif_orientation": True}, "exif orientation: False there, True asked"),
        ({"precision": "bfloat16"}, "precision: float32 there, bfloat16 asked"),
        ({"engine": "hooks"}, " there, hooks asked"),
        ({"batch_size": 8}, "batch size: 4 there, 8 asked"),
        ({"threads": 77}, " there, 77 asked"),
        ({"compression": "bitshuffle-lz4"}, "compression: none there, bitshuffle-lz4 asked"),
    ],
)
def test_other_options_are_refused(tmp_path, model, pictures, options, difference):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    before = sorted(path.name for path in work.iterdir())
    with pytest.raises(RequestError) as caught:
        extract(model, pictures, out, **options)
    assert difference in str(caught.value)
    assert "half done, by another request" in str(caught.value)
    assert "--restart" in str(caught.value)
    assert str(caught.value).isprintable()
    assert sorted(path.name for path in work.iterdir()) == before


def test_other_modules_weights_and_preprocessing_are_refused(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)

    def refusal(model: rx.Model, modules: Any = MODULES) -> str:
        with pytest.raises(RequestError) as caught:
            rx.extract(model, modules, pictures, out=out)
        return str(caught.value)

    assert "modules: output only there, fc only asked" not in refusal(model, ["conv"])
    assert "modules: output only there, nothing only asked" in refusal(model, ["conv"])
    assert "state dict sha256: " in refusal(small(1))
    wider = type(model.preprocessing)()
    wider.describe = lambda: {"size": [32, 32], "crop": 30}  # type: ignore[method-assign]
    told = refusal(replace(model, preprocessing=wider))
    assert "preprocessing, crop: None there, 30 asked" in told
    assert "model: small there, large asked" in refusal(replace(model, name="large"))


def test_other_images_are_refused(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)
    first = min(pictures.rglob("*.png"))
    intact = first.read_bytes()

    def refusal() -> str:
        with pytest.raises(RequestError) as caught:
            extract(model, pictures, out)
        return str(caught.value)

    first.write_bytes(max(pictures.rglob("*.png")).read_bytes())
    assert "images: the same ids, but other contents" in refusal()
    first.write_bytes(intact)
    draw_many(pictures / "more", 1)
    assert "images: 60 there, 61 asked; only there: none, only asked: more/0/0000.png" in refusal()
    (pictures / "more/0/0000.png").unlink()
    first.unlink()
    assert "images: 60 there, 59 asked; only there: 0/0000.png" in refusal()
    first.write_bytes(intact)
    assert extract(model, pictures, out)[0].images == N


def test_an_image_that_is_not_done_yet_may_be_mended(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)
    last = max(pictures.rglob("*.png"))
    last.write_bytes(min(pictures.rglob("*.png")).read_bytes())
    extract(model, pictures, out)
    with rx.open_store(out) as store:
        assert np.array_equal(store["conv"][-1], store["conv"][0])


def test_other_columns_are_refused(tmp_path, model, pictures):
    out, table = tmp_path / "f.h5", tmp_path / "t.csv"
    names = sorted(p.relative_to(tmp_path).as_posix() for p in pictures.rglob("*.png"))

    def write(value: object, column: str = "x") -> None:
        lines = [f"path,{column}", *(f"{name},1" for name in names[1:]), f"{names[0]},{value}"]
        table.write_text("\n".join(lines))

    write(1)
    interrupted(model, table, out)
    write(2)
    with pytest.raises(RequestError, match="other values in the columns x"):
        extract(model, table, out)
    write(1, "y")
    with pytest.raises(RequestError, match="columns: x there, y asked"):
        extract(model, table, out)
    write(1)
    assert extract(model, table, out)[0].images == N


def test_restart_begins_anew(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    interrupted(model, pictures, out)
    summary, _ = extract(model, pictures, out, restart=True, dtype="float16")
    assert (summary.computed, WorkFolder(out).path.exists()) == (N, False)
    assert contents(out)["features/conv"].dtype == np.float16


def test_other_library_versions_are_refused(tmp_path, model, pictures, monkeypatch):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    record = json.loads((work / "request.json").read_text())
    record["request"]["packages"]["torch"] = "1.0"
    (work / "request.json").write_text(json.dumps(record))
    with pytest.raises(RequestError, match=r"packages, torch: 1\.0 there, "):
        extract(model, pictures, out)


def test_other_hardware_is_told(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    work = interrupted(model, pictures, out)
    record = json.loads((work / "request.json").read_text())
    record["plan"]["hardware"] = "Z80"
    (work / "request.json").write_text(json.dumps(record))
    _, told = extract(model, pictures, out)
    assert any(f"{out} was begun on Z80" in line for line in told)


# --- a disk that fails ---


class Disk:
    """Fails from a certain write on, as the operating system would report it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, after: int) -> None:
        from resmem_extract.store.stream import FeatureStream

        append, self.left = FeatureStream.append, after

        def failing(stream: Any, rows: np.ndarray) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            append(stream, rows)

        monkeypatch.setattr(FeatureStream, "append", failing)


@pytest.mark.parametrize("number", [28, 5])
def test_a_disk_that_fails_costs_no_part(
    tmp_path, model, pictures, undisturbed, monkeypatch, number
):
    out = tmp_path / "f.h5"
    with monkeypatch.context() as patch, pytest.raises(WorkError) as caught:
        Disk(patch, number, after=15)
        extract(model, pictures, out)
    assert os.strerror(number) in str(caught.value)
    assert "images are kept, and the same command continues" in str(caught.value)
    assert caught.value.exit_code == 1
    kept = sum(len(part.rows) for part in WorkFolder(out).parts())
    assert kept >= 8
    assert extract(model, pictures, out)[0].computed == N - kept
    assert_same(out, undisturbed)


def test_a_join_that_fails_beside_the_computing_is_done_at_the_end(
    tmp_path, model, pictures, undisturbed, monkeypatch
):
    out = tmp_path / "f.h5"
    append_store, failures = rx.store.StoreWriter.append_store, []

    def failing(writer: Any, *arguments: Any) -> None:
        if len(failures) < 1:
            failures.append(1)
            raise WorkError("no room")
        append_store(writer, *arguments)

    monkeypatch.setattr("resmem_extract.store.StoreWriter.append_store", failing)
    extract(model, pictures, out)
    assert failures
    assert_same(out, undisturbed)


def test_the_space_for_parts_is_told_and_checked(tmp_path, model, pictures, monkeypatch):
    _, told = extract(model, pictures, tmp_path / "f.h5")
    line = "writing about 2.0 MB to .*; until it is done, parts beside it take up to 2.0 MB more"
    assert re.match(line, told[0])
    usage = type("Usage", (), {"free": 3_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(RequestError, match=r"needs 3\.9 MB and .* has 3\.0 MB free"):
        extract(model, pictures, tmp_path / "g.h5")
    assert not WorkFolder(tmp_path / "g.h5").path.exists()


# --- two processes ---


def test_two_runs_at_the_same_time_are_refused(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    refused: list[str] = []

    def meddle(done: int, _total: int) -> None:
        if done == 20:
            for options in ({}, {"restart": True}, {"shard": (0, 2)}):
                with pytest.raises(RequestError) as caught:
                    extract(model, pictures, out, **options)
                refused.append(str(caught.value))

    extract(model, pictures, out, progress=meddle)
    assert len(refused) == 3
    assert all(f"{out} is being made by process {os.getpid()} on " in line for line in refused)
    assert_same(out, undisturbed)


def test_a_folder_that_another_process_has_removed(tmp_path, model, pictures, undisturbed):
    out = tmp_path / "f.h5"
    removed: list[int] = []

    def meddle(done: int, _total: int) -> None:
        if done == 20 and not removed:
            removed.append(done)
            WorkFolder(out).clear()

    extract(model, pictures, out, progress=meddle)
    assert removed
    assert_same(out, undisturbed)


# --- several networks ---


def test_networks_go_on_together(tmp_path, pictures):
    models = [small(0, "one"), small(1, "two")]
    rx.extract_many(models, MODULES, pictures, out=tmp_path / "u", batch_size=BATCH)

    def stop(done: int, _total: int) -> None:
        if done >= 30:
            raise Stop

    with pytest.raises(Stop):
        rx.extract_many(
            models, MODULES, pictures, out=tmp_path / "f", batch_size=BATCH, progress=stop
        )
    works = [WorkFolder(tmp_path / "f" / f"{name}.h5") for name in ("one", "two")]
    works[0].parts()[0].path.unlink()  # one has less than the other
    kept = [sum(len(part.rows) for part in work.parts()) for work in works]
    summaries = rx.extract_many(models, MODULES, pictures, out=tmp_path / "f")
    assert [summary.computed for summary in summaries] == [N - n for n in kept]
    for name in ("one", "two"):
        assert_same(tmp_path / "f" / f"{name}.h5", tmp_path / "u" / f"{name}.h5")


def test_networks_that_were_begun_by_different_plans(tmp_path, pictures):
    models = [small(0, "one"), small(1, "two")]
    for model, size in zip(models, (4, 8), strict=True):
        with pytest.raises(Stop):
            extract(model, pictures, tmp_path / f"{model.name}.h5", 40, batch_size=size)
    with pytest.raises(RequestError, match=r"was begun with batch size 4, .* with 8: extract them"):
        rx.extract_many(models, MODULES, pictures, out=tmp_path)
