"""The activations of one module, read when they are indexed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError
from ..types import ActivationSpec
from .handle import Handle
from .index import ImageIndex
from .schema import feature_name
from .selection import read

if TYPE_CHECKING:
    import h5py
    import xarray

__all__ = ["FeatureArray"]


class FeatureArray:
    """A lazy array `[N, *shape]` over one data set of a `Store`.

    Indexing follows NumPy and returns NumPy arrays; only what is asked for is read. It can be
    pickled and used after a fork: the file is opened in each process.
    """

    def __init__(self, handle: Handle, images: ImageIndex, spec: ActivationSpec) -> None:
        self._handle = handle
        self._images = images
        self.spec = spec

    @property
    def _dataset(self) -> h5py.Dataset:
        return self._handle.dataset(feature_name(self.spec.path))

    @property
    def module(self) -> str:
        """Canonical path of the module."""
        return self.spec.path

    @property
    def image_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the images, `[N]`, in the order of the rows."""
        return self._images.ids

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, ``("image", "channel", "height", "width")``."""
        return self.spec.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""
        return (len(self._images), *self.spec.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored: float32 or float16."""
        return np.dtype(self.spec.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, if all were read."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk of the data set."""
        return tuple(self._dataset.chunks)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: Any) -> Any:
        return read(self._dataset, key)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for _, block in self.blocks():
            yield from block

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("activations in a file cannot become an array without being copied")
        whole: npt.NDArray[Any] = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def rows(self, ids: Sequence[str]) -> npt.NDArray[Any]:
        """Return the activations of images by id, `[len(ids), *shape]`, in the order given.

        Raises
        ------
        RequestError
            If the store has no image of some id.
        """
        indices = np.array([self._images.row_of(image_id) for image_id in ids], dtype=np.intp)
        block: npt.NDArray[Any] = self[indices]
        return block

    def blocks(self, max_bytes: int = 2**26) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Walk through all images in order, a block of rows at a time.

        Parameters
        ----------
        max_bytes : int
            The most that one block may take; a block has one image at least.

        Yields
        ------
        rows : slice
        block : numpy.ndarray, `[rows.stop - rows.start, *shape]`
        """
        step = self._block_rows(max_bytes)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self[rows]

    def to_xarray(self) -> xarray.DataArray:
        """Return a lazy `xarray.DataArray`; the store has to stay open.

        Its axes are this array's, with ids and the images' columns as coordinates of ``image``.

        Raises
        ------
        MissingExtraError
            If xarray is not installed.
        """
        view = import_xarray_view()
        made: xarray.DataArray = view.as_data_array(self, self._images.ids, self._images.columns)
        return made

    def _block_rows(self, max_bytes: int) -> int:
        """Return as many rows as fit: whole chunks, or an even share of one."""
        row_bytes = int(np.prod(self.spec.shape, dtype=np.int64)) * self.dtype.itemsize
        room = max(1, max_bytes // max(row_bytes, 1))
        rows = self.chunks[0]
        while rows > room:
            rows = -(-rows // 2)
        return room // rows * rows

    def __repr__(self) -> str:
        return f"<FeatureArray {self.module!r}: shape {self.shape}, {self.dtype}>"


def import_xarray_view() -> Any:
    """Return the module that needs xarray.

    Raises
    ------
    MissingExtraError
        If xarray is not installed.
    """
    try:
        from . import xarray_view
    except ImportError:
        raise MissingExtraError(
            "to_xarray needs xarray: pip install 'resmem-extract[xarray]'"
        ) from None
    return xarray_view
