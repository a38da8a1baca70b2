"""NumPy indexing of an HDF5 data set, in few and large reads.

h5py takes increasing index lists on one axis only, and slowly. Here a key is split in two: what
must be read, sorted and coalesced into ranges on the first two axes (rows, channels) and reduced
to its hull on the others; and the same key in the coordinates of what was read, which NumPy then
applies. So the result is NumPy's own by construction, for every kind of key.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["read"]

_GAP_BYTES = 2**17
"""Reading this much in vain costs about as much as another call."""

_COALESCED_AXES = 2
_ALL = slice(None)


@dataclass
class _Axis:
    """What is wanted of one stored axis."""

    wanted: range | npt.NDArray[np.intp]
    """Stored indices, ascending, none twice."""

    def ranges(self, gap: int) -> Iterator[tuple[slice, slice]]:
        """Yield what to read in one go, and which of the wanted indices lie in it.

        Indices that are up to `gap` apart are read together.
        """
        wanted = self.wanted
        if len(wanted) == 0:
            return
        if isinstance(wanted, range) and wanted.step <= gap:
            yield slice(wanted[0], wanted[-1] + 1), slice(0, len(wanted))
            return
        indices = np.asarray(wanted)
        cuts = np.flatnonzero(np.diff(indices) > gap) + 1
        bounds = [0, *cuts.tolist(), len(indices)]
        for first, end in itertools.pairwise(bounds):
            yield slice(int(indices[first]), int(indices[end - 1]) + 1), slice(first, end)


def read(dataset: h5py.Dataset, key: Any) -> Any:
    """Return ``dataset[key]`` as NumPy would index an array of the same contents.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of at least one axis.
    key
        Integers, slices, index arrays, boolean masks, `...`, `None`, or a tuple of these.

    Returns
    -------
    numpy.ndarray or scalar

    Raises
    ------
    IndexError
        As NumPy raises it.
    """
    shape = dataset.shape  # asked once: every time takes HDF5 as long as reading a row
    parts = _expand(key, shape)
    axes: list[_Axis] = []
    local: list[Any] = []
    for part in parts:
        if part is None:
            local.append(None)
        else:
            axis, local_part = _split(part, shape[len(axes)], len(axes))
            axes.append(axis)
            local.append(local_part)
    block = _read_block(dataset, axes)
    return block if _takes_all(local, block.shape) else block[tuple(local)]


def _takes_all(local: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Tell whether a local key leaves the block as it is, so that it need not be copied."""
    if len(local) != len(shape):
        return False
    arrays = [(part, size) for part, size in zip(local, shape, strict=True) if part is not _ALL]
    return not arrays or (len(arrays) == 1 and _is_identity(*arrays[0]))


def _is_identity(part: Any, size: int) -> bool:
    return isinstance(part, np.ndarray) and np.array_equal(part, np.arange(size))


def _expand(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return one part for every axis (and None for every new one), masks as index arrays."""
    given = [_as_part(part) for part in (key if isinstance(key, tuple) else (key,))]
    n_used = sum(_axes_of(part) for part in given)
    n_ellipses = sum(part is Ellipsis for part in given)
    if n_ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if n_used > len(shape):
        raise IndexError(f"too many indices: {n_used} for {len(shape)} axes")
    if not n_ellipses:
        given.append(Ellipsis)
    parts: list[Any] = []
    axis = 0
    for part in given:
        if part is Ellipsis:
            parts.extend([_ALL] * (len(shape) - n_used))
            axis += len(shape) - n_used
            continue
        if _is_mask(part):
            _check_mask(part, shape, axis)
            parts.extend(part.nonzero())
        else:
            parts.append(part)
        axis += _axes_of(part)
    return parts


def _as_part(part: Any) -> Any:
    """Return a part of a key as an int, a slice, an ellipsis, None or an array."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, (bool, np.bool_)):
        raise IndexError("a single truth value is no index here")
    array = np.asarray(part)
    if array.size == 0 and not isinstance(part, np.ndarray):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays "
            f"are valid indices, not {part!r}"
        )
    return operator.index(part) if array.ndim == 0 else array


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype == np.bool_


