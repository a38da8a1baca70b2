"""The commands as a user runs them: the file, what is printed where, exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from commands import ENVIRONMENT, command, draw, names, run

from resmem_extract.cli.terminal import run_app

KEYS = {
    "model", "source", "weights_file_sha256", "state_dict_sha256", "preprocessing", "precision",
    "engine", "batch_size", "device", "packages", "command", "image_root", "started", "finished",
}  # fmt: skip


def test_the_file_has_the_documented_schema(tmp_path, photos):
    table = tmp_path / "t.csv"
    table.write_text(
        "path,image_id,rating,place\nphotos/b/2.png,zwei ü,0.5,Köln\nphotos/a/1.jpg,eins,1,\n"
    )
    arguments = ["--module", "features.5.4", "--module", "features.layer1.0.relu"]
    arguments += ["--module", "memorability", "--images", table, "--out", tmp_path / "f.h5"]
    done = run("extract", *arguments)
    assert (done.code, done.out.splitlines()[0][:4]) == (0, str(tmp_path)[:4])
    assert "features.layer1.0.relu is called 3 times; took the last, @2" in done.err
    assert names(tmp_path) == ["f.h5", "photos", "t.csv"]
    with h5py.File(tmp_path / "f.h5") as file:
        assert dict(file.attrs) == {
            "format": "resmem-extract", "format_version": 1, "complete": True
        }  # fmt: skip
        features = file["features"]
        for link, path, shape in (
            ("features.5.4", "features.layer2.4", (2, 512, 29, 29)),
            ("features.layer1.0.relu", "features.layer1.0.relu@2", (2, 256, 57, 57)),
            ("memorability", "output", (2, 1)),
        ):
            assert isinstance(features.get(link, getlink=True), h5py.SoftLink)
            assert features[link] == features[path]
            data = features[path]
            assert (data.shape, data.dtype, data.chunks is not None) == (shape, np.float32, True)
            attributes = dict(data.attrs)
            assert attributes["module"] == path
            assert attributes["requested"] == link
            assert json.loads(attributes["reduce"]) == {"pool": "none", "flatten": False}
            axes = ["image", "channel", "height", "width"] if len(shape) == 4 else ["image", "unit"]
            assert json.loads(attributes["axes"]) == axes
        relu = features["features.layer1.0.relu@2"].attrs
        assert (relu["call"], relu["calls"]) == (2, 3)
        assert set(features) == {
            "features.5.4", "features.layer2.4", "features.layer1.0.relu",
            "features.layer1.0.relu@2", "memorability", "output",
        }  # fmt: skip
        images = file["images"]
        assert set(images) == {"id", "sha256", "rating", "place"}
        assert images["id"].asstr()[:].tolist() == ["zwei ü", "eins"]
        assert h5py.check_string_dtype(images["id"].dtype).length is not None
        assert h5py.check_string_dtype(images["sha256"].dtype).encoding == "ascii"
        files = (photos / "b/2.png", photos / "a/1.jpg")
        want = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        assert images["sha256"].asstr()[:].tolist() == want
        assert images["rating"][:].tolist() == [0.5, 1.0]
        assert images["place"].asstr()[:].tolist() == ["Köln", ""]
        assert "skipped" not in file
        record = json.loads(file["provenance"][()])
    assert record.keys() >= KEYS
    assert record["command"].startswith("extract --module features.5.4 ")
    assert (record["model"], record["image_root"]) == ("resmem", str(table))


def test_skipping_labels_and_json(tmp_path, photos, call):
    (photos / "b" / "2.png").write_bytes((photos / "b" / "2.png").read_bytes()[:99])
    arguments = ("extract", "--module", "conv1", "--images", photos, "--out", tmp_path / "f.h5")
    stopped = call(*arguments)
    assert (stopped.code, stopped.out) == (1, "")
    (error,) = [line for line in stopped.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: b/2.png: cannot be decoded")
    assert "; --on-error skip leaves out what cannot be read" in error
    assert names(tmp_path) == ["photos"]
    done = call(*arguments, "--on-error", "skip", "--json")
    result = json.loads(done.out)
    assert (done.code, result["images"], result["skipped"][0]["id"]) == (0, 2, "b/2.png")
    assert result["modules"][0]["shape"] == [2, 48, 55, 55]
    assert result["bytes"] == (tmp_path / "f.h5").stat().st_size
    assert "writing about" in done.err
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["skipped/id"].asstr()[:].tolist() == ["b/2.png"]
        assert file["images/label"].asstr()[:].tolist() == ["a", "b"]
        reason = file["skipped/reason"].asstr()[0]
    repeated = json.loads(call(*arguments, "--on-error", "skip", "--json").out)
    assert (repeated["seconds"], repeated["images_per_second"]) == (None, None)
    again = call(*arguments, "--on-error", "skip")
    assert (again.code, again.out.splitlines()[0]) == (0, f"{tmp_path}/f.h5 is already complete")
    assert f"skipped b/2.png: {reason}" in again.out


def test_quiet_prints_nothing_and_logs_have_no_control_characters(tmp_path, photos, call):
    arguments = ("extract", "--module", "conv1", "--images", photos, "--out")
    quiet = call(*arguments, tmp_path / "q.h5", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    loud = call(*arguments, tmp_path / "l.h5")
    assert all(c.isprintable() or c == "\n" for c in loud.out + loud.err)
    assert re.search(r"3 images, .* images/s \(resmem, fused engine, cpu\)", loud.out)


def test_score_prints_or_writes_its_table(tmp_path, photos, call):
    printed = call("score", "--images", photos)
    rows = list(csv.reader(printed.out.splitlines()))
    assert (printed.code, rows[0]) == (0, ["image_id", "memorability"])
    assert [row[0] for row in rows[1:]] == ["a/1.jpg", "b/2.png", "b/3.jpg"]
    written = call("score", "--images", photos, "--out", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == printed.out
    assert "3 images, memorability 0." in written.out
    as_json = json.loads(call("score", "--images", photos, "--json", "-q").out)
    assert [f"{row['memorability']:.8f}" for row in as_json] == [row[1] for row in rows[1:]]
    again = call("score", "--images", photos, "--out", tmp_path / "s.csv")
    assert (again.code, again.out) == (0, f"{tmp_path}/s.csv is already complete\n")


def test_listings(tmp_path, photos, call):
    listed = json.loads(call("models", "--json").out)
    assert {"name", "source", "description", "licence", "weights"} == set(listed[0])
    assert "resmem" in [entry["name"] for entry in listed]
    modules = json.loads(call("modules", "--match", "features.layer2.4.relu", "--json").out)
    assert modules[0] == {
        "path": "features.layer2.4.relu",
        "index_path": "features.5.4.6",
        "type": "ReLU",
        "shape": [512, 29, 29],
        "calls": 3,
        "bytes": 512 * 29 * 29 * 4,
    }
    assert "features.layer4.2.conv3" in call("modules").out
    call("extract", "--module", "conv1", "--images", photos, "--out", tmp_path / "f.h5")
    told = call("info", tmp_path / "f.h5")
    assert told.out.startswith(f"{tmp_path}/f.h5: 3 images, ")
    assert "[3, 48, 55, 55]" in told.out
    assert json.loads(call("info", tmp_path / "f.h5", "--json").out)["images"] == 3


def test_people_read_eighty_columns(tmp_path, photos, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modules = ("features.5.4", "features.layer1.0.relu", "memorability", "resnet_layers[100]")
    options = [word for module in modules for word in ("--module", module)]
    done = call("extract", *options, "--images", "photos", "--out", "activations.h5")
    told = call("info", "activations.h5").out
    assert "weights_file_sha256: 8e4b8ab0ac33\n" in told
    record = json.loads(call("info", "activations.h5", "--json").out)
    assert len(record["provenance"]["weights_file_sha256"]) == 64
    assert record["modules"][0]["chunks"][0] == 2
    for text in (done.out, call("models", "--source", "resmem").out, told):
        wide = [line for line in text.splitlines() if len(line) > 80]
        assert [line.split(":")[0] for line in wide] in ([], ["command"], ["command", "image_root"])


def test_python_m_is_the_program(tmp_path, photos):
    subprocess.run(
        [command("python"), "-m", "resmem_extract", "score", "--images", str(photos), "--out",
         str(tmp_path / "s.csv")],
        check=True, capture_output=True, env=ENVIRONMENT,
    )  # fmt: skip
    record = json.loads((tmp_path / "s.csv.json").read_text())
    assert record["command"] == f"resmem-extract score --images {photos} --out {tmp_path}/s.csv"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resmem_features", "resmem_layers", "resmem_score"])
def test_shipped_configurations_run(tmp_path, call, monkeypatch, name):
    config = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    monkeypatch.chdir(tmp_path)
    assert call("run", config, "-q").code == 0
    if name == "resmem_score":
        rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
        assert {"sklearn/china.jpg", "skimage/astronaut.png"} <= {row["image_id"] for row in rows}
        return
    out = tmp_path / {"resmem_features": "activations.h5", "resmem_layers": "layers.h5"}[name]
    with h5py.File(out) as file:
        shapes = {file[f"features/{path}"].shape[1:] for path in file["features"]}
        if name == "resmem_features":
            assert shapes == {(512, 29, 29)}
        else:
            assert shapes == {(n,) for n in (64, 256, 512, 1024, 2048, 4096, 1)}


# --- being interrupted ---


def started(tmp_path: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start an extraction that takes a while, and wait until it writes."""
    for i in range(30):
        draw(folder / f"{i:03}.jpg", i)
    process = subprocess.Popen(
        [command("extract"), "--module", "features.5.4", "--images", str(folder), "--out",
         str(tmp_path / "f.h5"), "--batch-size", "1"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".f.h5.work/.open-*.partial")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def test_after_ctrl_c_the_same_command_goes_on(tmp_path, call):
    process = started(tmp_path, tmp_path / "many")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    said = re.fullmatch(
        r"error: interrupted: (\d+) of 30 images are kept, and the same command continues",
        err.decode().splitlines()[-1],
    )
    assert said
    assert names(tmp_path) == [".f.h5.work", "many"]
    info = call("info", tmp_path / "f.h5")
    assert (info.code, f"{said[1]} of 30 images" in info.out) == (0, True)
    arguments = ("--module", "features.5.4", "--images", tmp_path / "many")
    done = call("extract", *arguments, "--out", tmp_path / "f.h5", "--json")
    assert (done.code, json.loads(done.out)["computed"]) == (0, 30 - int(said[1]))
    assert names(tmp_path) == ["f.h5", "many"]


def test_the_end_of_a_time_limit(tmp_path):
    process = started(tmp_path, tmp_path / "many")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, b"")
    last = err.decode().splitlines()[-1]
    assert re.fullmatch(r"error: terminated: \d+ of 30 images are kept, and the .* continues", last)
    assert names(tmp_path) == [".f.h5.work", "many"]


