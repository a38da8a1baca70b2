"""From images to arrays: hashing, decoding, and worker threads that do both.

Threads, not processes: Pillow releases the interpreter's lock while it decodes and resizes, and
threads hand arrays over without copying and without shared memory (`benchmarks/decoding.py`).
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps

from .errors import ImageError

__all__ = [
    "IMAGE_FORMATS",
    "LoadedImage",
    "SkippedImage",
    "Stimuli",
    "content_sha256",
    "decode",
    "hash_images",
    "load_images",
]

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read; whichever of them it was built with."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_MAX_REASON = 200
_AHEAD_PER_WORKER = 4
_MIN_AHEAD = 32


class Stimuli(Protocol):
    """Images and what they are called, in order; `images.StimulusSet` is one."""

    @property
    def ids(self) -> Sequence[str]:
        """One unique key an image."""
        ...

    def read(self, row: int) -> bytes | Image.Image:
        """Return the bytes of an image file, or the picture itself where it is in no file.

        Several threads call this at the same time.

        Raises
        ------
        OSError
            It cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """One image, ready to be batched."""

    row: int
    """Its position among the stimuli."""
    id: str
    sha256: str
    """As `content_sha256` has it."""
    pixels: Any
    """What `prepare` returned."""


@dataclass(frozen=True)
class SkippedImage:
    """One image that could not be read, and why."""

    row: int
    """Its position among the stimuli."""
    id: str
    reason: str
    """One short line."""


def decode(
    data: bytes | Image.Image, *, exif_orientation: bool = False, image_id: str = "image"
) -> Image.Image:
    """Decode an image file, or convert a picture, to RGB by one rule, whatever it holds.

    The rule: the first frame is taken. 16-bit grey (Pillow's modes ``I;16*``, and ``I`` with all
    values in 0..65535) keeps its high byte, ``value >> 8``, where Pillow alone would clip it to
    white. Then Pillow's ``convert("RGB")``: grey is repeated, palettes are looked up, CMYK, YCbCr
    and Lab are converted; transparency is dropped, not blended. The EXIF orientation is ignored
    unless asked for. (The Orientation tag of a TIFF says how its rows are laid out; Pillow always
    follows it.)

    Parameters
    ----------
    data : bytes or PIL.Image.Image
        The whole file, whose content decides on the format, not its name; or a picture, which
        may be changed.
    exif_orientation : bool
        Turn the picture upright as its EXIF data says.
    image_id : str
        What the error calls the image.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, 8 bits a channel.

    Raises
    ------
    ImageError
        The data are empty, damaged, of a format that is not read, have more than
        `PIL.Image.MAX_IMAGE_PIXELS` pixels, or values without a fixed range (mode F, or mode I
        outside 0..65535).
    """
    try:
        image = _open(data) if isinstance(data, bytes) else data
        image.load()
        # Loading has turned a TIFF already; Pillow 10.0 would turn it a second time.
        if exif_orientation and image.format != "TIFF":
            return _to_rgb(ImageOps.exif_transpose(image))
        return _to_rgb(image)
    except MemoryError:
        raise
    except _Unsuitable as error:
        raise ImageError(image_id, str(error)) from None
    # Pillow's readers raise nearly anything on damaged data: SyntaxError, IndexError, zlib.error...
    except Exception as error:
        raise ImageError(image_id, f"cannot be decoded ({_one_line(error)})") from error


def content_sha256(content: bytes | Image.Image) -> str:
    """Return the SHA-256 by which the content of an image is known, in hexadecimal digits.

    Parameters
    ----------
    content : bytes or PIL.Image.Image
        Of a file, the hash is that of its bytes. Of a picture in no file, which must be RGB, it is
        that of the text ``uint8[H,W,3]``, in digits, and the values in C order after it.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(f"uint8[{content.height},{content.width},3]".encode())
    digest.update(content.tobytes())
    return digest.hexdigest()


def load_images(
    stimuli: Stimuli,
    prepare: Callable[[Image.Image], Any],
    *,
    workers: int,
    ahead: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    exif_orientation: bool = False,
    rows: Iterable[int] | None = None,
) -> Generator[LoadedImage | SkippedImage, None, None]:
    """Read, hash, decode and prepare images in worker threads; yield them in order.

    Each image is read once, so hash and pixels are of the same content. Memory is bounded by the
    look-ahead, whatever the number of images. Closing the generator, or any exception, stops the
    workers after the images they are at.

    Parameters
    ----------
    stimuli : Stimuli
        The images, such as a `StimulusSet`.
    prepare : callable
        From one RGB photograph to an array, or to what else it is to become; called in the
        workers. What it raises is passed on.
    workers : int
        Number of threads; with 0, images are decoded in the caller's thread, one at a time.
    ahead : int, optional
        How many images may be in work or waiting beyond the one last yielded; by default 4 a
        worker, at least 32.
    on_error : {"stop", "skip"}
        Whether the first image, in order, that cannot be read raises its error or is yielded as
        a `SkippedImage`, as all such images then are.
    exif_orientation : bool
        Turn photographs upright as their EXIF data says.
    rows : iterable of int, optional
        Positions of the images wanted, strictly ascending; by default all.

    Returns
    -------
    generator of LoadedImage or SkippedImage

    Raises
    ------
    ImageError
        An image cannot be read, and `on_error` is "stop"; raised while iterating.
    ValueError
        An argument is out of its range; raised at once.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error is 'stop' or 'skip', not {on_error!r}")
    wanted = range(len(stimuli.ids)) if rows is None else _checked_rows(rows, len(stimuli.ids))

    def load(row: int) -> LoadedImage | SkippedImage:
        image_id = stimuli.ids[row]
        try:
            content = _content(stimuli, row)
            image = decode(content, exif_orientation=exif_orientation, image_id=image_id)
        except ImageError as error:
            if on_error == "stop":
                raise
            return SkippedImage(row, image_id, error.reason)
        return LoadedImage(row, image_id, content_sha256(content), prepare(image))

    return _in_order(load, wanted, *_window(workers, ahead))


