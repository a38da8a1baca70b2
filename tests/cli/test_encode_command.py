"""``encode``: from a store and a table to scores and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from resmem_extract.cli.encode import STEMS

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from test_encode import IDS, N, from_layer, write_store


@pytest.fixture
def store(tmp_path, rng) -> Path:
    plain = write_store(tmp_path / "plain.h5", "net", 0)
    rating = from_layer(plain, "fc", rng, t=1)[:, 0].tolist()
    return write_store(tmp_path / "net.h5", "net", 0, columns={"rating": rating})


def test_scores_and_figures(store, tmp_path, rng, call):
    coordinates = np.argwhere(np.ones((3, 2)))
    np.savez(
        tmp_path / "r.npz",
        responses=from_layer(store, "fc", rng, t=6),
        roi=["V1"] * 3 + ["IT"] * 3,
        coordinates=coordinates,
        image_id=IDS,
    )
    out = tmp_path / "o"
    done = call("encode", store, "--responses", tmp_path / "r.npz", "--out", out)
    assert done.code == 0, done.err
    assert "net:fc" in done.out
    assert "3 models of 6 targets" in done.out
    figures = {path.name for path in out.glob("*.png")}
    assert figures == {f"{stem}.png" for stem in STEMS}
    again = call("encode", store, "--responses", tmp_path / "r.npz", "--out", out)
    assert (again.code, again.out.count("already complete")) == (0, 1)
    assert again.out.replace(" (already complete)", "") == done.out
    assert N == 60
    drawn = {path: path.read_bytes() for path in out.glob("*.png")}
    (out / "profile.png").unlink()
    again = call("encode", store, "--responses", tmp_path / "r.npz", "--out", out)
    assert f"{out} holds this result; drawing its figures (png)" in again.err
    assert {path: path.read_bytes() for path in out.glob("*.png")} == drawn
    names = {path.name for path in out.iterdir()}
    done = call("encode", store, "--responses", tmp_path / "r.npz", "--module", "fc", "--out", out)
    assert done.code == 2 and "other modules" in done.err
    done = call(
        *("encode", store, "--responses", tmp_path / "r.npz", "--module", "fc", "--out", out),
        "--overwrite",
    )
    assert done.code == 0, done.err
    gone = {"best.csv", "best.png", "profile.png", "map_best.png"}
    assert {path.name for path in out.iterdir()} == names - gone


def test_a_rating_in_one_command_and_from_a_file(store, tmp_path, call):
    done = call("encode", store, "--target", "rating", "--out", tmp_path / "o", "--json")
    assert done.code == 0, done.err
    lines = json.loads(done.out)
    assert [line["module"] for line in lines if line["best"]] == ["fc"]
    config = tmp_path / "run.yaml"
    config.write_text(
        f"command: encode\nstore: {store}\ntarget: rating\nmodule: fc\nout: {tmp_path / 'c'}\n"
        "figures: []\nproject: auto\n"
    )
    done = call("run", config, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["r"] == pytest.approx(
        next(line["r"] for line in lines if line["best"])
    )
    assert not list((tmp_path / "c").glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --responses FILE or --target COLUMN"),
        (["--target", "rating", "--project", "many"], "--project 'many'"),
        (["--target", "rating", "--folds", "1"], "--folds 1: should be greater than or equal to 2"),
        (["--target", "ratin"], "no column 'ratin' of the images; it has rating"),
    ],
)
def test_wrong_arguments(store, tmp_path, call, arguments, message):
    done = call("encode", store, *arguments, "--out", tmp_path / "o")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()
