"""The shape of a chunk.

A chunk holds `ROWS` images and as many channels as make up `TARGET_BYTES`; spatial axes stay
whole unless one channel alone is larger. A store is read in two ways, some images with all their
channels and some channels of all images, and a plain reader fetches whole chunks: whatever else
they hold is read in vain. Chunks of whole images turn every read of channels into one of the whole
file, chunks of single channels do so to images. Measured by `benchmarks/store.py` on 512 images of
[512, 29, 29] float32 in the page cache (2 cores; our reader, which fetches parts of chunks, and
in brackets 16 channels by plain h5py, which does not)::

    chunk      write     64 images    16 channels
    8 x 32     0.66 s    74 ms         7 ms  (12 ms)
    4 x 64     0.64 s    71 ms         8 ms  (21 ms)
    16 x 16    0.66 s    74 ms         8 ms  (12 ms)
    1 x 512    0.56 s    66 ms         8 ms  (116 ms)
    256 x 1    1.70 s    163 ms       10 ms  (8 ms)

With whole chunks fetched one by one in h5py, 64 scattered images of 384 took 77 ms (4 x 64),
137 ms (8 x 32), 224 ms (16 x 16), 429 ms (32 x 8): eight rows are the compromise.

Rows are a power of two, so that batches of 16, 32 or 64 fill whole chunks and are written without
waiting in a buffer, and so that parts of a file that start at such a row can be joined by copying
chunks.
"""

from __future__ import annotations

import math

__all__ = ["ROWS", "TARGET_BYTES", "chunk_shape", "power_of_two"]

TARGET_BYTES = 2**20
ROWS = 8


def chunk_shape(shape: tuple[int, ...], n_images: int, itemsize: int) -> tuple[int, ...]:
    """Return the chunk of a data set `[n_images, *shape]`, about 1 MiB and never much more.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image's activation, channels first.
    n_images : int
        Rows of the whole data set; a chunk has no more, rounded down to a power of two.
    itemsize : int
        Bytes of one number.

    Returns
    -------
    tuple of int
        One number for each of the ``1 + len(shape)`` axes.
    """
    rows = min(_rows(shape, itemsize), power_of_two(n_images))
    room = TARGET_BYTES // (rows * itemsize)
    parts: list[int] = []
    for size in reversed(shape):
        parts.append(_even_part(max(size, 1), max(room, 1)))
        room //= parts[-1]
    return (rows, *reversed(parts))


def _rows(shape: tuple[int, ...], itemsize: int) -> int:
    """Return `ROWS`, more where small activations leave room, fewer where a channel is huge."""
    image = math.prod(shape) * itemsize
    channel = math.prod(shape[1:]) * itemsize
    whole_images = TARGET_BYTES // max(image, 1)
    single_channels = TARGET_BYTES // max(channel, 1)
    return power_of_two(max(whole_images, min(ROWS, single_channels)))


def power_of_two(number: int) -> int:
    """Return the largest power of two that is not above `number`, 1 at least."""
    return 1 << max(number, 1).bit_length() - 1


def _even_part(size: int, room: int) -> int:
    """Return the largest part of an axis that `room` admits and that wastes little padding."""
    if size <= room:
        return size
    divisor = next(part for part in range(room, 0, -1) if size % part == 0)
    return divisor if 2 * divisor > room else math.ceil(size / math.ceil(size / room))
