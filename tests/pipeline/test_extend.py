"""New images for a finished store."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from small_model import MODULES, contents, draw_many, small

import resmem_extract as rx
from resmem_extract.errors import RequestError, WorkError
from resmem_extract.pipeline import parts
from resmem_extract.pipeline.join import Base, Joiner
from resmem_extract.pipeline.work import Part, WorkFolder
from resmem_extract.store import layout_of

OLD, NEW, BATCH = 10, 14, 4


@pytest.fixture(scope="module")
def model() -> rx.Model:
    return small()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures, in a store already, and four more whose names come before, among and after."""
    folder = draw_many(tmp_path / "in", OLD)
    return folder


def add(folder: Path) -> list[str]:
    names = ["0/0000a.png", "1/9.png", "a.png", "z/0.png"]
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(1000 + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def extract(model: rx.Model, images: Any, out: Path, **options: Any) -> rx.ExtractSummary:
    options = {"batch_size": BATCH, "streams": 1, **options}
    return rx.extract(model, MODULES, images, out=out, **options)


def values_by_id(path: Path) -> dict[bytes, np.ndarray]:
    found = contents(path)
    return dict(zip(found["images/id"].tolist(), found["features/conv"], strict=True))


def test_new_images_come_after_the_old_ones(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    before = contents(out)
    names = add(pictures)
    with pytest.raises(RequestError, match=r"10 there, 14 asked.*use --extend to add new images,"):
        extract(model, pictures, out)
    summary = extract(model, pictures, out, extend=True)
    assert (summary.images, summary.computed) == (NEW, 4)
    after = contents(out)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name][:OLD], values)
    assert [i.decode() for i in after["images/id"][OLD:]] == names
    assert [i.decode() for i in after["images/label"][OLD:]] == ["0", "1", "", "z"]
    extract(model, pictures, tmp_path / "anew.h5")
    anew = values_by_id(tmp_path / "anew.h5")
    for image_id, values in values_by_id(out).items():
        np.testing.assert_allclose(values, anew[image_id], rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anew.h5", "f.h5", "in"]


def test_damage_is_not_passed_on(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    with h5py.File(out, "r+") as file:
        file["features/conv"][3, 0, 0, 0] += 1
    damaged = out.read_bytes()
    add(pictures)
    message = r"f\.h5 is damaged: /features/conv, .*; see: resmem-extract verify .*f\.h5$"
    with pytest.raises(WorkError, match=message):
        extract(model, pictures, out, extend=True)
    assert out.read_bytes() == damaged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "in"]


def test_it_is_recorded_and_then_complete(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    with rx.open_store(out) as store:
        first = store.provenance
    add(pictures)
    extract(model, pictures, out, extend=True)
    with rx.open_store(out) as store:
        (added,) = store.provenance["extended"]
        assert store.provenance["started"] == first["started"]
        assert (added["row"], added["run"]) == (OLD, store.provenance["run"])
        assert added["run"] != first["run"]
    for options in ({"extend": True}, {}):
        assert extract(model, pictures, out, **options).already_complete
    Image.new("RGB", (8, 8)).save(pictures / "0/00.png")
    assert extract(model, pictures, out, extend=True).images == NEW + 1
    assert extract(model, pictures, out).already_complete
    with rx.open_store(out) as store:
        assert [one["row"] for one in store.provenance["extended"]] == [OLD, NEW]
        assert store.image_ids.tolist()[-1] == "0/00.png"


def test_without_a_store_it_makes_one(tmp_path, model, pictures):
    assert extract(model, pictures, tmp_path / "f.h5", extend=True).computed == OLD


def test_the_plan_of_the_store_is_followed(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out, engine="hooks")
    add(pictures)
    told: list[str] = []
    extract(model, pictures, out, extend=True, batch_size=None, tell=told.append)
    assert any(line.startswith(f"batches of {BATCH},") for line in told)
    with rx.open_store(out) as store:
        assert store.provenance["engine"] == "hooks"
        assert "engine" not in store.provenance["extended"][0]  # it is the same


def test_an_extension_goes_on_where_it_was_interrupted(tmp_path, model, pictures, monkeypatch):
    out, whole = tmp_path / "f.h5", tmp_path / "whole.h5"
    for path in (out, whole):
        extract(model, pictures, path)
    add(pictures)
    extract(model, pictures, whole, extend=True, batch_size=None)
    monkeypatch.setattr(parts, "LIMITS", parts.Limits(nbytes=1))
    monkeypatch.setattr(parts.Blueprint, "align", 1)
    before = out.read_bytes()

    def stop(_done: int, _total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    Image.new("RGB", (8, 8)).save(pictures / "z/1.png")
    Image.new("RGB", (8, 8), "red").save(pictures / "z/2.png")
    with pytest.raises(KeyboardInterrupt, match="4 of 6 images are kept"):
        extract(model, pictures, out, extend=True, progress=stop)
    assert out.read_bytes() == before
    summary = extract(model, pictures, out, extend=True)
    assert (summary.images, summary.computed) == (NEW + 2, 2)
    extract(model, pictures, whole, extend=True)
    ours, theirs = values_by_id(out), values_by_id(whole)
    assert ours.keys() == theirs.keys()
    for image_id, values in ours.items():
        np.testing.assert_allclose(values, theirs[image_id], rtol=1e-5, atol=1e-5)


def test_the_copy_of_a_large_store_does_not_hold_up_the_end(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    with rx.open_store(out) as store:
        layouts = {path: layout_of(store.handle.dataset(f"/features/{path}")) for path in store}
        specs = list(store.specs.values())
        blueprint = parts.Blueprint(specs, rx.find_images(pictures), OLD, layouts, 1, False, {})
        work = WorkFolder(tmp_path / "g.h5")
        work.path.mkdir()
        with Joiner(work, blueprint, Base(store, ())) as joiner:
            joiner.stop()
            joiner.add(Part(out, range(OLD)))  # begins with the store
            assert not list(work.path.iterdir())


def test_shards_extend_together(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    names = add(pictures)
    made = [extract(model, pictures, out, extend=True, shard=(i, 2)) for i in (0, 1)]
    assert [(one.computed, one.missing) for one in made] == [(0, 4), (4, 0)]  # one share
    assert [i.decode() for i in contents(out)["images/id"][OLD:]] == names


def test_skipped_images(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    bad = pictures / "0/0003.png"
    intact = bad.read_bytes()
    bad.write_bytes(b"")
    other = pictures / "0/0006.png"
    other.write_bytes(b"")
    extract(model, pictures, out, on_error="skip")
    assert extract(model, pictures, out, extend=True, on_error="skip").already_complete
    with pytest.raises(RequestError, match="2 images were skipped there"):
        extract(model, pictures, out, extend=True)
    bad.write_bytes(intact)
    summary = extract(model, pictures, out, extend=True, on_error="skip")
    assert (summary.images, summary.computed) == (9, 1)
    assert [image_id for image_id, _ in summary.skipped] == ["0/0006.png"]
    assert contents(out)["images/id"][-1] == b"0/0003.png"
    assert extract(model, pictures, out, on_error="skip").already_complete


def test_a_changed_store_is_refused(tmp_path, model, pictures):
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    add(pictures)

    def refusal(**options: Any) -> str:
        with pytest.raises(RequestError) as caught:
            extract(model, pictures, out, extend=True, **options)
        return str(caught.value)

    before = out.read_bytes()
    first = pictures / "0/0000.png"
    intact = first.read_bytes()
    first.write_bytes((pictures / "a.png").read_bytes())
    assert "images: the same ids, but other contents" in refusal()
    first.unlink()
    assert "images: 10 there, 9 asked; only there: 0/0000.png" in refusal()
    first.write_bytes(intact)
    assert "float32 (8, 30, 30) there, float16 (8, 30, 30) asked" in refusal(dtype="float16")
    assert "--overwrite replaces a file, --extend adds to it" in refusal(overwrite=True)
    assert "batch size: 4 there, 8 asked" in refusal(batch_size=8)
    assert out.read_bytes() == before
    assert not WorkFolder(out).path.exists()


def test_work_for_another_store_is_refused(tmp_path, model, pictures, monkeypatch):
    monkeypatch.setattr(parts, "LIMITS", parts.Limits(nbytes=1))
    monkeypatch.setattr(parts.Blueprint, "align", 1)
    out = tmp_path / "f.h5"
    extract(model, pictures, out)
    add(pictures)
    Image.new("RGB", (8, 8)).save(pictures / "z/1.png")

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, pictures, out, extend=True, progress=stop)
    with h5py.File(out, "r+") as file:  # as another program might
        del file["images/sha256"]
        file["images/sha256"] = np.array([b"0" * 64] * OLD)
    with pytest.raises(WorkError, match=r"^\S+f\.h5 is not what was written \(images/sha256\)"):
        extract(model, pictures, out, extend=True)
    with h5py.File(out, "r+") as file:
        del file["metadata_checksums"]
    with pytest.raises(RequestError, match="other contents"):
        extract(model, pictures, out, extend=True)


def test_several_networks_with_different_stores(tmp_path, pictures):
    one, two = small(0, "one"), small(1, "two")
    rx.extract_many([one], MODULES, pictures, out=tmp_path / "d", batch_size=BATCH)
    add(pictures)
    summaries = rx.extract_many(
        [one, two], MODULES, pictures, out=tmp_path / "d", batch_size=BATCH, extend=True
    )
    assert [summary.computed for summary in summaries] == [4, NEW]
    assert [summary.images for summary in summaries] == [NEW, NEW]
