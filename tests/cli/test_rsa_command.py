"""`rsa`: the files it writes, what it prints, `run` with the same from a file, wrong requests."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from commands import ENVIRONMENT, draw, names

from resmem_extract.cli.rsa import STEMS
from resmem_extract.store import StoreWriter, read_rdms
from resmem_extract.types import ActivationSpec

N = 10
IDS = [f"{k:02d}.png" for k in range(N)]


def write_store(
    path: Path, model: str, seed: int, constant: int | None = None, ids: list[str] = IDS
) -> Path:
    rng = np.random.default_rng(seed)
    specs = [
        ActivationSpec("conv1", "conv1", (4, 5, 5), ("image", "channel", "height", "width")),
        ActivationSpec("output", "output", (1,), ("image", "unit")),
    ]
    arrays = {s.path: rng.random((N, *s.shape), dtype=np.float32) for s in specs}
    if constant is not None:
        arrays["conv1"][constant] = 0.5
    with StoreWriter(path, specs, N) as writer:
        writer.append(ids, [f"{k:064x}" for k in range(N)], arrays)
        writer.finish({"label": ["cat", "dog"] * (N // 2)}, provenance={"model": model})
    return path


@pytest.fixture
def stores(tmp_path) -> list[Path]:
    return [write_store(tmp_path / f"{name}.h5", name, k) for k, name in enumerate("AB")]


@pytest.fixture
def reference(tmp_path, rng) -> Path:
    patterns = rng.random((3, N - 2, 15))
    np.savez(tmp_path / "human.npz", human_IT=patterns, image_id=IDS[2:])
    return tmp_path / "human.npz"


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "rsa.csv").read_text().splitlines()))


FIGURES = [
    *("map_spearman_correlation", "matrix_spearman_correlation"),
    *("profile_human_IT_spearman_correlation",),
    *("rdm_A_conv1_correlation", "rdm_B_conv1_correlation", "rdm_human_IT_correlation"),
]


def test_the_command_of_the_manual(stores, reference, call, tmp_path):
    for k, image_id in enumerate(IDS):
        draw(tmp_path / "photos" / image_id, k)
    out = tmp_path / "out"
    asked = (
        *("rsa", *stores, "--module", "conv1", "--reference", reference),
        *("--metric", "correlation", "--compare", "spearman", "--bootstrap", 50, "--out", out),
        *("--figures", "png", "--figures", "svg", "--figures", "pdf"),
        *("--images", tmp_path / "photos", "--group", "label"),
    )
    done = call(*asked)
    assert done.code == 0, done.err
    assert "A:conv1 has 10 images, human_IT has 8: compared on the 8 that both have" in done.err
    assert "human_IT [3, 8, 15] is taken for 3 subjects; if they are repeats, average" in done.err
    assert "human_IT" in done.out and f"{out / 'rsa.csv'}: 3 comparisons" in done.out
    figures = [f"{stem}.{ending}" for stem in FIGURES for ending in ("png", "svg", "pdf")]
    assert names(out) == sorted(["differences.csv", "rdms.h5", "rsa.csv", "rsa.json", *figures])
    assert all(any(fnmatchcase(stem, pattern) for pattern in STEMS) for stem in FIGURES)
    rows = rows_of(out)
    assert [(r["a"], r["b"], r["n_images"]) for r in rows] == [
        ("A:conv1", "human_IT", "8"),
        ("B:conv1", "human_IT", "8"),
        ("A:conv1", "B:conv1", "10"),
    ]
    assert all(float(r["ci_low"]) < float(r["value"]) < float(r["ci_high"]) for r in rows)
    assert {record.name for record in read_rdms(out / "rdms.h5")} == {
        *("A:conv1", "B:conv1", "human_IT"),
    }
    again = call(*asked, "--json")
    assert again.code == 0
    assert [(row["a"], row["b"]) for row in json.loads(again.out)] == [
        (row["a"], row["b"]) for row in rows
    ]
    other = call(*asked, "--permutations", 20)
    assert other.code == 2 and "--overwrite" in other.err
    assert rows_of(out) == rows


def test_run_does_the_same_from_a_file(stores, reference, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rsa.yaml").write_text(
        "command: rsa\nstore: [A.h5, B.h5]\nmodule: conv1\nreference: human.npz\n"
        "bootstrap: 30\nout: from_file\nfigures: []\n"
    )
    assert call("run", "rsa.yaml", "-q").code == 0
    asked = ("--module", "conv1", "--reference", "human.npz", "--bootstrap", 30)
    done = call("rsa", "A.h5", "B.h5", *asked, "--figures", "none", "--out", "typed", "--json")
    assert done.code == 0, done.err
    assert rows_of(tmp_path / "from_file") == rows_of(tmp_path / "typed")
    printed = json.loads(done.out)
    assert [row["a"] for row in printed] == [r["a"] for r in rows_of(tmp_path / "typed")]
    assert printed[0]["p"] is None
    (tmp_path / "rsa.yaml").write_text("command: rsa\nstore: A.h5\nout: x\nbootstrp: 3\n")
    done = call("run", "rsa.yaml")
    assert done.code == 2 and "did you mean bootstrap?" in done.err


def test_wrong_requests_end_with_2_and_write_nothing(stores, reference, call, tmp_path):
    np.savez(tmp_path / "bare.npz", IT=np.zeros((N, N)))
    np.savez(tmp_path / "few.npz", IT=np.ones((2, 2)) - np.eye(2), image_id=IDS[:2])
    holes = np.ones((N, N)) - np.eye(N)
    holes[1, 2] = holes[2, 1] = np.nan
    np.savez(tmp_path / "holes.npz", IT=holes, image_id=IDS)
    np.savez(
        tmp_path / "there.npz", IT=np.ones((N, N)) - np.eye(N), image_id=[f"x/{i}" for i in IDS]
    )
    np.savez(tmp_path / "other.npz", IT=np.ones((N, N)) - np.eye(N), image_id=list("abcdefghij"))
    write_store(tmp_path / "flat.h5", "flat", 0, constant=3)
    a = stores[0]
    for asked, message in (
        ((a, "--reference", tmp_path / "bare.npz"), "has no 'image_id' with the ids"),
        (
            (a, "--reference", tmp_path / "few.npz"),
            "have 2 images in common, and comparing takes 3: A:conv1 has '00.png' and IT has "
            "'00.png'; give sides that share 3 images or more",
        ),
        (
            (a, "--reference", tmp_path / "there.npz"),
            "10 are the same: extract with --id stem, and",
        ),
        ((a, "--reference", tmp_path / "holes.npz"), "no finite dissimilarity of 01.png and 02"),
        ((a, "--reference", tmp_path / "other.npz"), "give sides that share 3 images or more"),
        ((a, "--reference", reference, "--compare", "cka"), "cka compares features"),
        ((a, "--reference", a), "a feature store is given as STORE"),
        ((a, "--reference", f"{reference}:human"), "has no reference 'human'"),
        ((tmp_path / "flat.h5",), "flat:conv1: all activations of 1 image are constant (03.png)"),
        ((a, "--module", "output"), "A:output has one unit"),
        ((a, "--module", "cnov1"), "did you mean conv1"),
        ((reference,), "is not"),
        ((a, "--metric", "corelation"), "did you mean correlation"),
        ((a, "--group", "labels"), "they have label"),
        ((a, "--pairs", "many"), "--pairs 'many': should be a whole number, such as 100000 or 1e6"),
        ((a, "--pairs", "1e6", "--metric", "euclidean"), "10 images have 45; compare them all, by"),
        ((a, "--figures", "jpeg"), "--figures"),
    ):
        if "--module" not in asked:
            asked = (*asked, "--module", "conv1")
        done = call("rsa", *asked, "--out", tmp_path / "o")
        assert done.code == 2, (asked, done)
        assert message in " ".join(done.err.split()), (asked, done.err)
        assert not (tmp_path / "o").exists()


def test_what_figures_need_is_checked_before_the_work(stores, call, tmp_path):
    asked = ["rsa", *stores, "--module", "conv1", "--out", tmp_path / "o"]
    done = call(*asked, "--images", tmp_path / "nowhere")
    assert done.code == 2 and "nowhere: No such file or directory; give a folder" in done.err
    draw(tmp_path / "photos" / "other.png", 0)
    done = call(*asked, "--images", tmp_path / "photos")
    assert done.code == 2 and "none of the images" in done.err and "00.png" in done.err
    done = call(*asked, "--figures", "none", "--figures", "png")
    assert done.code == 2
    assert "--figures ['none', 'png']: should be png, svg or pdf, or none alone" in done.err
    assert not (tmp_path / "o").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a user sees; a killed run leaves a hidden folder, until the next one."""
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."
    }


