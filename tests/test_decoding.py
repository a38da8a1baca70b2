"""Bytes to arrays: the RGB rule, damaged files, and the order and bounds of the workers."""

import hashlib
import io
import os
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets.folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from resmem_extract import decoding
from resmem_extract.decoding import (
    LoadedImage,
    SkippedImage,
    content_sha256,
    decode,
    hash_images,
    load_images,
)
from resmem_extract.errors import ImageError
from resmem_extract.images import StimulusSet, find_images, sample_photographs

PHOTOGRAPHS = sample_photographs()
FILES = dict(zip(PHOTOGRAPHS.ids, PHOTOGRAPHS.paths, strict=True))
ASTRONAUT = Image.open(FILES["skimage/astronaut.png"]).convert("RGB").resize((96, 80))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def refusal(data: bytes | Image.Image, **options: bool) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, image_id="it", **options)
    assert caught.value.image_id == "it"
    reason = caught.value.reason
    assert reason.isprintable()
    assert " at 0x" not in reason
    assert len(reason) < 300
    return reason


def prepared(image: Image.Image) -> np.ndarray:
    """The first step of ResMem."""
    small = image.resize((256, 256), Image.Resampling.BILINEAR)
    return np.asarray(small.crop((14, 14, 241, 241)))


@pytest.fixture
def photos(tmp_path) -> StimulusSet:
    """Twelve files, each of another colour."""
    for k in range(12):
        Image.new("RGB", (8, 6), (20 * k, 0, 0)).save(tmp_path / f"{k:02d}.png")
    return find_images(tmp_path)


# --- the rule ---


@pytest.mark.parametrize("name", PHOTOGRAPHS.ids)
def test_photographs_decode_as_torchvision_does(name):
    expected = np.asarray(torchvision.datasets.folder.pil_loader(str(FILES[name])))
    image = decode(FILES[name].read_bytes())
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB")],
        *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
        *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
        ("P", "GIF"), ("RGB", "BMP"), ("L", "PPM"), ("RGB", "PPM"), ("RGB", "JPEG2000"),
    ],
)  # fmt: skip
def test_every_8_bit_mode_is_converted_as_pillow_does(mode, form):
    via = "RGB" if mode in ("P", "LAB") else "L" if mode == "LA" else None
    image = (ASTRONAUT.convert(via) if via else ASTRONAUT).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = encoded(image, form)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(data)), expected)


def test_alpha_is_dropped_not_blended():
    image = ASTRONAUT.copy()
    image.putalpha(0)
    np.testing.assert_array_equal(np.asarray(decode(encoded(image, "PNG"))), np.asarray(ASTRONAUT))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_transparency_of_a_palette_is_dropped_without_a_warning(transparency):
    image = ASTRONAUT.quantize(256)
    data = encoded(image, "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode(data)
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image.convert("RGB")))


def grey16(values: np.ndarray, kind: str) -> bytes:
    """16-bit grey in each way that files hold it."""
    height, width = values.shape
    if kind == "TIFF big-endian":
        image = Image.frombytes("I;16B", (width, height), values.astype(">u2").tobytes())
        return encoded(image, "TIFF")
    if kind == "PGM":
        return b"P5 %d %d 65535\n" % (width, height) + values.astype(">u2").tobytes()
    return encoded(Image.fromarray(values.astype(np.uint16)), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big-endian", "PGM"])
def test_16_bit_grey_keeps_its_high_byte(kind):
    values = np.arange(0, 65536, 37, dtype=np.uint16)[:1764].reshape(42, 42)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(decode(grey16(values, kind))), expected)


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4))
def test_mode_i_within_16_bits_is_16_bit_grey(values):
    data = encoded(Image.fromarray(np.array(values, dtype=np.int32).reshape(2, 2)), "TIFF")
    pixels = np.asarray(decode(data))
    assert pixels[..., 0].ravel().tolist() == [value >> 8 for value in values]