def _axes_of(part: Any) -> int:
    """Return how many stored axes a part of a key stands for."""
    if part is None or part is Ellipsis:
        return 0
    return int(part.ndim) if _is_mask(part) else 1


def _check_mask(mask: npt.NDArray[np.bool_], shape: tuple[int, ...], axis: int) -> None:
    expected = shape[axis : axis + mask.ndim]
    if mask.shape != expected:
        raise IndexError(f"a boolean mask of shape {mask.shape} does not fit axes {expected}")


def _split(part: Any, size: int, number: int) -> tuple[_Axis, Any]:
    """Split the key of one axis into what to read and where it then lies."""
    if isinstance(part, slice):
        chosen = range(*part.indices(size))
        ascending = chosen if chosen.step > 0 else chosen[::-1]
        if number < _COALESCED_AXES:
            return _Axis(ascending), _ALL if chosen.step > 0 else slice(None, None, -1)
        hull = range(ascending[0], ascending[-1] + 1) if ascending else range(0)
        return _Axis(hull), _ALL if chosen.step == 1 else slice(None, None, chosen.step)
    indices = _in_bounds(np.asarray(part, dtype=np.intp), size, number)
    if indices.ndim == 0:
        return _Axis(range(int(indices), int(indices) + 1)), 0
    if number < _COALESCED_AXES or indices.size == 0:
        wanted, local = np.unique(indices, return_inverse=True)
        return _Axis(wanted), local.reshape(indices.shape)
    low = int(indices.min())
    return _Axis(range(low, int(indices.max()) + 1)), indices - low


def _in_bounds(indices: npt.NDArray[np.intp], size: int, axis: int) -> npt.NDArray[np.intp]:
    """Return indices counted from the start, negative ones resolved."""
    wrong = (indices < -size) | (indices >= size)
    if wrong.any():
        index = int(indices[wrong][0]) if indices.ndim else int(indices)
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {size}")
    return np.where(indices < 0, indices + size, indices)


def _read_block(dataset: h5py.Dataset, axes: Sequence[_Axis]) -> npt.NDArray[Any]:
    """Read the product of what is wanted of every axis, in ascending order."""
    block = np.empty([len(axis.wanted) for axis in axes], dataset.dtype)
    if block.size == 0:
        return block
    hull = tuple(slice(axis.wanted[0], axis.wanted[-1] + 1) for axis in axes[_COALESCED_AXES:])
    row_bytes = block[0].nbytes
    column_gap = _column_gap(dataset)
    for rows, row_places in axes[0].ranges(gap=max(1, _GAP_BYTES // row_bytes)):
        if len(axes) == 1:
            _read_into(dataset, (rows,), block[row_places], axes, (row_places,))
            continue
        for columns, column_places in axes[1].ranges(gap=column_gap):
            places = (row_places, column_places)
            _read_into(dataset, (rows, columns, *hull), block[places], axes, places)
    return block


def _column_gap(dataset: h5py.Dataset) -> int:
    """Channels of one chunk are read together: at most one range a chunk."""
    sizes = dataset.chunks or dataset.shape
    return int(sizes[1]) if len(sizes) > 1 else 1


def _read_into(
    dataset: h5py.Dataset,
    source: tuple[slice, ...],
    target: npt.NDArray[Any],
    axes: Sequence[_Axis],
    places: tuple[slice, ...],
) -> None:
    """Read one range of rows and channels, without what lies in its gaps, into `target`."""
    shape = tuple(part.stop - part.start for part in source)
    if target.shape == shape and target.flags.c_contiguous:
        _read_range(dataset, source, target)
        return
    block = np.empty(shape, target.dtype)
    _read_range(dataset, source, block)
    for number, place in enumerate(places):
        wanted = np.asarray(axes[number].wanted[place]) - source[number].start
        if len(wanted) < shape[number]:
            block = block.take(wanted, axis=number)
    target[...] = block


def _read_range(dataset: h5py.Dataset, source: tuple[slice, ...], target: npt.NDArray[Any]) -> None:
    """Read one range into a contiguous array, past what h5py does for other kinds of keys."""
    space = dataset.id.get_space()
    space.select_hyperslab(tuple(part.start for part in source), target.shape)
    dataset.id.read(h5py.h5s.create_simple(target.shape), space, target)
