"""How many bytes a store will take, and whether the disk has them."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import RequestError
from ..types import ActivationSpec
from .chunk_copy import ALIGNED_FROM, PAGE
from .chunks import chunk_shape

__all__ = ["check_free_space", "format_bytes", "parse_bytes", "required_bytes"]

_FILE_BYTES = 2**16  # superblock, groups, provenance
_DATASET_BYTES = 2**12  # object header, attributes, links
_IMAGE_BYTES = 512  # id, SHA-256 and a few columns


def required_bytes(specs: Sequence[ActivationSpec], n_images: int) -> int:
    """Return an upper estimate of a store's size: padded chunks, their index, ids, metadata.

    Compression is not counted on. While it is written the store takes no other disk space.
    """
    per_file = _FILE_BYTES + n_images * _IMAGE_BYTES
    return per_file + sum(_feature_bytes(spec, n_images) for spec in specs)


def _feature_bytes(spec: ActivationSpec, n_images: int) -> int:
    itemsize = np.dtype(spec.dtype).itemsize
    chunk = chunk_shape(spec.shape, n_images, itemsize)
    n_chunks = math.prod(
        math.ceil(size / part) for size, part in zip((n_images, *spec.shape), chunk, strict=True)
    )
    # A chunk's entry in the B-tree: a key of 8 bytes and 8 an axis, an address of 8; nodes of 64
    # entries are allocated whole and may be half full.
    n_axes = len(chunk) + 1
    index = 2 * (n_chunks + 64) * (16 + 8 * n_axes)
    chunk_bytes = math.prod(chunk) * itemsize
    if chunk_bytes >= ALIGNED_FROM:
        chunk_bytes = -(-chunk_bytes // PAGE) * PAGE
    checksums = 8 * n_chunks
    return _DATASET_BYTES + index + checksums + n_chunks * chunk_bytes


def check_free_space(path: str | Path, nbytes: int, smaller: str = "") -> None:
    """Check that `nbytes` fit on the disk that `path` will lie on.

    Parameters
    ----------
    path : path
    nbytes : int
    smaller : str
        What would make the job smaller, for the message: options of the command that runs.

    Raises
    ------
    RequestError
        If they do not; the message names both amounts and what would make the job smaller.
    """
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise RequestError(
            f"{path} needs {format_bytes(nbytes)} and {folder} has {format_bytes(free)} free; "
            f"{smaller}{', or ' * bool(smaller)}name another disk with --out"
        )


def format_bytes(nbytes: int) -> str:
    """Return bytes as a person reads them, ``1.7 GB`` (powers of 1000, as disks are sold)."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Return the bytes that a person means: ``2GB``, ``500 MB``, ``1.5GiB``, ``1000``.

    Raises
    ------
    RequestError
        If it is no size, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    factor = found and {**_UNITS, **_BINARY}.get(found[2].lower())
    if not found or not factor or not float(found[1]):
        raise RequestError(f"{text!r} is no size; expected one such as 2GB, 500MB or 1.5GiB")
    return int(float(found[1]) * factor)