def test_pixels_without_a_fixed_range_are_refused():
    for value in (-1, 65536):
        data = encoded(Image.fromarray(np.full((2, 2), value, dtype=np.int32)), "TIFF")
        reason = refusal(data)
        assert f"from {value} to {value} do not fit 16 bits; convert the file" in reason
    data = encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF")
    assert "convert the file to 8 bits" in refusal(data)


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert decode(data).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed_only_when_asked(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(ASTRONAUT, "JPEG", exif=exif)
    stored = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(stored))
    upright = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(np.asarray(decode(data, exif_orientation=True)), upright)


@pytest.mark.parametrize("asked", [False, True])
def test_orientation_of_a_tiff_is_always_followed_once(asked):
    data = encoded(ASTRONAUT, "TIFF", tiffinfo={0x0112: 6})
    once = np.asarray(ASTRONAUT.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(np.asarray(decode(data, exif_orientation=asked)), once)


# --- pictures that are in no file ---


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I"])
def test_a_picture_becomes_rgb_by_the_same_rule(mode):
    """A lossless file of the picture is the oracle."""
    via = "RGB" if mode in ("P", "LAB") else None
    picture = ASTRONAUT.convert(via) if via else ASTRONAUT
    if mode.startswith("I"):
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    picture = picture if mode == "I;16" else picture.convert(mode)
    expected = np.asarray(decode(encoded(picture, "TIFF")))
    np.testing.assert_array_equal(np.asarray(decode(picture)), expected)


def test_a_picture_without_a_fixed_range_is_refused():
    assert "convert the file to 8 bits" in refusal(Image.new("F", (2, 2)))


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_hash_of_a_picture_is_of_its_shape_and_values(height, width, random):
    values = np.frombuffer(random.randbytes(height * width * 3), np.uint8)
    values = values.reshape(height, width, 3)
    text = f"uint8[{height},{width},3]".encode()
    expected = hashlib.sha256(text + values.tobytes("C")).hexdigest()
    assert content_sha256(Image.fromarray(values)) == expected
    assert content_sha256(values.tobytes()) == hashlib.sha256(values.tobytes()).hexdigest()


class Pictures:
    """Stimuli that are in no file; one of them may be damaged."""

    ids = ("a", "b", "c")

    def __init__(self, *pictures: Image.Image | OSError) -> None:
        self.pictures = pictures

    def read(self, row: int) -> Image.Image:
        if isinstance(self.pictures[row], OSError):
            raise self.pictures[row]
        return self.pictures[row].copy()


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_loaded_like_files(workers):
    grey = ASTRONAUT.convert("L")
    bad = OSError("no chunk\nat 0x7f")
    images = list(
        load_images(Pictures(ASTRONAUT, bad, grey), np.asarray, workers=workers, on_error="skip")
    )
    assert images[1] == SkippedImage(1, "b", "cannot be read (no chunk at 0x7f)")
    for image, picture in zip(images[::2], (ASTRONAUT, grey.convert("RGB")), strict=True):
        np.testing.assert_array_equal(image.pixels, np.asarray(picture))
        assert image.sha256 == content_sha256(picture)
    assert hash_images(Pictures(ASTRONAUT, ASTRONAUT, grey), workers)[2] == images[2].sha256


def test_the_hash_of_a_picture_does_not_depend_on_whether_it_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(io.BytesIO(encoded(ASTRONAUT, "PNG", exif=exif)))
    as_it_is, turned = (
        next(
            load_images(Pictures(picture), np.asarray, workers=0, rows=[0], exif_orientation=asked)
        )
        for asked in (False, True)
    )
    assert as_it_is.sha256 == turned.sha256
    np.testing.assert_array_equal(as_it_is.pixels, np.asarray(ASTRONAUT))
    np.testing.assert_array_equal(turned.pixels, np.asarray(ImageOps.exif_transpose(picture)))
    assert turned.pixels.shape == (96, 80, 3)


# --- what is refused ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000"])
def test_truncated_files(form):
    data = encoded(ASTRONAUT, form)
    assert refusal(data[: len(data) // 2])


def test_truncated_photograph_says_so():
    data = encoded(ASTRONAUT, "JPEG")
    assert refusal(data[: len(data) // 2]).startswith("cannot be decoded (image file is truncated")


@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP"]), st.data())
def test_damaged_files_are_decoded_or_refused(form, data):
    """Whatever Pillow raises on damaged data, only ImageError comes out."""
    damaged = bytearray(encoded(ASTRONAUT.resize((16, 16)), form))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(bytes(damaged), exif_orientation=True).mode == "RGB"
        except ImageError as error:
            assert error.reason


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image of a format that is read here: JPEG PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a format"),
        (b"\x89PNG\r\n\x1a\n", "the image header is damaged"),
        (b"\xff\xd8\xff", "the image header is damaged"),
        (b"P5 2 x", "cannot be decoded"),
    ],
)
def test_data_that_are_no_image(data, part):
    assert part in refusal(data)


@pytest.mark.parametrize(
    "error", [OSError("a <_io.BytesIO object at 0x7f00> b\nc"), KeyError(1), zlib.error("z"),
              struct.error("s"), AttributeError(), OverflowError("o"), EOFError(), TypeError("t")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_pillow_raises_becomes_one_line(monkeypatch, error):
    def broken(*_):
        raise error

    data = encoded(ASTRONAUT.convert("L"), "PNG")
    monkeypatch.setattr(Image.Image, "convert", broken)
    reason = refusal(data)
    assert reason.startswith("cannot be decoded (")
    if isinstance(error, OSError):
        assert reason == "cannot be decoded (a the file b c)"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_not_the_image_s_fault_is_passed_on(monkeypatch, error):
    def broken(*_):
        raise error

    data = encoded(ASTRONAUT.convert("L"), "PNG")
    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(error):
        decode(data)


def crafted_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_between_and_beyond_pillows_two_limits(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reason = refusal(crafted_png(side, side))
    assert f"{side * side} pixels" in reason
    assert f"limit of {Image.MAX_IMAGE_PIXELS}" in reason


def test_the_limit_is_pillows_own(monkeypatch):
    data = encoded(ASTRONAUT, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 80)
    decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 80 - 1)
    assert "7680 pixels (96 x 80), more than the limit of 7679" in refusal(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode(data)


# --- many images ---


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_come_in_order_with_the_hash_of_their_bytes(workers):
    loaded = list(load_images(PHOTOGRAPHS, prepared, workers=workers))
    assert [image.row for image in loaded] == list(range(len(PHOTOGRAPHS)))
    assert tuple(image.id for image in loaded) == PHOTOGRAPHS.ids
    for image, path in zip(loaded, PHOTOGRAPHS.paths, strict=True):
        assert isinstance(image, LoadedImage)
        assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (image.pixels.shape, image.pixels.dtype) == ((227, 227, 3), np.uint8)
        expected = prepared(torchvision.datasets.folder.pil_loader(str(path)))
        np.testing.assert_array_equal(image.pixels, expected)
    assert hash_images(PHOTOGRAPHS, workers) == [image.sha256 for image in loaded]


@given(st.permutations(range(6)), st.integers(1, 4), st.integers(1, 9))
def test_order_does_not_depend_on_which_image_takes_longest(delays, workers, ahead):
    def work(k: int) -> int:
        time.sleep(delays[k] / 5000)
        return k

    assert list(decoding._in_order(work, range(6), workers, ahead)) == list(range(6))


def test_each_file_is_read_once(photos, monkeypatch):
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read_bytes(path))[1])
    list(load_images(photos, np.asarray, workers=2))
    assert sorted(reads) == sorted(photos.paths)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_restrict_what_is_loaded(photos, workers):
    loaded = list(load_images(photos, np.asarray, workers=workers, rows=[1, 5, 11]))
    assert [image.row for image in loaded] == [1, 5, 11]
    assert [image.id for image in loaded] == ["01.png", "05.png", "11.png"]
    assert [image.pixels[0, 0, 0] for image in loaded] == [20, 100, 220]
    assert list(load_images(photos, np.asarray, workers=workers, rows=[])) == []


@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_look_ahead_is_bounded(photos, ahead):
    calls = []

    def prepare(image: Image.Image) -> np.ndarray:
        calls.append(image)
        return np.asarray(image)

    most = 0
    images = load_images(photos, prepare, workers=2, ahead=ahead)
    assert calls == []
    for taken, _ in enumerate(images, start=1):
        time.sleep(0.02)
        most = max(most, len(calls) - taken)
        assert len(calls) <= taken + ahead
    assert most >= 1
    assert len(calls) == len(photos)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("resmem-extract-image")]


def test_closing_stops_the_workers(photos):
    calls = []

    def prepare(image: Image.Image) -> np.ndarray:
        calls.append(image)
        time.sleep(0.05)
        return np.asarray(image)

    images = load_images(photos, prepare, workers=2, ahead=12)
    next(images)
    assert threads()
    images.close()
    assert not threads()
    assert len(calls) < len(photos)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_prepare_raises_is_passed_on_and_stops_the_workers(photos, error, workers):
    def prepare(image: Image.Image) -> np.ndarray:
        raise error

    with pytest.raises(error):
        next(load_images(photos, prepare, workers=workers, on_error="skip"))
    assert not threads()


def spoilt(photos: StimulusSet) -> StimulusSet:
    """Four bad files: a text, a dangling link, a folder, an empty file."""
    photos.images[2].write_text("a text")
    for row in (4, 6):
        photos.images[row].unlink()
    photos.images[4].symlink_to("nowhere")
    photos.images[6].mkdir()
    photos.images[9].write_bytes(b"")
    return photos


@pytest.mark.parametrize("workers", [0, 3])
def test_skipping_names_every_bad_image(photos, workers):
    images = list(load_images(spoilt(photos), np.asarray, workers=workers, on_error="skip"))
    assert [image.row for image in images] == list(range(12))
    skipped = {image.id: image.reason for image in images if isinstance(image, SkippedImage)}
    assert list(skipped) == ["02.png", "04.png", "06.png", "09.png"]
    assert skipped["02.png"].startswith("not an image of a format that is read here")
    assert skipped["04.png"] == f"cannot be read ({os.strerror(2)})"
    assert skipped["06.png"] == f"cannot be read ({os.strerror(21)})"
    assert skipped["09.png"] == "the file is empty"


@pytest.mark.parametrize("workers", [0, 3])
def test_stopping_raises_the_first_bad_image_in_order(photos, workers):
    seen = []
    with pytest.raises(ImageError, match=r"^02\.png: not an image") as caught:
        seen.extend(image.row for image in load_images(spoilt(photos), np.asarray, workers=workers))
    assert (caught.value.image_id, caught.value.exit_code) == ("02.png", 1)
    assert not threads()


def test_stopping_yields_what_came_before(photos):
    images = load_images(spoilt(photos), np.asarray, workers=3)
    assert [next(images).row, next(images).row] == [0, 1]
    with pytest.raises(ImageError):
        next(images)


def test_an_unreadable_file_cannot_be_hashed(photos):
    with pytest.raises(ImageError, match=r"04\.png: cannot be read"):
        hash_images(spoilt(photos), 2)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"workers": -1}, "workers must be 0 or more"),
        ({"workers": 1, "ahead": 0}, "ahead must be 1 or more"),
        ({"workers": 1, "on_error": "ignore"}, "not 'ignore'"),
        ({"workers": 1, "rows": [2, 1]}, "strictly ascending"),
        ({"workers": 1, "rows": [1, 1]}, "strictly ascending"),
        ({"workers": 1, "rows": [0, 12]}, r"must lie in 0\.\.11, not 0\.\.12"),
        ({"workers": 1, "rows": [-1]}, r"must lie in 0\.\.11"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(photos, options, part):
    with pytest.raises(ValueError, match=part):
        load_images(photos, np.asarray, **options)