def without_time(there: dict[str, bytes]) -> dict[str, bytes]:
    """Take out what tells when a result was made."""
    record = json.loads(there["rsa.json"]) | {"finished": "", "files": {}}
    timed = ("rdms.h5", "rsa.json")
    return {name: text for name, text in there.items() if name not in timed} | {"r": str(record)}


DRAWS_FOR_EVER = """
import sys, time
from resmem_extract import report
from resmem_extract.cli import main

def save(*arguments, save=report.save):
    save(*arguments)
    print("drawn", flush=True)
    time.sleep(60)

report.save = save
main()
"""


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_run_that_ends_while_figures_are_drawn_has_changed_nothing(stores, call, tmp_path, sent):
    out = tmp_path / "o"
    asked = ["rsa", *map(str, stores), "--module", "conv1", "--out", str(out)]
    assert call(*asked).code == 0
    before = contents(out)
    other = [*asked, "--metric", "euclidean", "--overwrite"]
    with subprocess.Popen(
        [sys.executable, "-c", DRAWS_FOR_EVER, *other],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "drawn\n"
        process.send_signal(getattr(signal, sent))
        _, err = process.communicate(timeout=60)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[sent]
    assert contents(out) == before
    if sent != "SIGKILL":
        assert err.splitlines()[-1].endswith(
            ": nothing was written; the same command starts again from the beginning"
        )
        assert names(out) == sorted(before)
    assert "already complete" in call(*asked).out
    assert names(out) == sorted(before)
    assert call(*other).code == 0
    assert names(out) == sorted(
        ["rdms.h5", "rsa.csv", "rsa.json", "matrix_spearman_euclidean.png"]
        + [f"rdm_{network}_conv1_euclidean.png" for network in "AB"]
    )


@pytest.mark.parametrize("compare", ["spearman", "cka"])
def test_figures_of_a_result_that_is_there_are_those_of_a_new_one(
    stores, call, tmp_path, rng, compare
):
    """References are drawn too, and how alike they are among themselves."""
    np.savez(tmp_path / "v.npz", V1=rng.random((N, 9)), IT=rng.random((N, 15)), image_id=IDS)
    asked = ["rsa", *stores, "--module", "conv1", "--reference", tmp_path / "v.npz"]
    asked += ["--compare", compare, "--group", "label"]
    at_once, later = tmp_path / "at_once", tmp_path / "later"
    assert call(*asked, "--out", at_once).code == 0
    assert call(*asked, "--out", later, "--figures", "none").code == 0
    table = (later / "rsa.csv").stat().st_mtime_ns
    done = call(*asked, "--out", later)
    assert (done.code, "already complete" in done.out) == (0, True)
    assert f"{later} holds this result; drawing its figures (png)" in done.err
    assert (later / "rsa.csv").stat().st_mtime_ns == table
    assert names(later) == names(at_once)
    assert any(name.startswith("map_") for name in names(later))
    assert without_time(contents(later)) == without_time(contents(at_once))
    (later / "rsa.csv").write_text("trash")
    done = call(*asked, "--out", later)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "rsa.csv is not what was written; --overwrite makes the result anew" in done.err


def test_thumbnails_are_found_by_stem_and_in_a_list_too(stores, call, tmp_path):
    paths = [tmp_path / "photos" / f"{'ab'[k % 2]}" / image_id for k, image_id in enumerate(IDS)]
    for k, path in enumerate(paths):
        draw(path, k)
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    stems = write_store(tmp_path / "S.h5", "S", 0, ids=[path.stem for path in paths])
    relative = write_store(
        tmp_path / "R.h5", "R", 0, ids=[f"{path.parent.name}/{path.name}" for path in paths]
    )
    drawn = set()
    for number, (store, images) in enumerate(
        [(stems, "photos"), (stems, "list.txt"), (relative, "photos")]
    ):
        out = tmp_path / f"o{number}"
        asked = ("rsa", store, "--module", "conv1", "--out", out, "--figures", "png")
        done = call(*asked, "--images", tmp_path / images)
        assert done.code == 0, done.err
        (figure,) = out.glob("rdm_*.png")
        drawn.add(figure.stat().st_size)
        assert call(*asked).code == 0  # the same without thumbnails
        assert figure.stat().st_size < min(drawn) / 1.5
