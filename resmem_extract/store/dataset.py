"""A map-style data set over a store, for torch's DataLoader, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .reader import Store

__all__ = ["StoreDataset"]


class StoreDataset:
    """Samples `(features, id)`, one for every image.

    `features` is an array `[*shape]` if one module was named by a string, else a dict of arrays
    by canonical path. Workers of a DataLoader, forked or spawned, open the file themselves.

    Parameters
    ----------
    store : Store
    modules : str, sequence of str or None
        Paths in any form; None for all modules.
    transform : callable, optional
        Applied to the features of each sample; must be picklable for spawned workers.

    Raises
    ------
    UnknownModuleError
        If the store has no such module.
    """

    def __init__(
        self,
        store: Store,
        modules: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        names = store.modules if modules is None else modules
        self._single = isinstance(names, str)
        self._arrays = [store[name] for name in ([names] if isinstance(names, str) else names)]
        self._store = store
        self._transform = transform

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, str]]:
        """Return several samples, read together; DataLoader calls this with a batch's indices."""
        rows = np.asarray(indices, dtype=np.intp)
        blocks = {array.module: array[rows] for array in self._arrays}
        ids = self._store.image_ids[rows]
        return [
            (self._features({path: block[i] for path, block in blocks.items()}), str(ids[i]))
            for i in range(len(rows))
        ]

    def _features(self, arrays: dict[str, Any]) -> Any:
        features = next(iter(arrays.values())) if self._single else arrays
        return features if self._transform is None else self._transform(features)