def test_before_the_first_image_nothing_is_left(tmp_path, photos):
    process = subprocess.Popen(
        [command("extract"), "--module", "features.5.4", "--images", str(photos), "--out",
         str(tmp_path / "f.h5")],
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    time.sleep(0.5)  # Python starts, torch is imported
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    assert names(tmp_path) == ["photos"]


def test_after_a_kill_the_next_run_succeeds(tmp_path):
    folder = tmp_path / "many"
    process = started(tmp_path, folder)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "f.h5").exists()
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    arguments = ("--module", "features.5.4", "--images", folder, "--out", tmp_path / "f.h5")
    assert run("extract", *arguments, "-q").code == 0
    assert names(tmp_path) == ["f.h5", "many"]
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["complete"]
        assert file["features/features.5.4"].shape == (2, 512, 29, 29)


def test_shards_and_what_info_says_of_them(tmp_path, photos, call):
    arguments = ("--module", "conv1", "--images", photos, "--out", tmp_path / "f.h5")
    small = ("--batch-size", "1", "--pool", "avg")
    done = call("extract", *arguments, *small, "--shard", "1/2")
    assert done.code == 0
    assert done.out == (
        f"{tmp_path / 'f.h5'}: 1 image computed, 1 of 3 are done; other shards have 2 still to do\n"
    )
    info = json.loads(call("info", tmp_path / "f.h5", "--json").out)
    assert (info["done"], info["images"], info["missing"]) == (1, 3, [[0, 1]])
    assert (info["modules"], info["model"]) == (["conv1"], "resmem")
    assert "missing rows: 0-1" in call("info", tmp_path / "f.h5").out
    refused = call("extract", *arguments, "--pool", "max", "--batch-size", "1")
    assert (refused.code, "pool: avg there, max asked" in refused.err) == (2, True)
    done = call("extract", *arguments, *small, "--shard", "2/2", "--json")
    assert (json.loads(done.out)["images"], json.loads(done.out)["missing"]) == (3, 0)
    assert names(tmp_path) == ["f.h5", "photos"]
    draw(photos / "new.png", 77)
    grown = json.loads(call("extract", *arguments, *small, "--extend", "--json").out)
    assert (grown["images"], grown["computed"]) == (4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "9/3"), "--shard '9/3': should be i/n with i from 0 to n, such as 3/8"),
        (("--cluster", "slurm"), "--cluster 'slurm': should be 'ray'"),
        (("--extend", "--overwrite"), "--overwrite replaces a file, --extend adds to it"),
        (("--shard", "1/2", "--restart"), "--restart with --shard would undo"),
        (("--shard", "1/2", "--cluster", "ray"), "--shard and --cluster both share out"),
        (("--cluster-workers", "3"), "--cluster-workers is of --cluster ray; give both"),
    ],
)
def test_options_of_long_runs_that_make_no_sense(tmp_path, photos, call, options, message):
    arguments = ("--module", "conv1", "--images", photos, "--out", tmp_path / "f.h5")
    done = call("extract", *arguments, *options)
    assert (done.code, message in done.err, done.out) == (2, True, "")
    assert names(tmp_path) == ["photos"]


