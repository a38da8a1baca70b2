"""Write a feature store in one pass, in bounded memory, so that it exists whole or not at all."""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import OverflowInDtypeError, RequestError, WorkError
from ..partial_files import make_folders, partial_name, remove_empty, remove_stale
from ..types import ActivationSpec
from .chunks import chunk_shape
from .early_sync import EarlySync
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    compression_arguments,
    create_feature,
    create_strings,
    object_name,
    write_column,
    write_link,
    write_provenance,
)

__all__ = ["StoreWriter"]

# The oldest layout that can hold the data: MATLAB up to R2021a and older R packages carry
# HDF5 1.8, which cannot read the chunk indices of 1.10. These are no faster here: a row of a data
# set of 20,000 chunks is found in a millisecond either way.
_LIBVER = "earliest"


class StoreWriter:
    """A feature store in the making.

    Used as a context manager. Rows are written under a hidden temporary name beside `path`;
    `finish` completes the file and gives it its name. Leaving the context without `finish`
    removes what was written.

    Parameters
    ----------
    path : path
        Final name. A file of this name is replaced by `finish`, not before; missing folders are
        created. What killed processes left of it is removed.
    specs : sequence of ActivationSpec
        The data sets, in the order in which readers will list them.
    n_images : int
        The most rows that can come.
    compression : {None, 'bitshuffle-lz4', 'gzip'}
        Filter of the activations.

    Raises
    ------
    RequestError
        If the file cannot be created or the compression is not known.
    MissingExtraError
        If the compression's plugin is not installed.
    ValueError
        If two specs share a path, or an alias leads to two of them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        specs: Sequence[ActivationSpec],
        n_images: int,
        *,
        compression: str | None = None,
    ) -> None:
        if len({object_name(spec.path) for spec in specs}) < len(specs):
            raise ValueError("two data sets of one name")
        compression_arguments(compression)
        self.path = Path(path)
        self._specs = {spec.path: spec for spec in specs}
        self._n_images = n_images
        self._compression = compression
        self._ids: list[str] = []
        self._sha256s: list[str] = []
        self._file: h5py.File | None = None
        self._early_sync: EarlySync | None = None
        self._streams: dict[str, _FeatureStream] = {}
        self._scratch = _Scratch()
        self._partial = partial_name(self.path)
        self._new_folders: list[Path] = []
        # Also when Ctrl-C comes between making the file and entering the block that discards it.
        self._remove_partial = weakref.finalize(self, _remove, self._partial, self._new_folders)

    @property
    def n_written(self) -> int:
        """Rows that were appended so far."""
        return len(self._ids)

    def __enter__(self) -> StoreWriter:
        if self.path.is_dir():
            raise RequestError(f"{self.path} is a folder; name a file, such as {self.path}.h5")
        try:
            self._new_folders += make_folders(self.path)
            remove_stale(self.path)
            # No chunk cache: whole chunks are written, and one cache a module would be much memory.
            self._file = h5py.File(self._partial, "x", libver=_LIBVER, rdcc_nbytes=0)
            self._early_sync = EarlySync(self._file.id.get_vfd_handle())
        except OSError as error:
            self._remove_partial()
            raise RequestError(f"{self.path} cannot be written: {_reason(error)}") from error
        try:
            with self._working():
                self._lay_out(self._file)
        except BaseException:
            self._discard()
            raise
        return self

    def _lay_out(self, file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["complete"] = False
        features = file.create_group("features", track_order=True)
        file.create_group("images", track_order=True)
        for path, spec in self._specs.items():
            chunks = chunk_shape(spec.shape, self._n_images, np.dtype(spec.dtype).itemsize)
            dataset = create_feature(features, spec, self._n_images, chunks, self._compression)
            self._streams[path] = _FeatureStream(dataset, path, self._scratch)
        for path, spec in self._specs.items():
            for alias in spec.links:
                write_link(features, alias, path)

    def append(
        self,
        ids: Sequence[str],
        sha256s: Sequence[str],
        activations: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        """Write the next rows.

        Parameters
        ----------
        ids, sha256s : sequence of str
            Of `n` images.
        activations : mapping
            By canonical path, `[n, *shape]`, float32 or of the spec's own dtype; nothing of it is
            kept after the call.

        Raises
        ------
        OverflowInDtypeError
            If a finite value is infinite in the dtype that it is to be stored in.
        WorkError
            If the disk fails or is full.
        ValueError
            If names, shapes or numbers of rows disagree; nothing is written then.
        """
        self._check_rows(ids, sha256s, activations)
        with self._working():
            for path, stream in self._streams.items():
                stream.append(activations[path])
            if self._early_sync is not None:
                self._early_sync.wrote(sum(array.nbytes for array in activations.values()))
        self._ids.extend(ids)
        self._sha256s.extend(sha256s)

    def _check_rows(
        self,
        ids: Sequence[str],
        sha256s: Sequence[str],
        activations: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        if len(sha256s) != len(ids):
            raise ValueError(f"{len(ids)} ids and {len(sha256s)} hashes")
        if self.n_written + len(ids) > self._n_images:
            raise ValueError(f"more than the {self._n_images} rows that were announced")
        if activations.keys() != self._specs.keys():
            raise ValueError(f"got {sorted(activations)}, expected {sorted(self._specs)}")
        for path, spec in self._specs.items():
            array, shape = activations[path], (len(ids), *spec.shape)
            if array.shape != shape:
                raise ValueError(f"{path}: got shape {array.shape}, expected {shape}")
            if array.dtype not in (np.dtype(np.float32), np.dtype(spec.dtype)):
                raise ValueError(f"{path}: got {array.dtype}, expected float32 or {spec.dtype}")

    def finish(
        self,
        columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None = None,
        skipped: Sequence[tuple[str, str]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Complete the file and give it its name; afterwards it survives a power cut.

        Parameters
        ----------
        columns : mapping, optional
            Further columns of ``/images``, each with one value for every row *written*.
        skipped : sequence of (id, reason), optional
            Images left out; the group ``/skipped`` is written if this is given, also if empty.
        provenance : mapping, optional
            JSON values.

        Raises
        ------
        WorkError
            If the disk fails or is full.
        ValueError
            If a column has another number of rows, or values that cannot be stored.
        """
        file = self._file
        if file is None:
            raise ValueError("the writer is not open")
        columns = columns or {}
        for name, values in columns.items():
            if len(values) != self.n_written:
                raise ValueError(f"column {name!r}: {len(values)} values, {self.n_written} rows")
        with self._working():
            for stream in self._streams.values():
                stream.finish()
            self._write_images(file["images"], columns)
            if skipped is not None:
                group = file.create_group("skipped")
                create_strings(group, "id", [image_id for image_id, _ in skipped])
                create_strings(group, "reason", [reason for _, reason in skipped])
            write_provenance(file, provenance or {})
            file.attrs["complete"] = True
            if self._early_sync is not None:
                self._early_sync.finish()
            file.close()
            _sync(self._partial)
            self._partial.replace(self.path)
            _sync(self.path.parent)
        self._new_folders.clear()
        self._file = None

    def _write_images(
        self, images: h5py.Group, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]
    ) -> None:
        create_strings(images, "id", self._ids)
        create_strings(images, "sha256", self._sha256s, encoding="ascii")
        for name, values in columns.items():
            if object_name(name) in images:
                raise ValueError(f"column {name!r}: there is one of that name already")
            write_column(images, name, values)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._discard()

    def _discard(self) -> None:
        """Remove the temporary file; what cannot be flushed to it any more is of no interest."""
        file, self._file = self._file, None
        self._streams.clear()
        if self._early_sync is not None:
            self._early_sync.stop()
        if file is not None:
            with suppress(OSError, RuntimeError, ValueError):
                file.close()
        self._remove_partial()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Turn what the operating system or HDF5 reports into one line.

        h5py raises RuntimeError where the library fails on its own, as in flushing its metadata.
        """
        try:
            yield
        except WorkError:
            raise
        except (OSError, RuntimeError) as error:
            raise WorkError(
                f"writing {self.path} failed after {self.n_written} images: {_reason(error)}; "
                "nothing is left under that name that was not there before"
            ) from error


class _FeatureStream:
    """The rows of one data set on their way into whole chunks.

    Every chunk is written once, complete. Without a filter its bytes go straight to the file,
    past HDF5's chunk cache and type conversion, which halve the rate.
    """

    def __init__(self, dataset: h5py.Dataset, path: str, scratch: _Scratch) -> None:
        self._dataset = dataset
        self._path = path
        self._filtered = dataset.id.get_create_plist().get_nfilters() > 0
        self._columns = list(_grid(dataset.shape[1:], dataset.chunks[1:]))
        self._rows: int = dataset.chunks[0]
        self._start = 0
        self._n_held = 0
        self._held: npt.NDArray[Any] | None = None
        self._scratch = scratch

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write all complete row-blocks; keep the rest, less than one block, for the next call."""
        while len(rows):
            taken = rows[: self._rows - self._n_held]
            rows = rows[len(taken) :]
            if len(taken) == self._rows:
                self._write(taken)
            else:
                self._hold(taken)

    def _hold(self, rows: npt.NDArray[Any]) -> None:
        if self._held is None:
            self._held = np.empty((self._rows, *rows.shape[1:]), self._dataset.dtype)
        end = self._n_held + len(rows)
        self._convert(rows, self._held[self._n_held : end])
        self._n_held = end
        if end == self._rows:
            self._write(self._held)
            self._n_held = 0

    def finish(self) -> None:
        """Write the last, partial row-block and cut the data set to the rows that came."""
        self._dataset.resize(self._start + self._n_held, axis=0)
        if self._held is not None and self._n_held:
            self._write(self._held[: self._n_held])

    def _write(self, block: npt.NDArray[Any]) -> None:
        """Write one row-block `[up to chunk rows, *shape]` at the end of the data set."""
        if self._filtered:
            stored = np.empty(block.shape, self._dataset.dtype)
            self._convert(block, stored)
            self._dataset[self._start : self._start + len(block)] = stored
        else:
            for column in self._columns:
                piece = block[(slice(None), *column)]
                offset = (self._start, *(part.start for part in column))
                self._dataset.id.write_direct_chunk(offset, self._as_chunk(piece))
        self._start += len(block)

    def _as_chunk(self, piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return `piece` contiguous, in the stored dtype, padded with zeros to a whole chunk."""
        shape, dtype = self._dataset.chunks, self._dataset.dtype
        if piece.shape == shape and piece.dtype == dtype and piece.flags.c_contiguous:
            return piece
        chunk = self._scratch.array(shape, dtype)
        if piece.shape != shape:
            chunk[...] = 0
        self._convert(piece, chunk[tuple(map(slice, piece.shape))])
        return chunk

    def _convert(self, source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Copy into `target`, refusing finite values that its dtype cannot hold."""
        with np.errstate(over="ignore"):
            np.copyto(target, source, casting="same_kind")
        if target.itemsize < source.itemsize and np.isinf(target).any():
            lost = np.isinf(target) & np.isfinite(source)
            if lost.any():
                largest = np.finfo(target.dtype).max
                raise OverflowInDtypeError(
                    f"{self._path}: {source[lost][0]:g} does not fit in {target.dtype} "
                    f"(at most {largest:g}); store it as float32 (--dtype float32)"
                )


class _Scratch:
    """Memory in which one chunk after another is laid out, shared by all data sets."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array over the memory; its contents are whatever was left there."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > self._bytes.size:
            self._bytes = np.empty(nbytes, np.uint8)
        array: npt.NDArray[Any] = self._bytes[:nbytes].view(dtype).reshape(shape)
        return array


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Walk through the chunks of a row-block, each as a slice for every axis after the rows."""
    axes = (
        [slice(start, min(start + part, size)) for start in range(0, size, part)]
        for size, part in zip(shape, chunk, strict=True)
    )
    return itertools.product(*axes)


def _remove(partial: Path, folders: list[Path]) -> None:
    """Remove what was written, and the folders made for it."""
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    remove_empty(folders)


def _sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """Return the operating system's own words; h5py wraps them in a line of call names."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).partition("\n")[0]
