"""Files as ``torch.save`` writes them, without torch and in bounded memory.

Since torch 1.6 such a file is a zip archive without compression: ``data.pkl`` says how a tensor is
made of a storage, whose bytes are the member ``data/0``. The pickle is written here by hand, since
`pickle` writes no reference to a function of a package that is not imported.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

__all__ = ["tensor_file"]

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage"}
_ALIGNMENT = 64  # torch's own, so that a mapped file gives aligned tensors
_LOCAL_HEADER = 30
_ZIP64_FIELD = 20


@contextmanager
def tensor_file(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[IO[bytes]]:
    """Give a stream for the bytes of one contiguous tensor, the values in C order.

    Parameters
    ----------
    stream : file
        Open for writing, at its beginning.
    shape : tuple of int
    dtype : numpy.dtype
        float32 or float16.
    """
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle(shape, dtype))
        archive.writestr("archive/byteorder", "little")
        member = zipfile.ZipInfo("archive/data/0")
        start = stream.tell() + _LOCAL_HEADER + len(member.filename) + _ZIP64_FIELD + 4
        padding = -start % _ALIGNMENT
        member.extra = struct.pack(f"<2sH{padding}x", b"FB", padding)
        with archive.open(member, "w", force_zip64=True) as data:
            yield data
        archive.writestr("archive/version", "3\n")


def _pickle(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the pickle, protocol 2, of a tensor over the storage ``0``."""
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    storage = (
        _text("storage"),
        _global("torch", _STORAGES[dtype.name]),
        _text("0"),
        _text("cpu"),
        _integer(int(np.prod(shape, dtype=np.int64))),
    )
    arguments = (
        _tuple(storage) + b"Q",  # the persistent object of this name
        _integer(0),
        _tuple(map(_integer, shape)),
        _tuple(map(_integer, strides)),
        b"\x89",  # False: no gradient
        _global("collections", "OrderedDict") + b")R",  # no hooks
    )
    return b"\x80\x02" + _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + b"R."


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _integer(number: int) -> bytes:
    """Return a whole number from 0, little-endian, with a leading zero bit for its sign."""
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little")
