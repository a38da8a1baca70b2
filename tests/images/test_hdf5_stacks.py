"""Stacks in HDF5, against plain h5py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import pictures
from test_stacks import refusal

from resmem_extract.decoding import ImageError, load_images
from resmem_extract.images import StimulusSet, find_images, hdf5_stacks
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

STACK = pictures()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.h5"


def pixels(stimuli: StimulusSet, workers: int = 2) -> np.ndarray:
    return np.stack([image.pixels for image in load_images(stimuli, np.asarray, workers=workers)])


# --- which data set, under which ids ---


def test_another_data_set_is_named_after_a_colon(path):
    with h5py.File(path, "w") as file:
        file["a/b"] = STACK
        file["imgBrick"] = STACK[::-1]
    found = find_images(f"{path}:/a/b")
    np.testing.assert_array_equal(pixels(found), STACK)
    assert (found.root, str(found.images[3])) == (f"{path}:/a/b", f"{path}:/a/b[3]")
    np.testing.assert_array_equal(pixels(find_images(path)), STACK[::-1])


def test_any_file_is_hdf5_if_the_data_set_is_named(tmp_path):
    with h5py.File(tmp_path / "odd.dat", "w") as file:
        file["x"] = STACK
    assert len(find_images(tmp_path / "odd.dat:" / "x")) == 5


def test_a_file_whose_name_looks_like_a_data_set_comes_first(tmp_path):
    (tmp_path / "s.h5:").mkdir()
    (tmp_path / "s.h5:" / "a.png").touch()
    (tmp_path / "s.h5").touch()
    assert find_images(f"{tmp_path}/s.h5:/a.png").ids == ("a.png",)


@pytest.mark.parametrize("name", ["image_id", "id"])
@pytest.mark.parametrize("dtype", ["i4", h5py.string_dtype(), h5py.string_dtype(length=8)])
def test_ids_lie_beside_the_pictures(path, name, dtype):
    ids = ["1", "22", "3", "4", "5"] if dtype == "i4" else ["é", "22", "3", "4", "5"]
    with h5py.File(path, "w") as file:
        file["g/imgBrick"] = STACK
        values = [int(i) if dtype == "i4" else i.encode() for i in ids]
        file.create_dataset(f"g/{name}", data=values, dtype=dtype)
        file["image_id"] = [b"of another group"]
    found = find_images(f"{path}:/g/imgBrick")
    assert found.ids == tuple(ids)
    assert find_images(f"{path}:/g/imgBrick", ids="abcde").ids == tuple("abcde")


def test_ids_beside_that_do_not_fit(path):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = STACK
        file["image_id"] = [1, 2]
    assert refusal(path) == f"{path}:/imgBrick: 2 ids for 5 images; give each image one"


# --- reading ---


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, object], int]:
    shape = (*(draw(st.integers(1, 6)) for _ in range(2)), draw(st.sampled_from([1, 2, 5])))
    if draw(st.booleans()):
        shape = (*shape, 3)
    options: dict[str, object] = {}
    if draw(st.booleans()):
        options["chunks"] = tuple(draw(st.integers(1, side)) for side in shape)
        options["compression"] = draw(st.sampled_from([None, "gzip", "lzf"]))
        options["fletcher32"] = draw(st.booleans())
    return shape, options, draw(st.sampled_from([1, 50, 2**26]))


@given(layouts(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_layout_gives_what_h5py_gives(tmp_path_factory, layout, random):
    shape, options, block_bytes = layout
    values = np.frombuffer(random.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("h5") / "s.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=values, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5_stacks, "_BLOCK_BYTES", block_bytes)
        found = find_images(path)
        rows = list(range(len(found)))
        random.shuffle(rows)
        for row in rows:
            np.testing.assert_array_equal(np.asarray(found.read(row)), values[row])
        rgb = values if values.ndim == 4 else np.repeat(values[..., None], 3, axis=3)
        np.testing.assert_array_equal(pixels(found), rgb)


@pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc")
@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (16, 50, 50, 1)}, {"chunks": (16, 50, 50, 3), **hdf5plugin.Bitshuffle()}],
    ids=["contiguous", "chunks", "compressed"],
)
def test_every_byte_is_read_once(path, options, workers):
    """The kernel counts: chunks that hold a part of many pictures are not read once for each."""
    stack = pictures(64, 160, 160)  # of more than the 64 KiB that HDF5 reads at least
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("imgBrick", data=stack, **options).id
        nbytes = stored.get_storage_size()
    found = find_images(path)

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    np.testing.assert_array_equal(pixels(found, workers), stack)
    assert read() - before < nbytes * 1.1
    if workers == 0:  # what threads have read is counted once they are gone
        assert read() - before >= nbytes


def test_memory_is_bounded(path, monkeypatch):
    """Blocks are dropped once the threads are beyond them."""
    monkeypatch.setattr(hdf5_stacks, "_BLOCK_BYTES", 4 * 6 * 7 * 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=pictures(40), chunks=(40, 6, 7, 3))
    found = find_images(path)
    for row in range(40):
        found.read(row)
        opened = found.images[0].stack._opened
        assert sum(block.nbytes for block in opened.blocks.values()) <= 2 * 4 * 6 * 7 * 3
    assert len(opened.blocks) == 2


def test_a_fork_opens_the_file_anew(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=STACK, chunks=(2, 6, 7, 3), compression="gzip")
    code = f"""
