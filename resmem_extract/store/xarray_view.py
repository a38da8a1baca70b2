"""Stores as xarray sees them: lazy, with named axes and ids as coordinates; needs no dask.

Imported only where it is asked for, as xarray is optional.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from ..types import ActivationSpec

__all__ = ["LazyArray", "as_data_array", "as_dataset"]


class LazyArray(Protocol):
    """What is needed of a `FeatureArray`."""

    @property
    def spec(self) -> ActivationSpec:
        """What is recorded of the module."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""

    def __getitem__(self, key: Any) -> Any:
        """Return values as NumPy would, reading what is asked for."""


def as_data_array(
    array: LazyArray, ids: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]
) -> xarray.DataArray:
    """Return one module with its own axes, ``image`` first."""
    return xarray.DataArray(
        _variable(array, array.spec.axes),
        coords=_coordinates(ids, columns, array.spec.axes),
        name=array.spec.path,
    )


def as_dataset(
    arrays: Sequence[LazyArray],
    ids: npt.NDArray[Any],
    columns: Mapping[str, npt.NDArray[Any]],
    attributes: Mapping[str, Any],
) -> xarray.Dataset:
    """Return several modules, which share the axis ``image``.

    Every other axis bears its module's name, ``channel (conv1)``: channels of two modules are not
    the same things, nor equally many.
    """
    variables = {}
    for array in arrays:
        first, *others = array.spec.axes
        axes = (first, *(f"{axis} ({array.spec.path})" for axis in others))
        variables[array.spec.path] = _variable(array, axes)
    coordinates = _coordinates(ids, columns, ("image", *variables))
    return xarray.Dataset(variables, coords=coordinates, attrs=dict(attributes))


class _Rows(BackendArray):
    """A module's activations, read when xarray needs their values."""

    def __init__(self, array: LazyArray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        # With one index array at most, what xarray means and what NumPy means is the same.
        return explicit_indexing_adapter(
            key, self.shape, IndexingSupport.OUTER_1VECTOR, self._array.__getitem__
        )


def _variable(array: LazyArray, axes: Sequence[str]) -> xarray.Variable:
    spec = array.spec
    attributes = {
        "module": spec.path,
        "requested": spec.requested,
        "index_path": spec.index_path,
        "call": spec.call,
        "calls": spec.calls,
        "reduce": json.dumps(dict(spec.reduce)),
    }
    return xarray.Variable(axes, LazilyIndexedArray(_Rows(array)), attributes)


def _coordinates(
    ids: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]], taken: Sequence[str]
) -> dict[str, Any]:
    """Return ids and columns along the axis ``image``; xarray admits no name twice."""
    coordinates: dict[str, Any] = {"image": ids}
    for name, values in columns.items():
        coordinates[f"{name} (column)" if name in taken else name] = ("image", values)
    return coordinates
