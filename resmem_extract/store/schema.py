"""Names, string types and attributes of a feature store: the one place that knows the layout.

The layout is fixed (other programs read it with plain h5py, MATLAB or R)::

    /                     attributes format, format_version, complete
    /features/<path>      [N, *shape], chunked; attributes as `write_spec` leaves them
    /features/<alias>     soft link to one of these
    /images/id, sha256    fixed-length strings [N]; further columns beside them
    /skipped/id, reason   fixed-length strings, where skipping was allowed
    /provenance           scalar fixed-length UTF-8 string, JSON
    /checksums/<path>     uint64, one number for each chunk: [*chunk grid]
    /metadata_checksums   scalar fixed-length string, JSON

Checksums are data sets of their own (see `checksums`) and not HDF5's Fletcher32: that is a filter,
and with a filter every read takes whole chunks and unfiltered bytes cannot be copied raw.

Strings are data sets, because an attribute holds 64 KB at most, and of fixed length, because
variable-length ones live in a global heap that raw copies of chunks leave behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError, RequestError
from ..types import ActivationSpec, DType

__all__ = [
    "COMPRESSIONS",
    "FORMAT",
    "FORMAT_VERSION",
    "check_column_names",
    "create_feature",
    "create_strings",
    "decode_strings",
    "feature_name",
    "load_filter",
    "object_name",
    "provenance_of",
    "read_specs",
    "write_column",
    "write_link",
    "write_provenance",
    "write_spec",
    "write_text",
]

FORMAT = "resmem-extract"
FORMAT_VERSION = 1

_BITSHUFFLE_FILTER = 32008
_BITSHUFFLE_LZ4 = (0, 2)  # block size chosen by the filter, LZ4 after the shuffle

COMPRESSIONS: Mapping[str, Mapping[str, Any]] = {
    "bitshuffle-lz4": {"compression": _BITSHUFFLE_FILTER, "compression_opts": _BITSHUFFLE_LZ4},
    "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}
"""What may be asked for, as arguments of h5py; gzip is slow and needs no plugin to be read."""


def load_filter(filter_ids: Iterable[int]) -> None:
    """Make the filters usable, importing hdf5plugin if HDF5 itself lacks one.

    Raises
    ------
    MissingExtraError
        If hdf5plugin is needed and not installed.
    """
    if all(h5py.h5z.filter_avail(number) for number in filter_ids):
        return
    try:
        import hdf5plugin  # noqa: F401  (importing registers the filters)
    except ImportError:
        raise MissingExtraError(
            "compressed activations need hdf5plugin: pip install 'resmem-extract[compression]'"
        ) from None


def compression_arguments(compression: str | None) -> Mapping[str, Any]:
    """Return h5py's arguments for a compression by name, its filter made usable.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    if compression is None:
        return {}
    if compression not in COMPRESSIONS:
        raise RequestError(
            f"compression {compression!r} is not known; use one of {', '.join(COMPRESSIONS)}"
        )
    arguments = COMPRESSIONS[compression]
    if isinstance(arguments["compression"], int):
        load_filter([arguments["compression"]])
    return arguments


def object_name(name: str) -> str:
    """Return `name` as HDF5 can hold it in a group.

    HDF5 separates groups by '/', takes '.' for the group itself and ends names at a NUL; those
    are percent-encoded. A column without a name (pandas writes one) becomes ``unnamed``.
    """
    if name.strip(".") == "":
        return name.replace(".", "%2E") or "unnamed"
    return name.replace("/", "%2F").replace("\0", "%00")


def feature_name(path: str) -> str:
    """Return the full name of a module's data set."""
    return f"/features/{object_name(path)}"


def check_column_names(names: Iterable[str]) -> None:
    """Check that a user's columns can stand in ``/images``, before any work is done.

    Raises
    ------
    RequestError
        If a name is the store's own (`id`, `sha256`, `row`) or is there twice.
    """
    taken = {"id", "sha256", "row"}
    for name in names:
        if object_name(name) in taken:
            raise RequestError(
                f"column {name!r} cannot be stored: the store has one of that name already; "
                "rename it in the CSV"
            )
        taken.add(object_name(name))


