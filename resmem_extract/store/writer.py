"""Write a feature store in one pass, in bounded memory, so that it exists whole or not at all."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import RequestError, WorkError, reason_of
from ..partial_files import make_folders, partial_name, remove_empty, remove_stale
from ..types import ActivationSpec
from .checksums import write_checksums, write_metadata_checksums
from .early_sync import EarlySync
from .layout import Layout, choose_layouts
from .new_file import abandon, create
from .reserve import reserve
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
from .stream import FeatureStream, Scratch

if TYPE_CHECKING:
    from .reader import Store

__all__ = ["StoreWriter"]


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
    layouts : mapping, optional
        By canonical path, chunks and compression of data sets that are to be stored like others
        (`choose_layouts`, `layout_of`) instead of as `n_images` and `compression` say.
    preallocate : bool
        Whether all rows are sure to come, and from other stores: places of chunks are then fixed
        first, so that they can be copied as bytes.

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
        layouts: Mapping[str, Layout] | None = None,
        preallocate: bool = False,
    ) -> None:
        if len({object_name(spec.path) for spec in specs}) < len(specs):
            raise ValueError("two data sets of one name")
        self._layouts = {**choose_layouts(specs, n_images, compression), **(layouts or {})}
        for name in {layout.compression for layout in self._layouts.values()}:
            compression_arguments(name)
        self.path = Path(path)
        self._specs = {spec.path: spec for spec in specs}
        self._n_images = n_images
        self._preallocate = preallocate
        self._ids: list[str] = []
        self._sha256s: list[str] = []
        self._file: h5py.File | None = None
        self._early_sync: EarlySync | None = None
        self._streams: dict[str, FeatureStream] = {}
        self._scratch = Scratch()
        self._partial = partial_name(self.path)
        self._new_folders: list[Path] = []
        # Also when Ctrl-C comes between making the file and entering the block that discards it.
        self._remove_partial = weakref.finalize(self, _remove, self._partial, self._new_folders)

    @property
    def n_written(self) -> int:
        """Rows that were appended so far."""
        return len(self._ids)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, all data sets together."""
        return sum(spec.nbytes_per_image for spec in self._specs.values())

    def __enter__(self) -> StoreWriter:
        if self.path.is_dir():
            raise RequestError(f"{self.path} is a folder; name a file, such as {self.path}.h5")
        try:
            self._new_folders += make_folders(self.path)
            remove_stale(self.path)
            self._file = create(self._partial)
            self._early_sync = EarlySync(self._file.id.get_vfd_handle())
        except OSError as error:
            self._remove_partial()
            raise RequestError(f"{self.path} cannot be written: {reason_of(error)}") from error
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
            layout = self._layouts[path]
            in_place = self._preallocate and layout.compression is None
            dataset = create_feature(
                features,
                spec,
                self._n_images,
                layout.chunks,
                layout.compression,
                preallocate=in_place,
            )
            self._streams[path] = FeatureStream(dataset, path, self._scratch, preallocated=in_place)
        if self._preallocate:
            reserve(file.id.get_vfd_handle(), file.id.get_filesize())
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

    def append_store(
        self,
        store: Store,
        rows: slice | None = None,
        copied: Callable[[int], None] | None = None,
        *,
        beside: Sequence[Store] = (),
    ) -> None:
        """Write rows of another store, which may have further modules, in bounded memory.

        Where both sides begin at a chunk and are stored alike (`layouts`), chunks are copied
        without being decoded. Columns and provenance are not copied: `finish` takes them.

        Parameters
        ----------
        store : Store
        rows : slice, optional
            Consecutive rows, all by default.
        copied : callable, optional
            Told again and again how many bytes of activations came since it was last called.
        beside : sequence of Store, optional
            Stores of the same images in the same order that have further modules.

        Raises
        ------
        WorkError
            If the disk fails or is full, or the other store cannot be read.
        ValueError
            If modules are missing, shapes or data types are others, or there are too many rows;
            nothing is written then.
        """
        taken = range(len(store))[rows or slice(None)]
        if taken.step != 1:
            raise ValueError(f"rows {rows} are not consecutive")
        rows = slice(taken.start, taken.stop)
        ids, sha256s = store.image_ids[rows].tolist(), store.sha256[rows].tolist()
        self._check_ids(ids, sha256s)
        owners = {path: self._owner(path, (store, *beside)) for path in self._specs}
        for path, stream in self._streams.items():
            source = owners[path].handle.stored(path)
            with self._working():
                for nbytes in stream.copy(source, rows):
                    if self._early_sync is not None:
                        self._early_sync.wrote(nbytes)
                    if copied:
                        copied(nbytes)
        self._ids.extend(ids)
        self._sha256s.extend(sha256s)

    def _owner(self, path: str, stores: Sequence[Store]) -> Store:
        """Return which store has a module."""
        spec = self._specs[path]
        for store in stores:
            there = store.specs.get(path)
            if there is None:
                continue
            if (there.shape, there.dtype) != (spec.shape, spec.dtype):
                raise ValueError(
                    f"{path}: {there.dtype} {there.shape} in {store.path}, "
                    f"expected {spec.dtype} {spec.shape}"
                )
            return store
        raise ValueError(f"{' and '.join(str(store.path) for store in stores)} has no {path}")

    def _check_rows(
        self,
        ids: Sequence[str],
        sha256s: Sequence[str],
        activations: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._check_ids(ids, sha256s)
        if activations.keys() != self._specs.keys():
            raise ValueError(f"got {sorted(activations)}, expected {sorted(self._specs)}")
        for path, spec in self._specs.items():
            array, shape = activations[path], (len(ids), *spec.shape)
            if array.shape != shape:
                raise ValueError(f"{path}: got shape {array.shape}, expected {shape}")
            if array.dtype not in (np.dtype(np.float32), np.dtype(spec.dtype)):
                raise ValueError(f"{path}: got {array.dtype}, expected float32 or {spec.dtype}")

    def _check_ids(self, ids: Sequence[str], sha256s: Sequence[str]) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        if len(sha256s) != len(ids):
            raise ValueError(f"{len(ids)} ids and {len(sha256s)} hashes")
        if self.n_written + len(ids) > self._n_images:
            raise ValueError(f"more than the {self._n_images} rows that were announced")

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
            for path, stream in self._streams.items():
                write_checksums(file, path, stream.finish())
            self._write_images(file["images"], columns)
            if skipped is not None:
                group = file.create_group("skipped")
                create_strings(group, "id", [image_id for image_id, _ in skipped])
                create_strings(group, "reason", [reason for _, reason in skipped])
            write_provenance(file, provenance or {})
            write_metadata_checksums(file)
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
            abandon(file)
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
                f"writing {self.path} failed after {self.n_written} images: {reason_of(error)}; "
                "nothing is left under that name that was not there before"
            ) from error


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
