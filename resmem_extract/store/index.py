"""Which row belongs to which image."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from .handle import Handle
from .schema import decode_strings, object_name

__all__ = ["ImageIndex"]


class ImageIndex:
    """Ids of the images of one store, and the way from an id to its row."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __getstate__(self) -> dict[str, Any]:
        return {"_handle": self._handle}

    def __len__(self) -> int:
        return self._n_images

    @cached_property
    def _n_images(self) -> int:
        return int(self._handle.file["images/id"].shape[0])

    @cached_property
    def ids(self) -> npt.NDArray[np.str_]:
        """In the order of the rows."""
        return decode_strings(self._handle.file["images/id"][()])

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """What else is known of the images, each `[N]`, read when it is asked for."""
        return _Columns(self._handle)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids.tolist())}

    def row_of(self, image_id: str) -> int:
        """Return the row of an image.

        Raises
        ------
        RequestError
            If there is no such image.
        """
        row = self._rows.get(image_id)
        if row is None:
            near = difflib.get_close_matches(image_id, self.ids[:10_000].tolist(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see image_ids of the store"
            raise RequestError(f"{self._handle.path} has no image {image_id!r}; {hint}")
        return row


class _Columns(Mapping[str, npt.NDArray[Any]]):
    """The columns of ``/images`` beside the two that every store has."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def _names(self) -> list[str]:
        return [name for name in self._handle.file["images"] if name not in ("id", "sha256")]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if object_name(name) not in self._names():
            raise KeyError(name)
        stored = self._handle.file["images"][object_name(name)]
        values: npt.NDArray[Any] = stored[()]
        return decode_strings(values) if h5py.check_string_dtype(stored.dtype) else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())
