"""Everything that a user may get wrong: one line, an honest exit code, nothing left behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import ENVIRONMENT, command, draw, names, run
from PIL import Image

MODULE = ("--module", "conv1")


def bomb(path: Path) -> None:
    """Write a small PNG that says it has 4 * 10^8 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return len(data).to_bytes(4, "big") + kind + data + crc.to_bytes(4, "big")

    header = (20_000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def emptied(photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()


def documents(photos: Path) -> None:
    emptied(photos)
    (photos / "a.txt").touch()


def truncated(photos: Path) -> None:
    file = photos / "a" / "1.jpg"
    file.write_bytes(file.read_bytes()[:400])


def unnameable(photos: Path) -> None:
    (photos / os.fsdecode(b"\xff.jpg")).touch()


IMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], int, str]] = {
    "an empty folder": (emptied, (), 2, "no images in"),
    "a missing path": (shutil.rmtree, (), 2, "No such file or directory; give a folder"),
    "no image by extension": (documents, (), 2, "it holds 1 other file (.txt)"),
    "two equal stems": (
        lambda p: draw(p / "c" / "1.png", 1), ("--id", "stem"), 2, "two images have the id 1"
    ),
    "a name that is not UTF-8": (unnameable, (), 2, "is not valid UTF-8; rename it"),
    "a truncated JPEG": (truncated, (), 1, "a/1.jpg: cannot be decoded"),
    "a bomb": (lambda p: bomb(p / "a" / "1.jpg"), (), 1, "a/1.jpg: 400000000 pixels"),
    "text named .jpg": (
        lambda p: (p / "a" / "1.jpg").write_text("x"), (), 1, "a/1.jpg: not an image of a format"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_images(tmp_path, photos, call, case):
    spoil, options, code, message = IMAGES[case]
    spoil(photos)
    before = names(tmp_path)
    done = call("extract", *MODULE, "--images", photos, "--out", tmp_path / "f.h5", *options)
    last = done.err.splitlines()[-1]
    assert (done.code, done.out) == (code, "")
    assert last.startswith("error: ")
    assert message in last
    assert done.err.count("error: ") == 1
    assert names(tmp_path) == before


def test_equal_ids_in_a_csv(tmp_path, photos, call):
    (tmp_path / "t.csv").write_text("path,image_id\nphotos/a/1.jpg,x\nphotos/b/2.png,x\n")
    done = call("extract", *MODULE, "--images", tmp_path / "t.csv", "--out", tmp_path / "f.h5")
    assert (done.code, done.err.startswith("error: two images have the id x")) == (2, True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("s.h5", "s.h5 holds no data set /imgBrick, but /a/b; type "),
        ("s.h5:/c", "s.h5 holds no data set /c, but /a/b; type "),
        ("s.npy", "s.npy: expected uint8 [N, H, W, 3], or [N, H, W] for grey, got float64 [2]"),
        ("s.npz", "s.npz cannot be read as .npz (File is not a zip file)"),
        ("s.tar", "s.tar cannot be read as a tar ("),
        ("t-{0..3}.tar", "t-0.tar; "),
        ("f.h5", "f.h5: No such file or directory; give a folder, "),
    ],
)
def test_stacks_and_tars(tmp_path, photos, call, images, message):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["a/b"] = 1
    np.save(tmp_path / "s.npy", np.zeros(2))
    (tmp_path / "s.npz").write_bytes(b"PK")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(photos, arcname="photos")
    os.truncate(tmp_path / "s.tar", 3000)
    before = names(tmp_path)
    images = tmp_path / images
    done = call("extract", *MODULE, "--images", images, "--out", tmp_path / "out.h5")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("error: ")
    assert message in done.err
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", *MODULE), "Missing option '--out'; see: resmem-extract extract --help"),
        (("extract", "--out", "f.h5"), "Missing option '--module'"),
        (("extract", "--modul", "conv1"), "No such option: --modul"),
        (("extrakt",), "No such command 'extrakt'"),
        (("extract", *MODULE, "--out", "f.h5", "--batch-size", "x"), "'--batch-size'"),
        (
            ("extract", *MODULE, "--out", "f.h5", "--batch-size", "0"),
            "extract: --batch-size 0: should be greater than 0",
        ),
        (
            ("extract", *MODULE, "--out", "f.h5", "--dtype", "float8"),
            "extract: --dtype 'float8': should be 'float32' or 'float16'",
        ),
        (
            ("extract", *MODULE, "--out", "f.h5", "--pool", "mean"),
            "extract: --pool 'mean': should be 'none', 'avg' or 'max'",
        ),
        (("score", "--on-error", "ignore"), "score: --on-error 'ignore': should be"),
        (("score", "--model", "resmen"), "no model 'resmen': did you mean resmem?"),
        (("modules", "--match", "features.layr2"), "`resmem-extract modules"),
        (("models", "--source", "resmen"), "no source 'resmen'"),
        (("info", "nothing.h5"), "nothing.h5"),
        (("run", "nothing.yaml"), "cannot read the configuration nothing.yaml: No such file"),
    ],
)  # fmt: skip
def test_requests(tmp_path, call, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err
    assert done.err.count("\n") == done.err.count("photographs") + 1
    assert names(tmp_path) == []


def test_no_arguments_show_the_help(call):
    done = call()
    assert done.code == 2
    assert "Usage: resmem-extract" in done.out + done.err
    assert "error" not in done.err


def test_corrupt_weights(tmp_path, photos, call, monkeypatch):
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"PK garbage")
    arguments = ("extract", *MODULE, "--images", photos, "--out", tmp_path / "f.h5")
    done = call(*arguments, "--weights", garbage)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is not the released weights file of resmem" in done.err
    assert "--unverified" in done.err
    done = call(*arguments, "--weights", garbage, "--unverified")
    assert (done.code, "cannot be read as a checkpoint" in done.err) == (2, True)
    monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(garbage))
    done = call(*arguments)
    assert (done.code, "expected SHA-256 8e4b8ab0ac33" in done.err) == (2, True)
    assert names(tmp_path) == ["garbage.pt", "photos"]


