"""Open a store's file: once in every process, and with one clear line where that cannot be."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import h5py

from ..errors import DamagedStoreError, IncompleteStoreError, StoreError, reason_of
from .checked import StoredFeature
from .checksums import read_checksums
from .schema import FORMAT, FORMAT_VERSION, feature_name, load_filter

__all__ = ["UNREADABLE", "Handle", "open_file"]


UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError)
"""What h5py raises, and what comes of bytes that are no longer what they were."""


def open_file(path: Path) -> h5py.File:
    """Open a complete feature store for reading.

    Raises
    ------
    IncompleteStoreError
        If its writing never finished.
    DamagedStoreError
        If it is cut off, or HDF5 cannot open it.
    StoreError
        If it is missing, locked, no HDF5, no feature store, or of a newer format.
    """
    if not path.exists():
        raise StoreError(
            f"{path} does not exist; this makes one: resmem-extract extract --model resmem "
            f"--module features.5.4 --images DIR --out {path}"
        )
    if path.is_dir():
        raise StoreError(f"{path} is a folder, and a feature store is one HDF5 file; name the file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _why_not(path, error) from error
    try:
        _check_format(path, file)
    except BaseException as error:
        file.close()
        if isinstance(error, StoreError) or not isinstance(error, UNREADABLE):
            raise
        raise DamagedStoreError(f"{path} is damaged: {reason_of(error)}") from error
    return file


def _why_not(path: Path, error: OSError) -> StoreError:
    text = str(error)
    if isinstance(error, BlockingIOError) or "lock file" in text:
        return StoreError(
            f"{path} is locked: another program writes to it, or the file system (NFS, Lustre) "
            "has no locks; close that program, or set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if isinstance(error, PermissionError):
        return StoreError(f"{path} may not be read by you; ask its owner for read permission")
    if "signature not found" in text:
        return StoreError(f"{path} is not an HDF5 file; a feature store was expected")
    if "truncated file" in text:
        sizes = re.search(r"eof = (\d+).*stored_eof = (\d+)", text)
        left = f": it has {sizes[1]} of {sizes[2]} bytes" if sizes else ""
        return DamagedStoreError(
            f"{path} is truncated{left}, as an interrupted copy leaves a file; copy it again"
        )
    return DamagedStoreError(f"{path} cannot be opened: {text.partition(chr(10))[0]}")


def _check_format(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise StoreError(
            f"{path} is HDF5, but not a feature store (attribute format = {FORMAT!r} was "
            "expected); read it with h5py"
        )
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}, and this program reads up to {FORMAT_VERSION}; "
            "pip install -U resmem-extract"
        )
    if not file.attrs["complete"]:
        raise IncompleteStoreError(
            f"{path} is incomplete: its writing was interrupted; run the extraction again"
        )


class Handle:
    """A file that is open for reading in whichever process asks.

    HDF5 objects must not cross a fork, and cannot be pickled: each process opens its own.

    Parameters
    ----------
    path : Path
        Of a feature store; opened at the first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._file: h5py.File | None = None
        self._datasets: dict[str, h5py.Dataset] = {}
        self._stored: dict[str, StoredFeature] = {}

    @property
    def file(self) -> h5py.File:
        """The file, opened in this process if it was not yet."""
        self.check_open()
        if self._pid != os.getpid():
            self._forget()
        if self._file is None:
            self._file = open_file(self.path)
        return self._file

    def check_open(self) -> None:
        """Raise if the file was closed.

        Raises
        ------
        StoreError
        """
        if self._closed:
            raise StoreError(f"{self.path} was closed; open it again with open_store")

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a data set by its full name, with a chunk cache that suits its filter."""
        file = self.file
        if name not in self._datasets:
            self._datasets[name] = _open_dataset(file, name)
        return self._datasets[name]

    def stored(self, module: str) -> StoredFeature:
        """Return the activations of a module, by canonical path, with their checksums."""
        file = self.file
        if module not in self._stored:
            dataset = self.dataset(feature_name(module))
            self._stored[module] = StoredFeature(dataset, read_checksums(file, module))
        return self._stored[module]

    def close(self) -> None:
        """Close the file in this process; using the handle again is an error."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._forget()
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._closed = state["closed"]
        self._forget()


_SLOTS = 10_007  # a prime, a hundred times the chunks of a row-block
_CACHE_BYTES = 2**28


def _open_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a data set for reading rows in ascending order.

    HDF5's cache holds whole chunks. Without a filter that reads eight images for each one asked
    for, so the cache is switched off and just the bytes that are wanted are read. With a filter
    chunks must be decoded whole: the cache holds a row-block, and each chunk is decoded once.
    """
    row_block = _row_block_bytes(file, name)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(_SLOTS, row_block, 1.0)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _row_block_bytes(file: h5py.File, name: str) -> int:
    """Return the bytes of one row of chunks if they are filtered, else 0.

    A function of its own, because the data set must be closed again before it is opened with
    another cache: HDF5 shares what is open, its cache included.
    """
    dataset = file[name]
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    load_filter(filters)
    if not filters:
        return 0
    shape, chunks = dataset.shape, dataset.chunks
    n_chunks = math.prod(-(-n // k) for n, k in zip(shape[1:], chunks[1:], strict=True))
    nbytes: int = n_chunks * math.prod(chunks) * dataset.dtype.itemsize
    return min(nbytes, _CACHE_BYTES)
