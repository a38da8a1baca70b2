"""One function a format: from blocks of rows to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError
from .arrays import FeatureArray
from .reader import Store
from .schema import object_name
from .torch_file import tensor_file

__all__ = [
    "Blocks",
    "Source",
    "import_zarr",
    "write_mat",
    "write_npy",
    "write_pt",
    "write_txt",
    "write_zarr",
]

Blocks = Iterator[tuple[slice, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Source:
    """The activations of one module, to be read once."""

    array: FeatureArray
    blocks: Blocks
    """All rows in order, in row-blocks of chunks."""


def write_npy(path: Path, sources: Sequence[Source], store: Store) -> None:
    """Write one module as NumPy does: ``np.load(path, mmap_mode="r")`` reads it."""
    (source,) = sources
    header = {
        "descr": np.lib.format.dtype_to_descr(source.array.dtype),
        "fortran_order": False,
        "shape": source.array.shape,
    }
    with path.open("xb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _, block in source.blocks:
            stream.write(block.data)
        stream.flush()
        os.fsync(stream.fileno())


def write_pt(path: Path, sources: Sequence[Source], store: Store) -> None:
    """Write one module as a tensor: ``torch.load(path, mmap=True)`` reads it."""
    (source,) = sources
    with path.open("xb") as stream:
        with tensor_file(stream, source.array.shape, source.array.dtype) as data:
            for _, block in source.blocks:
                data.write(block.data)
        stream.flush()
        os.fsync(stream.fileno())


def write_txt(path: Path, sources: Sequence[Source], store: Store) -> None:
    """Write one module of vectors as text, a line an image: ``np.loadtxt(path)`` reads it.

    Nine digits bring back the very float32.
    """
    (source,) = sources
    with path.open("x", encoding="ascii") as stream:
        for _, block in source.blocks:
            np.savetxt(stream, block.reshape(len(block), -1), fmt="%.9g")
        stream.flush()
        os.fsync(stream.fileno())


_USER_BLOCK = 512
_AS_CHARACTERS = 2  # MATLAB's code for numbers of 16 bits that are characters


def write_mat(path: Path, sources: Sequence[Source], store: Store) -> None:
    """Write one module as MATLAB does since 7.3: HDF5 of reversed axes, behind a header.

    Of `activations` MATLAB shows the axes in our order, ``[N, channel, height, width]``, as
    single. `image_id` is one text, a line an image: ``splitlines(string(image_id))``.
    """
    (source,) = sources
    array = source.array
    shape = (*array.shape, 1) if array.ndim == 1 else array.shape
    chunks = (*array.chunks, 1) if array.ndim == 1 else array.chunks
    with h5py.File(path, "x", libver="earliest", userblock_size=_USER_BLOCK) as file:
        chunks = tuple(map(min, chunks, shape))
        stored = file.create_dataset("activations", shape[::-1], "<f4", chunks=chunks[::-1])
        stored.attrs["MATLAB_class"] = np.bytes_("single")
        for rows, block in source.blocks:
            stored[..., rows] = block.reshape(len(block), *shape[1:]).T
        _write_text(file, "image_id", "\n".join(store.image_ids.tolist()))
        _write_text(file, "module", array.module)
    with path.open("r+b") as stream:
        text = b"MATLAB 7.3 MAT-file, Platform: resmem-extract, HDF5 schema 1.00 ."
        stream.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")
        os.fsync(stream.fileno())


def _write_text(file: h5py.File, name: str, text: str) -> None:
    """Write a row of characters, UTF-16 as in MATLAB."""
    codes = np.frombuffer(text.encode("utf-16-le"), "<u2")
    stored = file.create_dataset(name, data=codes[:, None])
    stored.attrs["MATLAB_class"] = np.bytes_("char")
    stored.attrs["MATLAB_int_decode"] = np.int32(_AS_CHARACTERS)


def write_zarr(path: Path, sources: Sequence[Source], store: Store) -> None:
    """Write modules as one Zarr group of format 2, which ``xarray.open_zarr`` opens as well.

    Names are those of `Store.to_xarray`.
    """
    zarr = import_zarr()
    newer = int(zarr.__version__.partition(".")[0]) >= 3
    group = zarr.open_group(str(path), mode="w", **({"zarr_format": 2} if newer else {}))
    group.attrs["provenance"] = store.provenance
    modules = [source.array.module for source in sources]
    columns = {f"{n} (column)" if n in ("image", *modules) else n: n for n in store.columns}
    coordinates = " ".join(name for name in columns if " " not in name)
    for source in sources:
        array = source.array
        chunks = tuple(map(min, array.chunks, array.shape))
        stored = _create_array(group, array.module, array.shape, chunks, array.dtype)
        axes = [f"{axis} ({array.module})" for axis in array.axes[1:]]
        stored.attrs.update({_DIMENSIONS: ["image", *axes], "coordinates": coordinates})
        for rows, block in source.blocks:
            stored[rows] = block
    for name, column in {"image": None, **columns}.items():
        values = store.image_ids if column is None else store.columns[column]
        stored = _create_array(group, name, values.shape, values.shape, values.dtype)
        stored.attrs[_DIMENSIONS] = ["image"]
        stored[:] = values
    zarr.consolidate_metadata(group.store)


_DIMENSIONS = "_ARRAY_DIMENSIONS"
"""By which xarray knows the names of axes; `coordinates` tells it what describes the images."""


def _create_array(
    group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Create an array without compression, in zarr 2 or 3.

    It has no fill value: xarray takes every value that equals it for a missing one, and zeros are
    what a ReLU gives.
    """
    layout = {"shape": shape, "chunks": chunks, "dtype": dtype, "fill_value": None}
    if hasattr(group, "create_array"):
        return group.create_array(object_name(name), compressors=None, **layout)
    return group.create_dataset(object_name(name), compressor=None, **layout)


def import_zarr() -> Any:
    """Return the package zarr.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise MissingExtraError(
            "exporting to Zarr needs zarr: pip install 'resmem-extract[zarr]'"
        ) from None
    return zarr
