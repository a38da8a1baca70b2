"""The model of each fold: ridge, plain linear regression, partial least squares, banded ridge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from ..gram import Rows
from .arrays import Place
from .banded import Banded, BandedOptions, banded_ridge, centred_kernels
from .basis import Basis
from .features import FeatureOptions, bases, features_of, products_of_folds, standardised
from .folds import Fold
from .solver import automatic_penalties, ridge
from .validate import FoldModel, Values

__all__ = [
    "METHODS",
    "Heard",
    "Method",
    "banded_models",
    "linear_models",
    "pls_models",
    "ridge_models",
]

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.intp]
Method = Literal["ridge", "banded", "linear", "pls"]
METHODS: tuple[Method, ...] = ("ridge", "banded", "linear", "pls")

Heard = Callable[[Fold, Values, Banded], None]
"""Told of a fold, the targets that its model was given, and what it found."""


def ridge_models(
    rows: Rows,
    images: Images,
    folds: Sequence[Fold],
    options: FeatureOptions,
    place: Place,
    penalties: Floats | None = None,
    **about: Any,
) -> Iterator[tuple[Fold, FoldModel]]:
    """Yield ridge regression with a penalty a target, for each fold.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
    images : int array, `[n]`
        Image of each row of the targets.
    folds : sequence of Fold
    options : FeatureOptions
    place : Place
    penalties : array, optional
        Ascending; by default they follow the size of the features of each fold.
    **about
        `name` and `ids`, for messages.
    """
    made = bases(rows, images, folds, options, place, **about)
    for fold, basis in zip(folds, made, strict=True):
        yield fold, _ridge_of(basis, fold, penalties)


def _ridge_of(basis: Basis, fold: Fold, penalties: Floats | None) -> FoldModel:
    tried = automatic_penalties(basis) if penalties is None else penalties

    def model(targets: Values) -> tuple[Values, Floats]:
        found = ridge(basis, targets[fold.train], fold.inner, tried)
        return found.predicted, found.penalties

    return model


def linear_models(
    rows: Rows,
    images: Images,
    folds: Sequence[Fold],
    options: FeatureOptions,
    place: Place,
    *,
    name: str = "the features",
    ids: Sequence[str] | None = None,
) -> Iterator[tuple[Fold, FoldModel]]:
    """Yield plain linear regression, least squares, for each fold.

    Raises
    ------
    RequestError
        If there are as many features as training rows: every response would be fitted.
    """
    n_features = int(np.prod(rows.shape[1:])) if options.components is None else options.components
    for fold in folds:
        if n_features >= len(fold.train) - 1:
            raise RequestError(
                f"{name}: {n_features} features and {len(fold.train)} training rows; plain linear "
                "regression takes fewer features: use ridge, or --pca K"
            )
    made = bases(rows, images, folds, options, place, name=name, ids=ids)
    for fold, basis in zip(folds, made, strict=True):

        def model(
            targets: Values, fold: Fold = fold, basis: Basis = basis
        ) -> tuple[Values, Floats]:
            found = ridge(basis, targets[fold.train], (), np.zeros(1))
            return found.predicted, np.full(targets.shape[1], np.nan)

        yield fold, model


def pls_models(
    rows: Rows,
    images: Images,
    folds: Sequence[Fold],
    options: FeatureOptions,
    components: int,
    *,
    name: str = "the features",
    ids: Sequence[str] | None = None,
) -> Iterator[tuple[Fold, FoldModel]]:
    """Yield partial least squares, all targets at once (PLS2), for each fold; small problems.

    Parameters
    ----------
    rows, images, folds, options
        As for `ridge_models`; all features have to fit in memory.
    components : int
    """
    from sklearn.cross_decomposition import PLSRegression

    features = features_of(rows, name, ids)
    for fold in folds:
        most = min(features.shape[1], len(fold.train) - 1)
        if not 1 <= components <= most:
            raise RequestError(f"{name}: {components} PLS components; expected 1 to {most}")
        mean, deviation = standardised(features, images[fold.train], options.scale)
        own = ((features - mean) / deviation)[images]

        def model(targets: Values, fold: Fold = fold, own: Floats = own) -> tuple[Values, Floats]:
            fitted = PLSRegression(components, scale=False).fit(
                own[fold.train], targets[fold.train]
            )
            predicted = fitted.predict(own[fold.test]).reshape(len(fold.test), -1)
            return predicted, np.full(targets.shape[1], np.nan)

        yield fold, model


def banded_models(
    bands: Sequence[Rows],
    images: Images,
    folds: Sequence[Fold],
    options: FeatureOptions,
    search: BandedOptions,
    heard: Heard | None = None,
    *,
    names: Sequence[str] = (),
    ids: Sequence[str] | None = None,
) -> Iterator[tuple[Fold, FoldModel]]:
    """Yield banded ridge over several feature spaces, for each fold.

    Parameters
    ----------
    bands : sequence of Rows
    images, folds, options
        As for `ridge_models`.
    search : BandedOptions
    heard : callable, optional
        Told what each band has to do with the predictions whenever a model is used.
    names : sequence of str
        Of the bands, for messages.
    ids : sequence of str, optional
    """
    names = names or [f"band {k}" for k in range(len(bands))]
    streams = [
        products_of_folds(band, images, folds, options, search.device, name=name, ids=ids)
        for band, name in zip(bands, names, strict=True)
    ]
    for fold in folds:
        kernels, crossed = centred_kernels([next(stream) for stream in streams], images, fold)

        def model(
            targets: Values, fold: Fold = fold, kernels: Floats = kernels, crossed: Floats = crossed
        ) -> tuple[Values, Floats]:
            found = banded_ridge(kernels, crossed, targets[fold.train], fold.inner, search)
            if heard is not None:
                heard(fold, targets, found)
            return found.predicted, found.penalties

        yield fold, model