import os, numpy as np
from resmem_extract.images import find_images
found = find_images({str(path)!r})
first = np.asarray(found.read(0)).sum()
child = os.fork()
total = sum(int(np.asarray(found.read(row)).sum()) for row in range(5))
os.write(1, b"%d\\n" % total)
if child: os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(STACK.sum()))] * 2


def test_a_damaged_chunk_is_one_image_that_cannot_be_read(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("imgBrick", data=STACK, chunks=(1, 6, 7, 3), fletcher32=True)
        place = data.id.get_chunk_info(2).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 9)
    found = find_images(path)
    rows = list(load_images(found, np.asarray, workers=2, on_error="skip"))
    assert [hasattr(row, "reason") for row in rows] == [False, False, True, False, False]
    assert rows[2].reason.startswith("cannot be read (")
    with pytest.raises(ImageError, match=r"^2: cannot be read"):
        pixels(found)


@pytest.mark.parametrize("chunks", [None, (2, 6, 7, 3)])
@pytest.mark.parametrize(("name", "row"), [("imgBrick", 4), ("other", 0)])
def test_a_file_that_has_changed(path, chunks, name, row):
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=STACK, chunks=chunks)
    found = find_images(path).take([row])
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=STACK[:2], chunks=chunks)
    with pytest.raises(ImageError, match=rf"^{row}: cannot be read \(.*/imgBrick is not what it"):
        pixels(found)


def test_a_file_that_is_gone(path):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = STACK
    found = find_images(path)
    path.unlink()
    with pytest.raises(ImageError, match=r"^0: cannot be read"):
        pixels(found)


# --- what is refused ---


def test_a_data_set_that_is_not_there(path):
    with h5py.File(path, "w") as file:
        for name in ("a", "b/c", "d", "e", "f", "g"):
            file[name] = STACK
    assert refusal(path) == (
        f"{path} holds no data set /imgBrick, but /a, /b/c, /d, /e, /f, ...; type {path}:/a"
    )
    assert "holds no data set /b, but" in refusal(f"{path}:/b")
    assert "holds no data set /n/o, but" in refusal(f"{path}:/n/o")


def test_files_without_data_sets(path):
    with h5py.File(path, "w") as file:
        file.create_group("g")
        file["imgBrick"] = h5py.SoftLink("/nowhere")
    assert refusal(path) == f"{path} holds no data set; pictures were expected in /imgBrick"


def test_a_data_set_without_a_shape(path):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = h5py.Empty("u1")
    assert "holds no data set; pictures were expected in /imgBrick" in refusal(path)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.zeros((2, 4, 5, 3), np.float32), "got float32 [2, 4, 5, 3]; floating-point"),
        (np.zeros((2, 3, 4, 5), np.uint8), "channels come last"),
        (np.zeros((0, 4, 5, 3), np.uint8), "no images in"),
        (np.array([b"abc"]), "got |S3 [1]"),
    ],
)
def test_data_sets_that_are_no_stacks(path, values, part):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = values
    message = refusal(path)
    assert part in message
    assert f"{path}:/imgBrick" in message


def test_a_feature_store(path):
    spec = ActivationSpec("conv1", "conv1", (2,), ("image", "unit"))
    with StoreWriter(path, [spec], 1) as writer:
        writer.append(["a"], ["0" * 64], {"conv1": np.zeros((1, 2), np.float32)})
        writer.finish(provenance={})
    assert "is a feature store, which holds activations; give the images" in refusal(path)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89HDF\r\n\x1a\n" + b"\0" * 90])
def test_files_that_are_no_hdf5(path, data):
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} cannot be read as HDF5 (")


def test_a_truncated_file(path):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = pictures(50, 60, 60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "truncated" in refusal(path)


def test_a_file_that_is_written_to(path):
    with h5py.File(path, "w") as file:
        file["imgBrick"] = STACK
        file.flush()
        code = (
            "from resmem_extract.images import find_images\n"
            f"try: find_images({str(path)!r})\n"
            "except ValueError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert "close the program that writes to it" in done.stdout


def test_a_virtual_data_set_whose_source_is_missing(tmp_path, path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["x"] = STACK
    layout = h5py.VirtualLayout(STACK.shape, np.uint8)
    layout[...] = h5py.VirtualSource("source.h5", "x", STACK.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("imgBrick", layout)
    np.testing.assert_array_equal(pixels(find_images(path)), STACK)
    (tmp_path / "source.h5").rename(tmp_path / "moved.h5")
    assert "source.h5, where a part of it lies, is missing" in refusal(path)


def test_a_filter_that_is_not_installed(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=STACK, chunks=(1, 6, 7, 3), **hdf5plugin.Zstd())
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from resmem_extract.images import find_images\n"
        f"try: find_images({str(path)!r})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the HDF5 filter 32015" in done.stdout
    assert "pip install 'resmem-extract[compression]'" in done.stdout
    code = f"from resmem_extract.images import find_images; print(len(find_images({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


def test_ids_for_what_has_names(tmp_path):
    (tmp_path / "a.png").touch()
    message = "ids are given for stacks, and for images and paths in Python"
    assert message in refusal(tmp_path, ids=["a"])
    assert message in refusal(find_images(tmp_path), ids=["a"])
    assert find_images([tmp_path / "a.png"], ids=["x"]).ids == ("x",)
