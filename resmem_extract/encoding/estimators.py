"""The same models with scikit-learn's interface, for features that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import RequestError
from .arrays import place_on
from .banded import BandedOptions, banded_ridge, centred_kernels
from .basis import from_features, from_products
from .features import FeatureOptions, Form, Scale, standardised
from .folds import Fold
from .solver import automatic_penalties, checked_penalties, dual, ridge

__all__ = ["BandedRidgeCV", "RidgeCV"]

Floats = npt.NDArray[np.float64]


class _Linear(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Prediction by weights of features, and what both models do with their input."""

    coef_: Floats
    intercept_: Any

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Return predictions `[n, t]`, or `[n]` if fitted with one target."""
        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=np.float64)
        predicted: Floats = features @ self.coef_.T + self.intercept_
        return predicted

    def _checked(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats, bool]:
        features, targets = validate_data(
            self, x, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=3
        )
        return features, targets.reshape(len(targets), -1).astype(np.float64), targets.ndim == 1

    def _finish(self, weights: Floats, means: Floats, centre: Floats, one: bool) -> None:
        intercept = means - centre @ weights
        self.coef_ = weights[:, 0] if one else weights.T
        self.intercept_ = float(intercept[0]) if one else intercept


class RidgeCV(_Linear):
    """Ridge regression with a penalty a target, chosen by cross-validation.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties; by default ten that follow the size of the features.
    cv : int or splitter of scikit-learn
    scale : {"center", "zscore"}
        What is learnt of features over all training rows; centring is repeated in every fold.
    components : int, optional
        Keep the first so many principal components.
    form : {"auto", "primal", "kernel"}
        Decompose features or inner products; both give the same.
    device : str

    Attributes
    ----------
    coef_ : array, `[t, p]`, or `[p]` with one target
    intercept_ : array, `[t]`, or float
    alpha_ : array, `[t]`, or float
    cv_scores_ : array, `[alphas, t]`
        Negative mean squared error of held-out rows.
    """

    def __init__(
        self,
        alphas: Sequence[float] | None = None,
        *,
        cv: Any = 5,
        scale: Scale = "center",
        components: int | None = None,
        form: Form = "auto",
        device: str = "cpu",
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.scale = scale
        self.components = components
        self.form = form
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> RidgeCV:
        """Fit to features `[n, p]` and targets `[n, t]` or `[n]`."""
        features, targets, one = self._checked(X, y)
        options = FeatureOptions(self.scale, self.components, self.form)
        everything = np.arange(len(features))
        mean, deviation = standardised(features, everything, options.scale)
        scaled = (features - mean) / deviation
        fold = Fold("all", everything, everything[:0], _held_out(self.cv, features))
        place = place_on(self.device)
        primal = self.form == "primal" or (
            self.form == "auto" and features.shape[1] <= features.shape[0]
        )
        basis = (
            from_features(scaled, fold, place, self.components)
            if primal
            else from_products(scaled @ scaled.T, everything, fold, place, self.components)
        )
        tried = (
            automatic_penalties(basis) if self.alphas is None else checked_penalties(self.alphas)
        )
        found = ridge(basis, targets, fold.inner, tried)
        weights = scaled.T @ dual(basis, targets, found.penalties) / deviation[:, None]
        self._finish(weights, targets.mean(axis=0), mean, one)
        self.alphas_ = tried
        self.alpha_ = float(found.penalties[0]) if one else found.penalties
        self.cv_scores_ = -found.losses
        return self


class BandedRidgeCV(_Linear):
    """Ridge regression with a penalty a target and band, by himalaya's random search.

    Parameters
    ----------
    bands : sequence of hashable, optional
        Band of each feature, `[p]`; by default all are of one.
    alphas : sequence of float, optional
        Penalties in units of the mean eigenvalue of each band's kernel.
    cv : int or splitter of scikit-learn
    n_iter : int
        Relative weights of bands that are tried.
    random_state : int
    device : str

    Attributes
    ----------
    coef_ : array, `[t, p]`, or `[p]` with one target
    intercept_ : array, `[t]`, or float
    bands_ : list
        Names, in the order of `band_weights_`.
    band_weights_ : array, `[bands, t]`
        They add up to 1.
    alpha_ : array, `[t]`, or float
    """

    def __init__(
        self,
        bands: Sequence[Any] | None = None,
        alphas: Sequence[float] | None = None,
        *,
        cv: Any = 5,
        n_iter: int = 60,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.bands = bands
        self.alphas = alphas
        self.cv = cv
        self.n_iter = n_iter
        self.random_state = random_state
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> BandedRidgeCV:
        """Fit to features `[n, p]` and targets `[n, t]` or `[n]`."""
        features, targets, one = self._checked(X, y)
        given = [0] * features.shape[1] if self.bands is None else list(self.bands)
        if len(given) != features.shape[1]:
            raise RequestError(f"bands: {len(given)} given for {features.shape[1]} features")
        self.bands_ = list(dict.fromkeys(given))
        number = np.array([self.bands_.index(band) for band in given])
        mean = features.mean(axis=0)
        centred = features - mean
        parts = [centred[:, number == k] for k in range(len(self.bands_))]
        everything = np.arange(len(features))
        fold = Fold("all", everything, everything, _held_out(self.cv, features))
        sizes = np.array([max((part**2).sum() / len(part), 1e-300) for part in parts])
        kernels, _ = centred_kernels([part @ part.T for part in parts], everything, fold)
        tried = None if self.alphas is None else checked_penalties(self.alphas)
        search = BandedOptions(self.n_iter, tried, self.random_state, self.device)
        found = banded_ridge(kernels, None, targets, fold.inner, search)
        weights = np.empty((features.shape[1], targets.shape[1]))
        for k, part in enumerate(parts):
            share = found.weights[k] / found.penalties / sizes[k]
            weights[number == k] = (part.T @ found.dual) * share
        self._finish(weights, found.means, mean, one)
        self.band_weights_ = found.weights
        self.alpha_ = float(found.penalties[0]) if one else found.penalties
        return self


def _held_out(cv: Any, features: Floats) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the rows that a splitter of scikit-learn holds out in turn."""
    if isinstance(cv, int):
        cv = min(cv, len(features))
    held = tuple(test for _, test in check_cv(cv).split(features))
    if sorted(np.concatenate(held).tolist()) != list(range(len(features))):
        raise RequestError("cv: every row has to be held out once")
    return held
