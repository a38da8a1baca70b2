"""From activations to the bases of all folds, in bounded memory, nothing learnt from test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, did_you_mean
from ..gram import CONSTANT, Rows, grams, memory_in_bytes, not_finite, scaled_grams
from .arrays import Place
from .basis import Basis, from_features, from_products
from .folds import Fold

__all__ = [
    "FeatureOptions",
    "Form",
    "Picked",
    "Scale",
    "bases",
    "features_of",
    "products_of_folds",
    "standardised",
]

Floats = npt.NDArray[np.float64]
Scale = Literal["center", "zscore"]
Form = Literal["auto", "primal", "kernel"]


@dataclass(frozen=True)
class FeatureOptions:
    """What is done to the features of each fold, learnt from its training rows alone."""

    scale: Scale = "center"
    """Take off the mean; ``zscore`` also divides by the standard deviation of the training rows,
    in inner folds too."""
    components: int | None = None
    """Keep the first so many principal components of the training rows."""
    form: Form = "auto"
    """``primal`` decomposes features, ``kernel`` inner products; ``auto``: whichever is smaller."""
    memory: int | str = "2GB"
    """For the inner products, while activations are read."""

    def __post_init__(self) -> None:
        for name, known in (("scale", get_args(Scale)), ("form", get_args(Form))):
            given = getattr(self, name)
            if given not in known:
                hint = did_you_mean(given, known, f"expected {' or '.join(known)}")
                raise RequestError(f"{name} {given!r} is not known; {hint}")


class Picked:
    """Rows of activations in an order of one's own, read when they are indexed."""

    def __init__(self, rows: Rows, order: npt.NDArray[np.intp]) -> None:
        self._rows, self._order = rows, order
        self._whole = np.array_equal(order, np.arange(rows.shape[0]))
        self.chunks = getattr(rows, "chunks", None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""
        return (len(self._order), *self._rows.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing returns."""
        return self._rows.dtype

    def __getitem__(self, key: Any) -> Any:
        if self._whole:
            return self._rows[key]
        first, *rest = key if isinstance(key, tuple) else (key,)
        wanted = self._order[first]
        if (np.diff(wanted) > 0).all():
            return self._rows[(wanted, *rest)]
        # Files are read forward: in the order that they have, and put in ours afterwards.
        ascending, place = np.unique(wanted, return_inverse=True)
        return self._rows[(ascending, *rest)][place]


def bases(
    rows: Rows,
    images: npt.NDArray[np.intp],
    folds: Sequence[Fold],
    options: FeatureOptions,
    place: Place,
    *,
    name: str = "the features",
    ids: Sequence[str] | None = None,
) -> Iterator[Basis]:
    """Yield the basis of each fold; activations are read once where memory allows.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
    images : int array, `[n]`
        Image of each row of the targets.
    folds : sequence of Fold
    options : FeatureOptions
    place : Place
    name : str
        Of the features, for messages.
    ids : sequence of str, optional
        Of the `N` images, for messages.
    """
    n_features = math.prod(rows.shape[1:])
    least = min((len(fold.train) for fold in folds), default=0)
    for fold in folds:
        if options.components is not None and options.components > min(
            n_features, len(fold.train) - 1
        ):
            raise RequestError(
                f"{name}: {options.components} principal components of {n_features} features and "
                f"{len(fold.train)} training rows; expected fewer than either"
            )
    if options.form == "primal" or (options.form == "auto" and n_features <= least):
        features = features_of(rows, name, ids)
        for fold in folds:
            own = features if options.scale == "center" else _scaled(features, images[fold.train])
            yield from_features(own[images], fold, place, options.components)
        return
    made = products_of_folds(rows, images, folds, options, place.device, name=name, ids=ids)
    for fold, products in zip(folds, made, strict=True):
        yield from_products(products, images, fold, place, options.components)


def products_of_folds(
    rows: Rows,
    images: npt.NDArray[np.intp],
    folds: Sequence[Fold],
    options: FeatureOptions,
    device: str,
    *,
    name: str,
    ids: Sequence[str] | None = None,
) -> Iterator[Floats]:
    """Yield inner products `[N, N]` of all images for each fold, about some mean.

    Centred features have the same ones in all folds; features that are scaled have their own,
    which are made in one reading as far as memory allows.

    Parameters
    ----------
    rows, images, folds, options, name, ids
        As for `bases`.
    device : str
    """
    about: Any = {"memory": options.memory, "device": device, "name": name, "ids": ids}
    # Of fewer features than images the kernel lacks directions, which rounding errors of float32
    # would fill; float64 costs little there.
    few = math.prod(rows.shape[1:]) <= rows.shape[0]
    about["precision"] = "float64" if few else "auto"
    if options.scale == "center":
        products = grams(rows, **about)["plain"].products
        yield from (products for _ in folds)
        return
    for some in _at_once(rows, folds, options):
        scaled = scaled_grams(rows, [images[fold.train] for fold in some], **about)
        while scaled:
            yield scaled.pop(0)


def standardised(
    features: npt.NDArray[Any], train: npt.NDArray[np.intp], scale: Scale
) -> tuple[Floats, Floats]:
    """Return mean and divisor of each feature over training rows, `[k]` each.

    The divisor is 1 for ``center``, and infinite for a feature that does not vary.
    """
    if scale == "center":
        mean = features[train].mean(axis=0, dtype=np.float64)
        return mean, np.ones_like(mean)
    own = np.asarray(features, dtype=np.float64)[train]
    mean = own.mean(axis=0)
    deviation = own.std(axis=0)
    # As `scaled_grams` has it: variance within rounding of the features' own precision is none.
    precision = np.finfo(features.dtype if features.dtype.kind == "f" else np.float64).eps
    constant = deviation**2 <= CONSTANT * float(precision) ** 2 * (own**2).mean(axis=0)
    deviation[constant] = np.inf
    return mean, deviation


def _scaled(features: Floats, train: npt.NDArray[np.intp]) -> Floats:
    mean, deviation = standardised(features, train, "zscore")
    scaled: Floats = (features - mean) / deviation
    return scaled


def features_of(rows: Rows, name: str, ids: Sequence[str] | None = None) -> Floats:
    """Return all features in memory, `[N, p]`.

    Raises
    ------
    RequestError
        If one is NaN or infinite.
    """
    features = np.asarray(rows[:]).reshape(rows.shape[0], -1).astype(np.float64)
    if not np.isfinite(features).all():
        raise RequestError(not_finite(features, name, ids))
    return features


def _at_once(
    rows: Rows, folds: Sequence[Fold], options: FeatureOptions
) -> Iterator[Sequence[Fold]]:
    """Cut folds into groups whose inner products take half of the memory."""
    square = 8 * rows.shape[0] ** 2
    n = max(int(memory_in_bytes(options.memory) // 2 // square), 1)
    for start in range(0, len(folds), n):
        yield folds[start : start + n]