def create_feature(
    features: h5py.Group,
    spec: ActivationSpec,
    n_images: int,
    chunks: tuple[int, ...],
    compression: str | None = None,
    *,
    preallocate: bool = False,
) -> h5py.Dataset:
    """Create the empty data set of one module, its attributes and its links.

    Its first axis may grow, so that a file can also be extended with plain h5py. With
    `preallocate` every chunk has its place in the file before anything is written.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if preallocate:  # and zeros, which HDF5 would write there first, are not written
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = features.create_dataset(
        object_name(spec.path),
        shape=(n_images, *spec.shape),
        maxshape=(None, *spec.shape),
        dtype=np.dtype(spec.dtype).newbyteorder("<"),
        chunks=chunks,
        dcpl=properties,
        **compression_arguments(compression),
    )
    write_spec(dataset, spec)
    return dataset


def write_spec(dataset: h5py.Dataset, spec: ActivationSpec) -> None:
    """Describe a data set by its attributes."""
    dataset.attrs["module"] = spec.path
    dataset.attrs["requested"] = spec.requested
    dataset.attrs["index_path"] = spec.index_path
    dataset.attrs["call"] = spec.call
    dataset.attrs["calls"] = spec.calls
    dataset.attrs["reduce"] = json.dumps(dict(spec.reduce))
    dataset.attrs["axes"] = json.dumps(list(spec.axes))
    dataset.attrs["names"] = json.dumps(list(spec.names))


def write_link(features: h5py.Group, alias: str, path: str) -> None:
    """Let `alias` lead to the data set of `path`.

    Raises
    ------
    ValueError
        If the alias leads elsewhere already.
    """
    name, target = object_name(alias), f"{features.name}/{object_name(path)}"
    if name == object_name(path):
        return
    there = features.get(name, getlink=True)
    if there is None:
        features[name] = h5py.SoftLink(target)
    elif getattr(there, "path", None) != target:
        raise ValueError(f"{alias!r} cannot stand for {path!r}: it is another module's name here")


def read_specs(features: h5py.Group) -> dict[str, ActivationSpec]:
    """Return what the file holds, by canonical path, in the order in which it was created."""
    links: dict[str, list[str]] = {}
    datasets = []
    for name in features:
        link = features.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            links.setdefault(link.path.rpartition("/")[2], []).append(name)
        else:
            datasets.append(name)
    specs = (_read_spec(features[name], tuple(links.get(name, ()))) for name in datasets)
    return {spec.path: spec for spec in specs}


def _read_spec(dataset: h5py.Dataset, links: tuple[str, ...]) -> ActivationSpec:
    attributes = dataset.attrs
    return ActivationSpec(
        path=attributes["module"],
        requested=attributes["requested"],
        shape=dataset.shape[1:],
        axes=tuple(json.loads(attributes["axes"])),
        dtype=cast(DType, dataset.dtype.name),
        index_path=attributes.get("index_path", ""),
        call=int(attributes["call"]),
        calls=int(attributes["calls"]),
        links=links,
        names=tuple(json.loads(attributes.get("names", "[]"))),
        reduce=json.loads(attributes["reduce"]),
    )


def create_strings(
    group: h5py.Group, name: str, values: Sequence[str], encoding: str = "utf-8"
) -> None:
    """Store strings as a data set of fixed length: that of the longest, in bytes.

    Raises
    ------
    ValueError
        If a string holds a NUL, which fixed-length strings cannot, or is not encodable.
    """
    encoded = [value.encode(encoding) for value in values]
    if any(b"\0" in value for value in encoded):
        raise ValueError(f"{name}: a string with a NUL character cannot be stored")
    length = max(map(len, encoded), default=0) or 1
    dtype = h5py.string_dtype(encoding, length)
    group.create_dataset(object_name(name), data=np.array(encoded, dtype=dtype), dtype=dtype)


def decode_strings(stored: npt.NDArray[np.bytes_]) -> npt.NDArray[np.str_]:
    """Return fixed-length UTF-8 as an array of `str`."""
    if stored.size == 0:
        return np.array([], dtype="U1")
    try:
        return stored.astype("U")  # ASCII alone, ten times as fast
    except UnicodeDecodeError:
        return np.char.decode(stored, "utf-8")


_STORED_AS = {"b": np.dtype(np.bool_), "i": np.dtype(np.int64), "u": np.dtype(np.int64)}
_STORED_AS["f"] = np.dtype(np.float64)


def write_column(images: h5py.Group, name: str, values: Sequence[Any] | npt.NDArray[Any]) -> None:
    """Store one column of ``/images``: truth values, whole numbers, decimals or strings.

    Raises
    ------
    ValueError
        If the values are of another kind, or of several.
    """
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"column {name!r} holds values other than strings and numbers")
        create_strings(images, name, [str(value) for value in values])
    elif array.dtype.kind in "biuf":
        images.create_dataset(object_name(name), data=array.astype(_STORED_AS[array.dtype.kind]))
    else:
        raise ValueError(f"column {name!r} has type {array.dtype}, which cannot be stored")


def write_provenance(file: h5py.Group, provenance: Mapping[str, Any]) -> None:
    """Store the provenance; ASCII, in which JSON can also write what is no valid Unicode."""
    write_text(file, "provenance", json.dumps(dict(provenance)))


def write_text(file: h5py.Group, name: str, text: str) -> None:
    """Store one ASCII text as a scalar."""
    encoded = text.encode("ascii")
    dtype = h5py.string_dtype("utf-8", len(encoded))
    file.create_dataset(name, data=np.array(encoded, dtype=dtype), dtype=dtype)


def provenance_of(file: h5py.Group) -> dict[str, Any]:
    """Return the provenance as it was given to `write_provenance`."""
    return cast("dict[str, Any]", json.loads(file["provenance"][()]))