def test_names_that_cannot_be_shown_are_escaped(tmp_path, photos):
    out = os.fsencode(tmp_path) + b"/\xff.h5"
    done = subprocess.run(
        [command("extract"), *MODULE, "--images", str(photos), "--out", out],
        capture_output=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert b"udcff.h5: 3 images" in done.stdout


def test_a_file_system_that_fills_up(tmp_path, photos):
    """A limit on the size of files stands in for a full disk: a write in the middle fails."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    done = subprocess.run(
        [command("extract"), *MODULE, "--images", str(photos), "--out", str(tmp_path / "f.h5")],
        capture_output=True, env=ENVIRONMENT, preexec_fn=limit, check=False,
    )  # fmt: skip
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("error: writing ")
    assert "File too large" in last
    assert b"Traceback" not in done.stderr
    assert names(tmp_path) == ["photos"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts need root")
def test_a_small_disk_and_a_read_only_one(tmp_path, photos):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)],
        check=False, capture_output=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    store = tmp_path / "s.h5"
    assert run("extract", *MODULE, "--pool", "avg", "--images", photos, "--out", store).code == 0
    rsa = ("resmem-extract", "rsa", store, "--figures", "none", "--out", disk / "rsa")
    try:
        (disk / "rest").write_bytes(bytes(300_000))  # all but the last page
        full = run(*rsa)
        assert full.err.splitlines()[-1].endswith(
            "rsa/rdms.h5 cannot be written: No space left on device"
        )
        assert (full.code, names(disk)) == (1, ["rest"])
        (disk / "rest").unlink()
        arguments = ("extract", *MODULE, "--images", photos, "--out", disk / "f.h5")
        small = run(*arguments)
        assert (small.code, names(disk)) == (2, [])
        assert "free; ask for fewer modules, --dtype float16 or --pool avg" in small.err
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        locked = run(*arguments, "--pool", "avg")
        assert locked.code == 2
        assert "f.h5 cannot be written: Read-only file system" in locked.err.splitlines()[-1]
        for arguments in (
            rsa,
            ("resmem-extract", "export", store, "--format", "npy", "--out", disk),
        ):
            locked = run(*arguments)
            assert locked.code == 2
            assert "cannot be written: Read-only file system" in locked.err.splitlines()[-1]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_image_alone_is_taken(tmp_path, call):
    Image.new("RGB", (50, 50)).save(tmp_path / "x.png")
    done = call("extract", *MODULE, "--images", tmp_path / "x.png", "--out", tmp_path / "f.h5")
    assert (done.code, "1 image," in done.out) == (0, True)


@pytest.mark.parametrize("option", ["--images", "--out", "--weights"])
@pytest.mark.parametrize("job", [("score",), ("extract", *MODULE)])
def test_empty_options(call, job, option):
    given = () if option == "--out" or job[0] == "score" else ("--out", "f.h5")
    done = call(*job, *given, option, "")
    assert done.code == 2
    assert done.err == f"error: {job[0]}: {option} '': empty; is a shell variable unset?\n"


def test_standard_output_is_no_result_file(tmp_path, photos):
    line = (
        f"{command('resmem-extract')} score --images {photos} --out /dev/stdout --overwrite | cat"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, env=ENVIRONMENT, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"error: /dev/stdout is a device or a pipe" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("arguments", [("models",), ("models", "--json"), ("modules", "--json")])
def test_a_full_disk_under_the_output(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [command("resmem-extract"), *arguments], stdout=full, stderr=subprocess.PIPE,
            env=ENVIRONMENT, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"error: the output cannot be written: No space left on device\n"
