"""Stacks in files of NumPy, against `np.load`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import pictures
from test_stacks import refusal

from resmem_extract.decoding import load_images
from resmem_extract.images import StimulusSet, find_images

STACK = pictures()


def pixels(stimuli: StimulusSet) -> np.ndarray:
    return np.stack([image.pixels for image in load_images(stimuli, np.asarray, workers=2)])


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 5])),
    st.sampled_from(["C", "F"]),
    st.sampled_from([(1, 0), (2, 0)]),
    st.sampled_from(["npy", "stored", "deflated"]),
    st.booleans(),
)
def test_any_layout_gives_what_numpy_gives(tmp_path_factory, sides, order, version, how, is_grey):
    values = pictures(*sides)
    values = np.asarray(values[..., 0] if is_grey else values, order=order)
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=version)
    path = tmp_path_factory.mktemp("np") / ("s.npy" if how == "npy" else "s.npz")
    if how == "npy":
        path.write_bytes(file.getvalue())
        loaded = np.load(path)
    else:
        method = zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("note.txt", "of no interest")
            archive.writestr("pictures.npy", file.getvalue())
        loaded = np.load(path)["pictures"]
    found = find_images(path)
    assert len(found) == len(loaded)
    for row in reversed(range(len(found))):
        np.testing.assert_array_equal(np.asarray(found.read(row)), loaded[row])


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_a_file_is_mapped_not_read(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, pictures(400, 100, 100))
    code = (
        "import resource, numpy as np\n"
        "from resmem_extract.images import find_images\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"found = find_images({str(path)!r}); found.read(399)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 6_000  # kB, of 12 MB


def test_what_is_compressed_is_said_and_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "s.npz", images=STACK, other=np.zeros(3))
    found = find_images(tmp_path / "s.npz")
    np.testing.assert_array_equal(pixels(found), STACK)
    (note,) = found.notes
    assert "s.npz is compressed: 0.0 MB were unpacked into a temporary file" in note


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["image_id", "ids", "id"])
def test_ids_lie_beside_the_pictures(tmp_path, save, key):
    save(tmp_path / "s.npz", **{key: ["é", "b", "c", "d", "e"]}, pictures=STACK)
    found = find_images(tmp_path / "s.npz")
    assert found.ids == ("é", "b", "c", "d", "e")
    assert (found.root, str(found.images[1])) == (
        f"{tmp_path}/s.npz:/pictures",
        f"{tmp_path}/s.npz:/pictures[1]",
    )
    assert find_images(tmp_path / "s.npz", ids=range(5)).ids == ("0", "1", "2", "3", "4")


def test_one_of_several_arrays(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, a=STACK, b=STACK[::-1])
    np.testing.assert_array_equal(pixels(find_images(f"{path}:/b")), STACK[::-1])
    assert refusal(path) == f"{path} holds no array images, but a, b; type {path}:/a"
    assert refusal(f"{path}:/c") == f"{path} holds no array c, but a, b; type {path}:/a"
    np.savez(path, a=STACK, imgBrick=STACK[::-1])
    np.testing.assert_array_equal(pixels(find_images(path)), STACK[::-1])


def test_an_archive_without_pictures(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, ids=["a"])
    assert refusal(path) == f"{path} holds no array images, only ids"
    np.savez(path)
    assert refusal(path) == f"{path} holds no array images, and no other"


@pytest.mark.parametrize("name", ["s.npy", "s.npz"])
@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x09\x00", b"PK\x03\x04"])
def test_files_that_are_not_of_numpy(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name} cannot be read as .np")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_files(tmp_path, share):
    np.save(tmp_path / "s.npy", STACK)
    np.savez(tmp_path / "s.npz", STACK)
    for path in (tmp_path / "s.npy", tmp_path / "s.npz"):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        assert "cannot be read as" in refusal(path)
        assert refusal(path).endswith("is it cut short?")


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, STACK)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "cannot be read as .npz" in refusal(path)


def test_arrays_that_are_no_stacks(tmp_path):
    np.save(tmp_path / "s.npy", np.zeros((2, 4, 5, 3)))
    assert "s.npy: expected uint8 [N, H, W, 3]" in refusal(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", np.array([{}]), allow_pickle=True)
    assert "got object [1]" in refusal(tmp_path / "s.npy")
    np.savez(tmp_path / "s.npz", image_id=np.array(["a", None]), x=STACK)
    assert "save ids as text" in refusal(tmp_path / "s.npz")


def test_a_disk_that_is_too_small_for_unpacking(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    path = tmp_path / "s.npz"
    np.savez_compressed(path, np.zeros((40, 100, 100, 3), np.uint8))
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from resmem_extract.errors import WorkError\n"
        "from resmem_extract.images import find_images\n"
        f"try: find_images({str(path)!r})\n"
        "except WorkError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == (
        f"{path} is compressed and cannot be unpacked into {tmp_path} (File too large); set TMPDIR"
        " to a larger disk\n"
    )
    assert os.listdir(tmp_path) == ["s.npz"]  # noqa: PTH208


def test_a_missing_file(tmp_path: Path):
    for name in ("s.npy", "s.npz", "s.h5", "s.h5:/x", "s.tar"):
        assert "No such file or directory; give a folder" in refusal(tmp_path / name)