def hash_images(stimuli: Stimuli, workers: int) -> list[str]:
    """Return the `content_sha256` of each image, without decoding any file.

    Parameters
    ----------
    stimuli : Stimuli
        The images, such as a `StimulusSet`.
    workers : int
        Number of threads; 0 for the caller's own.

    Returns
    -------
    list of str
        In the order of `stimuli`.

    Raises
    ------
    ImageError
        An image cannot be read.
    """

    def sha256(row: int) -> str:
        return content_sha256(_content(stimuli, row))

    return list(_in_order(sha256, range(len(stimuli.ids)), *_window(workers, None)))


class _Unsuitable(Exception):
    """The image is intact, or its fault is plain; the message is the whole reason."""


def _open(data: bytes) -> ImageFile.ImageFile:
    """Parse the header of an image file.

    This is what `Image.open` does, over Pillow's own registry of readers. `Image.open` would warn
    of large images, and no thread may turn a warning off or into an error without disturbing the
    filters of all others. It would also try readers that run other programs (EPS).
    """
    if not data:
        raise _Unsuitable("the file is empty")
    for factory, accept in _readers():
        # A reader that knows the format, but was built without its library, answers with a text.
        if accept is None or accept(data[:16]) is True:
            try:
                image = factory(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise _Unsuitable(f"the image header is damaged ({_one_line(error)})") from error
            _check_size(image)
            return image
    raise _Unsuitable("not an image of a format that is read here: " + " ".join(IMAGE_FORMATS))


@cache
def _readers() -> tuple[
    tuple[Callable[..., ImageFile.ImageFile], Callable[[bytes], Any] | None], ...
]:
    """Return Pillow's readers of the formats in `IMAGE_FORMATS` that it was built with."""
    Image.init()
    return tuple(Image.OPEN[name] for name in IMAGE_FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image) -> None:
    """Raise if unpacking the image would take more memory than any photograph does."""
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise _Unsuitable(
            f"{pixels} pixels ({image.width} x {image.height}), more than the limit of {limit}"
            " against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Apply the rule of `decode` to a loaded image."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise _Unsuitable("floating-point pixels have no fixed range; convert the file to 8 bits")
    if image.mode.startswith("I"):
        image = _high_byte(image)
    # Pillow warns of transparency that a conversion drops; here that is the rule.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise _Unsuitable(
            f"integer pixels from {low} to {high} do not fit 16 bits; convert the file to 8 bits"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def _content(stimuli: Stimuli, row: int) -> bytes | Image.Image:
    """Return the bytes of an image file, or the RGB picture that is in no file."""
    image_id = stimuli.ids[row]
    try:
        content = stimuli.read(row)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(
            image_id, f"cannot be read ({error.strerror or _one_line(error)})"
        ) from error
    return content if isinstance(content, bytes) else decode(content, image_id=image_id)


def _one_line(error: BaseException) -> str:
    """Return an exception as one short line, the same in every run: no memory addresses."""
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", str(error)) or type(error).__name__
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable[:_MAX_REASON]


def _checked_rows(rows: Iterable[int], count: int) -> list[int]:
    """Return `rows` as a list; raise unless they ascend within the images there are."""
    checked = [int(row) for row in rows]
    if any(later <= row for row, later in pairwise(checked)):
        raise ValueError("rows must be strictly ascending")
    if checked and not 0 <= checked[0] <= checked[-1] < count:
        raise ValueError(f"rows must lie in 0..{count - 1}, not {checked[0]}..{checked[-1]}")
    return checked


def _window(workers: int, ahead: int | None) -> tuple[int, int]:
    """Return the number of threads and the look-ahead, checked and by default."""
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    if ahead is not None and ahead < 1:
        raise ValueError(f"ahead must be 1 or more, not {ahead}")
    return workers, ahead or max(_MIN_AHEAD, _AHEAD_PER_WORKER * workers)


def _in_order(
    function: Callable[[_In], _Out], items: Iterable[_In], workers: int, ahead: int
) -> Generator[_Out, None, None]:
    """Yield ``function(item)`` for each item, in order, working at most `ahead` items ahead."""
    if not workers:
        yield from map(function, items)
        return
    rest = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resmem-extract-image")
    try:
        pending = deque(pool.submit(function, item) for item in islice(rest, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
