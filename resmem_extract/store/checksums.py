"""Checksums of a store: of every chunk, and of all that lies beside the activations.

XXH3-64 over the bytes of a chunk's *valid region*: what of it lies inside the data set's shape, in
C order, little endian, decoded. Padding and compression have no part in it, so that it stays the
same when chunks are copied, and anyone can compute it from what plain h5py reads. It is not HDF5's
own Fletcher32, which is a filter: a filter has every chunk read whole, also where one row is
wanted, and makes copying unfiltered bytes impossible.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import WorkError
from .schema import object_name, write_text

__all__ = [
    "check_metadata",
    "checksum",
    "chunk_columns",
    "chunk_grid",
    "metadata_checksum",
    "metadata_checksums",
    "read_checksums",
    "read_metadata_checksums",
    "write_checksums",
    "write_metadata_checksums",
]

_GROUP = "checksums"
_METADATA = "metadata_checksums"
_FEATURES = "features"
_ALGORITHM = "XXH3-64"


def checksum(values: npt.NDArray[Any] | bytes) -> int:
    """Return the XXH3-64 of an array's bytes in C order."""
    data = values if isinstance(values, bytes) else np.ascontiguousarray(values).data
    return xxhash.xxh3_64_intdigest(data)


def chunk_grid(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """Return how many chunks a data set has along each axis."""
    return tuple(-(-size // part) for size, part in zip(shape, chunks, strict=True))


def chunk_columns(shape: Sequence[int], chunks: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the chunks of one row-block in C order, each a slice for every axis but the first.

    Parameters
    ----------
    shape, chunks : sequence of int
        Of the data set and its chunks, without the first axis.
    """
    axes = (
        [slice(start, min(start + part, size)) for start in range(0, size, part)]
        for size, part in zip(shape, chunks, strict=True)
    )
    return list(itertools.product(*axes))


def write_checksums(file: h5py.File, path: str, values: npt.NDArray[np.uint64]) -> None:
    """Store the checksums of a module's chunks, an array of the shape of its chunk grid."""
    group = file.require_group(_GROUP)
    group.attrs["algorithm"] = _ALGORITHM
    group.create_dataset(object_name(path), data=values.astype("<u8"))


def read_checksums(file: h5py.File, path: str) -> npt.NDArray[np.uint64] | None:
    """Return the checksums of a module's chunks, `[*chunk grid]`, None if the file has none."""
    stored = file.get(f"{_GROUP}/{object_name(path)}")
    return None if stored is None else cast("npt.NDArray[np.uint64]", stored[()])


def metadata_checksums(file: h5py.File) -> dict[str, str]:
    """Return the checksums of all that a store holds beside activations, by name."""
    return {name: metadata_checksum(file, name) for name in _metadata_names(file)}


def _metadata_names(file: h5py.File) -> Iterator[str]:
    yield from ("provenance", _FEATURES)
    for group in ("images", "skipped", _FEATURES):
        yield from (f"{group}/{name}" for name in file.get(group, ()))


def metadata_checksum(file: h5py.File, name: str) -> str:
    """Return one of these checksums in 16 hex digits.

    It is that of a data set's bytes as stored; for a module's data set, of its attributes as JSON
    with sorted keys, together with `dtype` and `shape`; for a soft link, of what it leads to; for
    the group ``features``, of its names in order, a line each.

    Raises
    ------
    KeyError
        If the file has nothing of that name.
    """
    group, _, key = name.partition("/")
    if group != _FEATURES:
        return f"{checksum(file[name][()]):016x}"
    if not key:
        text = "\n".join(file[_FEATURES])
    else:
        link = file[_FEATURES].get(key, getlink=True)
        text = link.path if isinstance(link, h5py.SoftLink) else _description(file[name])
    return f"{checksum(text.encode()):016x}"


def _description(dataset: h5py.Dataset) -> str:
    described = {**dataset.attrs, "dtype": dataset.dtype.str, "shape": dataset.shape}
    return json.dumps(described, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON does not know, a number of NumPy's, as one that it does."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def write_metadata_checksums(file: h5py.File) -> None:
    """Store the checksums of all that lies beside the activations; the last thing to be written."""
    write_text(file, _METADATA, json.dumps(metadata_checksums(file)))


def read_metadata_checksums(file: h5py.File) -> Mapping[str, str] | None:
    """Return them as they were when the file was written, None if it has none."""
    stored = file.get(_METADATA)
    return None if stored is None else cast("dict[str, str]", json.loads(stored[()]))


def check_metadata(file: h5py.File) -> dict[str, str]:
    """Hold all that lies beside the activations against its checksums; return what these are.

    Raises
    ------
    WorkError
        If something is not what was written; the message names it.
    """
    found = metadata_checksums(file)
    written = read_metadata_checksums(file) or {}
    if wrong := [name for name in written if found.get(name) != written[name]]:
        raise WorkError(
            f"{file.filename} is not what was written ({', '.join(wrong[:3])}"
            f"{', ...' * (len(wrong) > 3)}): it is damaged, or another program changed it; in the "
            "second case delete /checksums and /metadata_checksums in it"
        )
    return found
