"""A map-style data set over a store, for torch's DataLoader, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arrays import FeatureArray
from .index import ImageIndex

__all__ = ["StoreDataset"]


class StoreDataset:
    """Samples `(features, id)`, one for every image.

    `features` is an array `[*shape]` if one module was named by a string, else a dict of arrays
    by canonical path. Workers of a DataLoader, forked or spawned, open the file themselves.

    Parameters
    ----------
    images : ImageIndex
    features : FeatureArray or sequence of FeatureArray
        One, or several of the same store.
    transform : callable, optional
        Applied to the features of each sample; must be picklable for spawned workers.

    """

    def __init__(
        self,
        images: ImageIndex,
        features: FeatureArray | Sequence[FeatureArray],
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self._single = isinstance(features, FeatureArray)
        self._arrays = [features] if isinstance(features, FeatureArray) else list(features)
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, str]]:
        """Return several samples, read together; DataLoader calls this with a batch's indices."""
        rows = np.asarray(indices, dtype=np.intp)
        blocks = {array.module: array[rows] for array in self._arrays}
        ids = self._images.ids[rows]
        return [
            (self._features({path: block[i] for path, block in blocks.items()}), str(ids[i]))
            for i in range(len(rows))
        ]

    def _features(self, arrays: dict[str, Any]) -> Any:
        features = next(iter(arrays.values())) if self._single else arrays
        return features if self._transform is None else self._transform(features)
