"""Images that are Python objects: which are taken, when they are asked for, what is refused."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAMES, Dataset, pictures, png
from PIL import Image
from test_stacks import refusal

from resmem_extract.decoding import ImageError, load_images
from resmem_extract.images import StimulusSet, find_images

STACK = pictures()


def pixels(stimuli: StimulusSet, **options: object) -> list[np.ndarray]:
    return [i.pixels for i in load_images(stimuli, np.asarray, **{"workers": 2, **options})]


# --- what is taken ---


def test_pictures_of_all_sizes_and_modes():
    pictures = [Image.fromarray(STACK[0]), STACK[1, ..., 0], STACK[2, :4], png(STACK[3])]
    rgb, grey, cropped, decoded = pixels(find_images(pictures))
    np.testing.assert_array_equal(rgb, STACK[0])
    np.testing.assert_array_equal(grey, np.repeat(STACK[1, ..., :1], 3, axis=2))
    np.testing.assert_array_equal(cropped, STACK[2, :4])
    np.testing.assert_array_equal(decoded, STACK[3])


def test_one_picture_is_a_set_of_one():
    found = find_images(Image.fromarray(STACK[0]))
    assert (found.ids, found.root) == (("0",), "Python objects")
    np.testing.assert_array_equal(pixels(found)[0], STACK[0])


def test_a_picture_stays_as_it_was():
    palette = Image.fromarray(STACK[0]).quantize(8)
    palette.info["transparency"] = 3
    found = find_images([palette])
    np.testing.assert_array_equal(pixels(found)[0], np.asarray(palette.convert("RGB")))
    assert palette.info["transparency"] == 3


def test_exif_orientation_of_pictures_is_followed_when_asked():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(STACK[0]).save(file, "PNG", exif=exif)
    found = find_images([Image.open(file)])
    assert pixels(found)[0].shape == (6, 7, 3)
    turned = pixels(found, exif_orientation=True)[0]
    np.testing.assert_array_equal(turned, np.rot90(STACK[0], -1))


def test_an_open_data_set_of_h5py_is_an_array(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        dataset = file.create_dataset("x", data=STACK)
        np.testing.assert_array_equal(pixels(find_images(dataset)), STACK)
    found = find_images([torch.from_numpy(picture) for picture in STACK])
    np.testing.assert_array_equal(pixels(found), STACK)


def test_a_data_set_of_torch():
    class Own(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(STACK)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(STACK[index]), 7

    np.testing.assert_array_equal(pixels(find_images(Own())), STACK)
    subset = torch.utils.data.Subset(Own(), [3, 1])
    np.testing.assert_array_equal(pixels(find_images(subset)), STACK[[3, 1]])


def test_an_image_folder_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    for name, picture in zip(NAMES, STACK, strict=True):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_bytes(png(picture))
    np.testing.assert_array_equal(pixels(find_images(ImageFolder(tmp_path))), STACK)


def test_a_data_set_is_asked_by_one_thread_at_a_time_and_once_an_image():
    class Careful(Dataset):
        lock = threading.Lock()
        asked: list[int] = []  # noqa: RUF012

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            assert self.lock.acquire(blocking=False)
            self.asked.append(index)
            item = super().__getitem__(index)
            self.lock.release()
            return item

    stack = pictures(40, 50, 50)
    found = find_images(Careful(stack))
    assert Careful.asked == [0]  # to see whether it gives images
    np.testing.assert_array_equal(pixels(found, workers=8), stack)
    assert sorted(Careful.asked) == sorted([0, *range(40)])


@given(st.lists(st.sampled_from(["picture", "array", "grey", "file"]), min_size=1, max_size=12))
def test_an_iterator_is_gone_through_once(kinds):
    stack = pictures(len(kinds))
    forms = {
        "picture": Image.fromarray,
        "array": np.asarray,
        "grey": lambda picture: picture[..., 0],
        "file": png,
    }
    images = [forms[kind](picture) for kind, picture in zip(kinds, stack, strict=True)]
    found = find_images(iter(images))
    assert found.ids == tuple(map(str, range(len(kinds))))
    for kept, listed in zip(pixels(found), pixels(find_images(images)), strict=True):
        np.testing.assert_array_equal(kept, listed)
    assert [i.sha256 for i in load_images(found, np.asarray, workers=0)] == [
        i.sha256 for i in load_images(find_images(images), np.asarray, workers=0)
    ]


def test_an_iterator_takes_the_disk_and_not_the_memory():
    """It holds one image at a time."""
    alive = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def images() -> Iterator[np.ndarray]:
        nonlocal alive
        for picture in pictures(30):
            alive += 1
            assert alive <= 3
            yield picture.copy().view(Counted)

    found = find_images(images())
    (note,) = found.notes
    assert note == "30 images of an iterable, 0 MB, put into a temporary file"
    np.testing.assert_array_equal(pixels(found), pictures(30))


def test_pairs_name_the_images():
    found = find_images((f"x{k}", picture) for k, picture in enumerate(STACK))
    assert found.ids == ("x0", "x1", "x2", "x3", "x4")
    assert find_images(enumerate(STACK)).ids == ("0", "1", "2", "3", "4")
    assert find_images(zip(NAMES, STACK, strict=True)).ids == NAMES
    assert find_images({1: STACK[0], 7: STACK[1]}).ids == ("1", "7")
    assert find_images(iter(STACK), ids=NAMES).ids == NAMES


def test_an_iterator_of_paths_is_a_list_of_paths(tmp_path):
    for name, picture in zip(NAMES, STACK, strict=True):
        (tmp_path / name).write_bytes(png(picture))
    found = find_images(path for path in sorted(tmp_path.glob("*.png")))
    assert found.ids == tuple(str(tmp_path / name) for name in NAMES)
    assert found.images == tuple(tmp_path / name for name in NAMES)


# --- what is refused ---


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ({}, "no images in images; it is empty"),
        (iter([]), "no images in images; an iterator gives its images only once"),
        (Dataset(STACK[:0]), "no images in images; it is empty"),
        (3, "images: expected a path, a list of paths, pictures or arrays, got int"),
        (None, "images: expected a path, a list of paths, pictures or arrays, got NoneType"),
        ({STACK[0].tobytes()}, "images: expected a path, got set"),
        (bytearray(b"x"), "images: expected a path, got bytearray"),
        ([STACK[0], 3], "images[1]: expected a PIL image, a uint8 array or the bytes of an"),
        ([STACK[0], [1, 2]], "images[1]: expected a PIL image, a uint8 array or the bytes"),
        ([{"image": STACK[0]}], "images[0]: expected a PIL image, a uint8 array or the bytes of"),
        ([STACK[0] / 255], "images[0]: expected uint8 [H, W, 3], or [H, W] for grey, got float64"),
        ([STACK[0].transpose(2, 0, 1)], "got uint8 [3, 6, 7]; channels come last"),
        ([STACK[0][..., :0]], "images[0]: expected uint8 [H, W, 3], or [H, W] for grey, got"),
        (iter([STACK[0], None]), "images[1]: expected a PIL image"),
        (iter([("a", STACK[0]), STACK[1]]), "some come as a pair (id, image), and some without"),
        ([("a", STACK[0]), ("a", STACK[1])], "two images have the id a: images[0] and images[1]"),
        (iter([("a", STACK[0]), ("a", STACK[1])]), "two images have the id a"),
        (["a.jpg", STACK[0]], "images: expected a path, got ndarray"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image(source, part):
    assert part in refusal(source)


@pytest.mark.parametrize(
    "source",
    [{"a": STACK[0]}, [("a", STACK[0])], iter([("a", STACK[0])])],
    ids=lambda value: type(value).__name__,
)
def test_ids_that_are_given_twice(source):
    assert "they come with ids, and ids are given too; leave one out" in refusal(source, ids=["b"])


def test_a_data_set_that_gives_something_else():
    class Own(Dataset):
        def __init__(self, item: object) -> None:
            self.item = item

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> object:
            if isinstance(self.item, Exception):
                raise self.item
            return self.item

    assert "give ids=[...], or iter(images)" in refusal(Own(("a", STACK[0])))
    assert "images[0]: expected a PIL image" in refusal(Own({"image": STACK[0]}))
    assert "images[0]: expected uint8 [H, W, 3]" in refusal(Own((torch.zeros(3, 6, 7), 1)))
    message = refusal(Own(KeyError("no\nsuch")))
    assert message == r"images[0] cannot be had (KeyError: 'no\nsuch')"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("x"), "cannot be read (KeyError: 'x')"),
        (OSError("torn"), "cannot be read (torn)"),
        (FileNotFoundError(2, os.strerror(2)), f"cannot be read ({os.strerror(2)})"),
    ],
)
def test_an_item_that_cannot_be_had_is_one_bad_image(error, reason):
    class Own(Dataset):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 2:
                raise error
            return super().__getitem__(index)

    found = find_images(Own(STACK))
    rows = list(load_images(found, np.asarray, workers=2, on_error="skip"))
    assert [getattr(row, "reason", "") for row in rows] == ["", "", reason, "", ""]
    with pytest.raises(ImageError, match=r"^2: cannot be read"):
        pixels(found)


def test_a_picture_whose_file_is_torn():
    data = png(pictures(1, 90, 90)[0])
    torn = [Image.open(io.BytesIO(data[: len(data) // 2]))]
    with pytest.raises(ImageError, match=r"^0: cannot be read"):
        pixels(find_images(torn))
    with pytest.raises(OSError, match="truncated"):
        find_images(iter([Image.open(io.BytesIO(data[: len(data) // 2]))]))


def test_what_an_iterator_raises_is_passed_on():
    def broken() -> Iterator[np.ndarray]:
        yield STACK[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        find_images(broken())


def test_a_disk_that_is_too_small_for_an_iterator(tmp_path: Path):
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "import itertools, numpy as np\n"
        "from resmem_extract.errors import WorkError\n"
        "from resmem_extract.images import find_images\n"
        "try: find_images(itertools.repeat(np.zeros((100, 100, 3), np.uint8)))\n"
        "except WorkError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == (
        f"image 10 of an iterable cannot be kept in {tmp_path} (File too large); set TMPDIR to a"
        " larger disk, or give a sequence with __len__ and __getitem__, which needs none\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_endless_iterator_is_cut_by_its_owner():
    assert len(find_images(itertools.islice(itertools.repeat(STACK[0]), 3))) == 3