# --- terminals and shells ---


def test_a_terminal_sees_the_rate(tmp_path, photos):
    for i in range(10):
        draw(photos / f"{i}.png", i)
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [command("extract"), "--module", "features.5.4", "--images", str(photos), "--out",
         str(tmp_path / "f.h5"), "--batch-size", "1"],
        stdout=subprocess.PIPE, stderr=child, env={**ENVIRONMENT, "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    while process.poll() is None or select.select([parent], [], [], 0)[0]:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                seen += os.read(parent, 4096)
            except OSError:  # the other end was closed
                break
    os.close(parent)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.search(rb"\d images/s", seen)
    assert b"/13" in seen
    assert b"loading resmem ..." in seen
    assert b"/?" not in seen
    assert b"\x1b" not in out


def test_shell_completion():
    done = run("extract", "--help", _EXTRACT_COMPLETE="source_bash")
    assert (done.code, "_EXTRACT_COMPLETE=complete_bash" in done.out) == (0, True)
    done = run(
        "resmem-extract",
        _RESMEM_EXTRACT_COMPLETE="complete_bash",
        COMP_WORDS="resmem-extract mod",
        COMP_CWORD="1",
    )
    assert done.out.split() == ["models", "modules"]


@pytest.mark.parametrize(
    ("ended", "expected"), [(typer.Abort, SystemExit), (EOFError, EOFError)], ids=["prompt", "file"]
)
def test_the_end_of_a_file_is_no_interruption(ended, expected, monkeypatch, capfd):
    """typer takes it for Ctrl-D at a prompt, which raises `Abort` itself."""
    app = typer.Typer()

    @app.command()
    def reads() -> None:
        raise ended

    monkeypatch.setattr(sys, "argv", ["reads"])
    with pytest.raises(expected):
        run_app(app, "reads")
    assert ("interrupted" in capfd.readouterr().err) == (ended is typer.Abort)


def test_a_reader_that_stops_is_no_error():
    done = subprocess.run(
        f"{command('resmem-extract')} modules | head -1", shell=True, capture_output=True,
        env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
