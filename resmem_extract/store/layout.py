"""How data sets lie in a file: chunk shape and compression, chosen or taken from another file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..types import ActivationSpec
from .chunks import chunk_shape, power_of_two
from .schema import COMPRESSIONS

__all__ = ["Layout", "choose_layouts", "filters_of", "layout_of"]


@dataclass(frozen=True)
class Layout:
    """How one data set is stored; what is equal in it can be copied without being decoded."""

    chunks: tuple[int, ...]
    """Shape of a chunk, images first."""
    compression: str | None = None
    """A key of `COMPRESSIONS`."""

    def fitted(self, n_images: int) -> Layout:
        """Return this layout for fewer images: no chunk is left mostly empty."""
        rows = min(self.chunks[0], power_of_two(n_images))
        return Layout((rows, *self.chunks[1:]), self.compression)


def choose_layouts(
    specs: Sequence[ActivationSpec], n_images: int, compression: str | None = None
) -> dict[str, Layout]:
    """Return the layout of every data set of a store, by canonical path.

    Parts of a store that are written with the layouts of the whole are joined by copying chunks.

    Parameters
    ----------
    specs : sequence of ActivationSpec
    n_images : int
        Rows of the whole store.
    compression : {None, 'bitshuffle-lz4', 'gzip'}
    """
    return {
        spec.path: Layout(
            chunk_shape(spec.shape, n_images, np.dtype(spec.dtype).itemsize), compression
        )
        for spec in specs
    }


def layout_of(dataset: h5py.Dataset) -> Layout:
    """Return how a data set is stored, so that another one can be stored alike.

    A filter that this package does not write (another program repacked the file) counts as none,
    and a data set without chunks as one that had been given ours.
    """
    chunks = dataset.chunks or chunk_shape(dataset.shape[1:], len(dataset), dataset.dtype.itemsize)
    filters = {number for number, *_ in filters_of(dataset)}
    for name, arguments in COMPRESSIONS.items():
        number = arguments["compression"]
        if (h5py.h5z.FILTER_DEFLATE if number == "gzip" else number) in filters:
            return Layout(tuple(chunks), name)
    return Layout(tuple(chunks))


def filters_of(dataset: h5py.Dataset) -> list[tuple[Any, ...]]:
    """Return the filters of a data set, each with its flags and parameters."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i)[:3] for i in range(properties.get_nfilters())]
