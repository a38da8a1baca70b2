"""Which arrays are stacks of pictures, and which values are ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import pictures
from PIL import Image

from resmem_extract.errors import RequestError
from resmem_extract.images import find_images
from resmem_extract.images.stacks import as_picture, check_pixels, checked_ids


def refusal(source: object, **options: object) -> str:
    with pytest.raises(RequestError) as caught:
        find_images(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((2, 4, 5, 3), np.float32), "got float32 [2, 4, 5, 3]; floating-point values"),
        (np.zeros((2, 4, 5, 3), np.float64), "(255 * x).round().astype('uint8')"),
        (torch.zeros((2, 4, 5, 3), dtype=torch.bfloat16), "got bfloat16 [2, 4, 5, 3]; floating"),
        (np.zeros((2, 4, 5), np.uint16), "got uint16 [2, 4, 5]; (x >> 8).astype('uint8')"),
        (np.zeros((2, 4, 5), np.int64), "convert it to 8 bits"),
        (np.zeros((2, 4, 5), bool), "convert it to 8 bits"),
        (np.array(["a.jpg", "b.jpg"]), "got <U5 [2]; pictures of different sizes, and paths,"),
        (np.array([None, None]), "are given as a list"),
        (np.zeros((4, 5, 3), np.uint8), "is it one picture? x[None]"),
        (np.zeros((4, 5, 4), np.uint8), "is it one picture? x[None]"),
        (np.zeros((2, 3, 4, 5), np.uint8), "channels come last: x.transpose(0, 2, 3, 1)"),
        (np.zeros((2, 4, 5, 1), np.uint8), "x[..., 0] is grey"),
        (np.zeros((2, 4, 5, 4), np.uint8), "x[..., :3] is without transparency"),
        (np.zeros((2, 4, 5, 7), np.uint8), "there are three channels"),
        (np.zeros((4, 5), np.uint8), "one axis of images comes first"),
        (np.zeros((1, 1, 4, 5, 3), np.uint8), "one axis of images comes first"),
        (np.array(3, np.uint8), "got uint8 []; one axis of images comes first"),
    ],
    ids=str,
)
def test_arrays_that_are_no_stacks(array, hint):
    message = refusal(array)
    assert message.startswith("images: expected uint8 [N, H, W, 3], or [N, H, W] for grey, got ")
    assert hint in message


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 0, 5, 3), (2, 4, 0)])
def test_stacks_without_pictures(shape):
    assert refusal(np.zeros(shape, np.uint8)).startswith("no images in images: its shape is [")


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_each_picture_is_a_row(n, height, width):
    colour = pictures(n, height, width)
    check_pixels(colour.shape, colour.dtype, "x")
    for row in (colour[0], colour[0, ..., 1]):
        np.testing.assert_array_equal(np.asarray(as_picture(row)), row)
        turned = row[::-1, ::-1]
        np.testing.assert_array_equal(np.asarray(as_picture(turned)), turned)


def test_grey_is_repeated():
    grey = pictures()[..., 0]
    picture = find_images(grey).read(1)
    assert picture.mode == "L"
    assert picture == Image.fromarray(grey[1])


@pytest.mark.parametrize(
    ("given_ids", "ids"),
    [
        (["a", "b"], ("a", "b")),
        ((7, np.int32(8)), ("7", "8")),
        (np.array(["é", "中"]), ("é", "中")),
        (np.array([b"a", "é".encode()]), ("a", "é")),
        (np.array([b"a", b"b"], dtype=object), ("a", "b")),
        (np.array([5, 6], dtype=np.uint8), ("5", "6")),
        (torch.tensor([5, 6]), ("5", "6")),
        ((f"x{k}" for k in range(2)), ("x0", "x1")),
    ],
)
def test_ids_of_any_kind_become_text(given_ids, ids):
    assert find_images(pictures(2), ids=given_ids).ids == ids


@pytest.mark.parametrize(
    ("ids", "part"),
    [
        (["a"], "1 id for 2 images; give each image one"),
        (["a", "b", "c"], "3 ids for 2 images"),
        ([1.0, 2.0], "ids are text or integers, not float"),
        ([True, False], "ids are text or integers, not bool"),
        ([None, "a"], "ids are text or integers, not NoneType"),
        ([b"\xff", b"a"], "the id b'\\xff' is not valid UTF-8"),
        (["a", "a"], "two images have the id a: images[0] and images[1]; rename one"),
        (["a", ""], "an image id is empty"),
        (["a", "x" * 1025], "1025 bytes long"),
        (["a", "b\nc"], "holds a NUL or a newline"),
    ],
)
def test_ids_that_do_not_fit(ids, part):
    assert part in refusal(pictures(2), ids=ids)


def test_ids_of_numbers_are_decimal():
    assert checked_ids(range(3), 3, "x") == ("0", "1", "2")
