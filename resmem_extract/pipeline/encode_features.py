"""Activations of a store as features of a study: pooled, projected, or as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..config import EncodeOptions
from ..encoding import Picked
from ..gram import Rows
from ..store import FeatureArray
from ..transforms import Vectors, fit, parse_steps

__all__ = ["johnson_lindenstrauss_size", "prepared"]

Tell = Callable[[str], None]
_POOLED = ("height", "width", "token")
_DISTORTION = 0.1
"""Of squared distances, at most, which sets the size of a projection."""


def johnson_lindenstrauss_size(n_images: int) -> int:
    """Return to how many values vectors may be projected, distances changing by 10 % at most."""
    from sklearn.random_projection import johnson_lindenstrauss_min_dim

    return int(johnson_lindenstrauss_min_dim(n_images, eps=_DISTORTION))


def prepared(
    array: FeatureArray,
    order: npt.NDArray[np.intp],
    asked: EncodeOptions,
    name: str,
    tell: Tell,
) -> Rows:
    """Return features of images, `[N, ...]`; nothing here is learnt from them.

    Parameters
    ----------
    array : FeatureArray
    order : int array, `[N]`
        Row of the store of each image.
    asked : EncodeOptions
    name : str
        Of the module, for messages.
    tell : callable
    """
    rows: Rows = Picked(array, order)
    if asked.pool == "avg":
        axes = tuple(k for k, axis in enumerate(array.axes) if axis in _POOLED)
        if axes:
            rows = _pooled(rows, axes)
    size = math.prod(rows.shape[1:])
    wanted = asked.project
    if wanted is None:
        return rows
    if wanted == "auto":
        wanted = johnson_lindenstrauss_size(len(order))
    if wanted >= size:
        why = "distances would take" if asked.project == "auto" else "they are no more than"
        tell(f"{name}: {size} features are not projected; {why} {wanted}")
        return rows
    vectors = Vectors([rows])
    chain = fit(parse_steps([f"project={wanted}"]), vectors, seed=asked.seed)
    blocks = [chain(vectors[np.arange(len(order))[cut]]) for cut in vectors.slices(len(order))]
    return np.concatenate(blocks)


def _pooled(rows: Rows, axes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return means over axes, a block of images at a time."""
    n = rows.shape[0]
    step = max(2**25 // max(4 * math.prod(rows.shape[1:]), 1), 1)
    blocks = [
        np.asarray(rows[np.arange(start, min(start + step, n))]).mean(axis=axes, dtype=np.float64)
        for start in range(0, n, step)
    ]
    return np.concatenate(blocks).astype(np.float32)
