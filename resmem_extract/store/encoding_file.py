"""Encoding models in an HDF5 file, readable with plain h5py: ``model.h5``.

The layout::

    /                        attributes format, format_version, seed
    /image_id                fixed-length UTF-8 [n], of each row
    /fold                    int [n], in which each row was predicted; -1: in none
    /fold_name               fixed-length UTF-8 [k]
    /target, /roi            fixed-length UTF-8 [t]
    /measured                [n, t]
    /models/<name>/predicted [n, t], each row by a model that was not made of it
    /models/<name>/r, r2, alpha   [k, t]
    /models/<name>/bands/<band>/weight, r2   [k, t], of banded ridge
    /models/<name>/weights   [p, t], on request: of a model of all images, features in C order
    /models/<name>/feature_mean, feature_scale [p], intercept, alpha_of_all [t]   beside them
    /provenance              scalar JSON

Such a model predicts ``((x - feature_mean) / feature_scale) @ weights + intercept``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..partial_files import partial_name
from .new_file import abandon, close, create
from .schema import create_strings, object_name, write_provenance

__all__ = ["ENCODING_FORMAT", "EncodingWriter", "read_encoding"]

ENCODING_FORMAT = "resmem-extract-encoding"
_VERSION = 1
Arrays = dict[str, npt.NDArray[Any]]
_ARRAYS = ("predicted", "r", "r2", "alpha", "p")


class EncodingWriter:
    """Writes ``model.h5``; a context manager. The file appears under its name when finished.

    Parameters
    ----------
    path : Path
    seed : int
    strings : mapping
        `image_id`, `fold_name`, `target` and `roi`.
    arrays : mapping
        `fold` and `measured`.
    """

    def __init__(
        self,
        path: Path,
        seed: int,
        strings: Mapping[str, Sequence[str]],
        arrays: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._path, self._scratch = path, partial_name(path)
        self._file = create(self._scratch)
        try:
            self._file.attrs["format"] = ENCODING_FORMAT
            self._file.attrs["format_version"] = _VERSION
            self._file.attrs["seed"] = seed
            for name, values in strings.items():
                create_strings(self._file, name, values)
            for name, array in arrays.items():
                self._file.create_dataset(name, data=array)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> EncodingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        """Remove what is not finished."""
        abandon(self._file)
        self._scratch.unlink(missing_ok=True)

    def add(self, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add a model.

        Parameters
        ----------
        name : str
            ``resmem:features.layer2.4``.
        arrays : mapping
            By name within the model's group; tabs stand between the names of groups in it.
        """
        group = self._file.require_group(f"models/{object_name(name)}")
        group.attrs["name"] = name
        for key, array in arrays.items():
            place = "/".join(object_name(part) for part in key.split("\t"))
            group.create_dataset(place, data=array)

    def weights(self, name: str, shape: tuple[int, int]) -> h5py.Dataset:
        """Return where weights `[p, t]` of a model are to be written, block by block."""
        group = self._file.require_group(f"models/{object_name(name)}")
        return group.create_dataset("weights", shape, dtype=np.float32)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Add the provenance, and move the file to its name."""
        write_provenance(self._file, provenance)
        close(self._file)
        self._scratch.replace(self._path)


def read_encoding(path: Path, name: str, bands: Sequence[str]) -> tuple[Arrays, dict[str, Arrays]]:
    """Return what is there of a model, weights apart, and of those bands that it has.

    Raises
    ------
    OSError, KeyError
        If the file cannot be read, or has no such model.
    """
    with h5py.File(path, "r") as file:
        model = file[f"models/{object_name(name)}"]
        arrays = {key: model[key][()] for key in _ARRAYS if key in model}
        of_bands: dict[str, Arrays] = {}
        for band in bands:
            kept = model.get(f"bands/{object_name(band)}", {})
            of_bands |= {band: {what: kept[what][()] for what in kept}} if kept else {}
    return arrays, of_bands
