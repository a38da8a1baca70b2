"""Read a feature store: modules by any path, images by id, metadata when asked for."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, UnknownModuleError, given_path, nearest
from ..path_grammar import glob_pattern, same_module, split_suffix
from ..types import ActivationSpec
from .arrays import FeatureArray, import_xarray_view
from .checked import checked_blocks, reading
from .checksums import check_metadata
from .dataset import StoreDataset
from .handle import Handle
from .index import ImageIndex
from .schema import decode_strings, feature_name, object_name, provenance_of, read_specs

if TYPE_CHECKING:
    import xarray

__all__ = ["Store", "open_store"]


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a feature store for reading.

    Parameters
    ----------
    path : path
        Of a complete feature store.

    Returns
    -------
    Store
        A context manager; also usable without, and then closed by `Store.close`.

    Raises
    ------
    IncompleteStoreError
        If its writing never finished.
    StoreError
        If it is missing, locked, damaged, no HDF5, no feature store, or of a newer format.

    Examples
    --------
    >>> with open_store("f.h5") as store:               # doctest: +SKIP
    ...     store["features.5.4"][10:20]
    """
    store = Store(given_path(path, "open_store"))
    _ = store.handle.file
    return store


class Store:
    """A feature store, read lazily; made by `open_store`.

    Iterating yields canonical module paths and `in` asks for one in any form, while `len` is the
    number of images. It can be pickled and used after a fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = Handle(path)
        self._images = ImageIndex(self.handle)

    def __enter__(self) -> Store:
        self.handle.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the store and its arrays cannot be read any more."""
        self.handle.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "handle": self.handle, "_images": self._images}

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r}>"

    # Modules

    @property
    def specs(self) -> Mapping[str, ActivationSpec]:
        """What is recorded about every module, by canonical path, in the order of writing."""
        self.handle.check_open()
        return self._specs

    @cached_property
    def _specs(self) -> Mapping[str, ActivationSpec]:
        return read_specs(self.handle.file["features"])

    @property
    def modules(self) -> tuple[str, ...]:
        """Canonical paths, in the order of writing."""
        return tuple(self.specs)

    def __getitem__(self, module: str) -> FeatureArray:
        """Return the activations of a module, named in any form that addresses it.

        Raises
        ------
        UnknownModuleError
            If the store has none of that name; the message names the nearest.
        """
        if not isinstance(module, str):
            raise RequestError(
                f"a store is indexed by module path, got {module!r}; rows come second: "
                "store['features.5.4'][0]"
            )
        path = self._find(module)
        if path is None:
            raise UnknownModuleError(self._unknown(module))
        return FeatureArray(self.handle, self.images, self.specs[path])

    def __contains__(self, module: object) -> bool:
        return isinstance(module, str) and self._find(module) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def match(self, pattern: str) -> list[FeatureArray]:
        """Return all modules that a glob matches, by names or child numbers.

        `*` stays within one segment, `**` spans any number, also none; a pattern without ``@k``
        matches every recorded call.

        Raises
        ------
        UnknownModuleError
            If none does.
        """
        glob = glob_pattern(pattern)
        found = [
            self[spec.path]
            for spec in self.specs.values()
            if any(glob.fullmatch(name) for name in _full_names(spec))
        ]
        if not found:
            raise UnknownModuleError(self._unknown(pattern))
        return found

    def _find(self, text: str) -> str | None:
        text = text.strip()
        if text in self.specs:
            return text
        for spec in self.specs.values():
            if object_name(text) in spec.links or _addresses(text, spec):
                return spec.path
        return None

    def _unknown(self, text: str) -> str:
        names = {name: spec.path for spec in self.specs.values() for name in _full_names(spec)}
        near = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
        paths = list(dict.fromkeys(names[name] for name in near))
        if paths:
            return f"{self.path} has no module {text!r}; did you mean {' or '.join(paths)}?"
        shown = ", ".join(self.modules[:5]) + (", ..." if len(self.modules) > 5 else "")
        return f"{self.path} has no module {text!r}; it has {shown or 'none'}"

    def check(self, modules: Iterable[str] | None = None) -> None:
        """Read modules, by default all, and hold them, ids and all else against their checksums.

        What is made of activations gets new checksums, or none: damage would never be found again.

        Raises
        ------
        WorkError
            If something is damaged; the message names it, and rows of activations.
        """
        with reading(self.handle.file):
            check_metadata(self.handle.file)
        for module in self.modules if modules is None else modules:
            for _ in checked_blocks(self.handle.stored(module), slice(0, len(self))):
                pass

    # Images

    @property
    def images(self) -> ImageIndex:
        """Which row belongs to which image."""
        self.handle.check_open()
        return self._images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the images, `[N]`, in the order of the rows."""
        return self.images.ids

    @property
    def sha256(self) -> npt.NDArray[np.str_]:
        """Hashes of the images, `[N]`."""
        return decode_strings(self.handle.file["images/sha256"][()])

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """Further columns of the images, each `[N]`, read when it is asked for."""
        return self.images.columns

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one of `columns`, `[N]`.

        Raises
        ------
        RequestError
            If there is none of that name; the message names the nearest.
        """
        if name not in self.columns:
            known = list(self.columns)
            close = nearest(name, known) or known
            has = f"it has {', '.join(close)}" if close else "its images have none"
            raise RequestError(f"{self.path} has no column {name!r} of the images; {has}")
        return self.columns[name]

    def row_of(self, image_id: str) -> int:
        """Return the row of an image.

        Raises
        ------
        RequestError
            If there is no such image.
        """
        return self.images.row_of(image_id)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Images that were left out, as (id, reason)."""
        group = self.handle.file.get("skipped")
        if group is None:
            return ()
        ids, reasons = (decode_strings(group[name][()]).tolist() for name in ("id", "reason"))
        return tuple(zip(ids, reasons, strict=True))

    @property
    def provenance(self) -> dict[str, Any]:
        """How the activations came about: model, weights, preprocessing, versions."""
        return provenance_of(self.handle.file)

    # Views

    def dataset(
        self,
        modules: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> StoreDataset:
        """Return a map-style data set for torch's DataLoader; see `StoreDataset`."""
        names = self.modules if modules is None else modules
        if isinstance(names, str):
            return StoreDataset(self.images, self[names], transform)
        return StoreDataset(self.images, [self[name] for name in names], transform)

    def to_xarray(self, modules: str | Sequence[str] | None = None) -> xarray.Dataset:
        """Return modules as a lazy `xarray.Dataset`; the store has to stay open.

        They share the axis ``image``, with ids and the images' columns as coordinates. Every other
        axis bears its module's name, ``channel (conv1)``; `FeatureArray.to_xarray` gives one
        module with plain names.

        Parameters
        ----------
        modules : str or sequence of str, optional
            All by default.

        Raises
        ------
        MissingExtraError
            If xarray is not installed.
        UnknownModuleError
            If the store has none of some name.
        """
        view = import_xarray_view()
        names = self.modules if modules is None else modules
        arrays = [self[name] for name in ([names] if isinstance(names, str) else names)]
        attributes = {"file": str(self.path), "provenance": json.dumps(self.provenance)}
        dataset: xarray.Dataset = view.as_dataset(arrays, self.image_ids, self.columns, attributes)
        return dataset

    def describe(self) -> dict[str, Any]:
        """Return what `resmem-extract info` shows, as JSON values."""
        attributes = self.handle.file.attrs
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "format": str(attributes["format"]),
            "format_version": int(attributes["format_version"]),
            "images": len(self),
            "skipped": len(self.skipped),
            "columns": list(self.columns),
            "modules": [self._describe_module(path) for path in self.modules],
            "provenance": self.provenance,
        }

    def _describe_module(self, path: str) -> dict[str, Any]:
        array, spec = self[path], self.specs[path]
        dataset = self.handle.dataset(feature_name(path))
        return {
            "path": path,
            "index_path": spec.index_path,
            "requested": spec.requested,
            "links": list(spec.links),
            "names": list(spec.names),
            "shape": list(array.shape),
            "dtype": spec.dtype,
            "axes": list(spec.axes),
            "chunks": list(array.chunks),
            "bytes": array.nbytes,
            "stored_bytes": int(dataset.id.get_storage_size()),
            "call": spec.call,
            "calls": spec.calls,
            "reduce": dict(spec.reduce),
        }


def _addresses(text: str, spec: ActivationSpec) -> bool:
    """Tell whether a path addresses a data set, as it would have when it was extracted.

    Without ``@k`` the last call is meant, and ``@0`` may stand after a module called once.
    """
    module, suffix = split_suffix(spec.path)
    index_path, _ = split_suffix(spec.index_path or spec.path)
    keys = suffix.removeprefix(f"@{spec.call}")
    suffixes = [f"@{spec.call}{keys}"]
    if spec.call == spec.calls - 1:
        suffixes.append(keys)
        if object_name(module) in spec.links:  # these keys were what is taken without any
            suffixes += [f"@{spec.call}", ""]
    return any(
        text in [name + end for name in spec.names]
        or same_module(text, module + end, index_path + end)
        for end in suffixes
    )


def _full_names(spec: ActivationSpec) -> set[str]:
    """Return the names that a pattern is held against: both paths, with and without ``@k``."""
    names = {name for name in (spec.path, spec.index_path) if name}
    return names | {split_suffix(name)[0] for name in names}
