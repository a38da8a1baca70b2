"""Predicted memorability: numbers, the table and its provenance, repeated requests."""

from __future__ import annotations

import csv
import hashlib
import json
import os

import numpy as np
import pytest
from pictures import NAMES, draw

import resmem_extract as rx
from resmem_extract.errors import RequestError, WorkError


def test_scores_are_those_of_the_pypi_package(tmp_path, photos, resmem, oracle):
    out = tmp_path / "deep" / "s.csv"
    scores = rx.score(resmem, photos, out=out, batch_size=2)
    want = oracle([photos / name for name in NAMES])["output"][:, 0]
    assert scores.image_ids == NAMES
    assert np.abs(np.array(scores.memorability) - want).max() < 1e-6
    assert np.ptp(want) > 1e-3  # they differ, so that rows in a wrong order would show
    rows = list(csv.reader(out.read_text().splitlines()))
    assert rows[0] == ["image_id", "memorability"]
    assert [row[0] for row in rows[1:]] == list(NAMES)
    assert np.abs(np.array([float(row[1]) for row in rows[1:]]) - want).max() < 1e-6
    assert sorted(path.name for path in out.parent.iterdir()) == ["s.csv", "s.csv.json"]
    record = json.loads((out.parent / "s.csv.json").read_text())
    assert record["model"] == "resmem"
    assert record["skipped"] == []
    assert record["table_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_a_table_that_exists(tmp_path, photos, predictor):
    out = tmp_path / "s.csv"
    first = rx.score(predictor, photos, out=out)
    before = out.stat().st_mtime_ns
    again = rx.score(predictor, photos, out=out)
    assert (again.already_complete, again.image_ids) == (True, first.image_ids)
    assert np.allclose(again.memorability, first.memorability, atol=1e-8)
    assert out.stat().st_mtime_ns == before

    def refusal() -> str:
        with pytest.raises(RequestError) as caught:
            rx.score(predictor, photos, out=out)
        return str(caught.value)

    (photos / "a.jpg").rename(photos / "a2.jpg")  # the same contents under another id
    assert "only there: a.jpg, only asked: a2.jpg" in refusal()
    (photos / "a2.jpg").rename(photos / "a.jpg")
    draw(photos / "b.png", 77)
    assert "other contents" in refusal()
    assert not rx.score(predictor, photos, out=out, overwrite=True).already_complete
    with out.open("a") as table:
        table.write("more,0.5\n")
    assert "is not, with its .json, what `score` wrote" in refusal()
    out.with_name("s.csv.json").write_text("[]")
    assert "--overwrite" in refusal()


def test_skipped_images(tmp_path, photos, predictor):
    (photos / "c.jpg").write_text("no image")
    out = tmp_path / "s.csv"
    with pytest.raises(WorkError, match=r"^c\.jpg: not an image"):
        rx.score(predictor, photos, out=out)
    assert not out.exists()
    first = rx.score(predictor, photos, out=out, on_error="skip")
    assert (len(first.image_ids), first.skipped[0][0]) == (4, "c.jpg")
    again = rx.score(predictor, photos, out=out, on_error="skip")
    assert (again.already_complete, again.skipped) == (True, first.skipped)


def test_where_no_table_can_lie_is_told_before_the_work(tmp_path, photos, predictor):
    done: list[int] = []

    def refusal(out) -> str:
        with pytest.raises(RequestError) as caught:
            rx.score(
                predictor, photos, out=out, overwrite=True, progress=lambda n, _: done.append(n)
            )
        return str(caught.value)

    (tmp_path / "file").touch()
    assert "is a folder" in refusal(photos)
    assert "cannot be written" in refusal(tmp_path / "file" / "s.csv")
    assert done == []


def test_a_model_without_memorability_is_refused(photos, resmem):
    other = rx.Model("mine", "own", resmem.network, resmem.preprocessing)
    with pytest.raises(RequestError, match="'mine' does not predict memorability; use resmem"):
        rx.score(other, photos)


def test_ids_with_commas_and_quotes_survive():
    scores = rx.Scores(('a,"b".jpg', "ü.jpg"), (0.5, 0.123456789))
    assert scores.to_csv() == (
        'image_id,memorability\n"a,""b"".jpg",0.50000000\nü.jpg,0.12345679\n'
    )


def test_files_honour_the_umask_and_new_folders_go_with_a_failure(tmp_path, photos, predictor):
    before = os.umask(0o027)
    try:
        rx.score(predictor, photos, out=tmp_path / "s.csv")
    finally:
        os.umask(before)
    for name in ("s.csv", "s.csv.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    (photos / "c.jpg").write_text("no image")
    with pytest.raises(WorkError):
        rx.score(predictor, photos, out=tmp_path / "a" / "b" / "s.csv")
    assert not (tmp_path / "a").exists()
