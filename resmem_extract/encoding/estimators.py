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
from ..gram import grams
from .arrays import place_on
from .banded import BandedOptions, banded_ridge, centred_kernels
from .features import FeatureOptions, Form, Scale, bases, standardised
from .folds import Fold
from .solver import automatic_penalties, checked_penalties, dual, ridge

__all__ = ["BandedRidgeCV", "RidgeCV"]

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating]
_DTYPES = [np.float64, np.float32]
"""Features that are neither become the first; those of float32 are large, and not copied."""
_TINY = 1e-300
_COLUMNS = 2**12
"""Features of which weights are computed at a time."""


class _Linear(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Prediction by weights of features, and what both models do with their input."""

    coef_: Values
    intercept_: Any
    mean_: Values
    level_: Any

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Return predictions `[n, t]`, or `[n]` if fitted with one target."""
        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=_DTYPES)
        # About the mean, which would cost digits in float32.
        predicted: Floats = (features - self.mean_) @ self.coef_.T + self.level_
        return predicted

    def _checked(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Values, Floats, bool]:
        features, targets = validate_data(
            self, x, y, dtype=_DTYPES, multi_output=True, y_numeric=True, ensure_min_samples=3
        )
        return features, targets.reshape(len(targets), -1).astype(np.float64), targets.ndim == 1

    def _set_weights(
        self,
        features: Values,
        of_rows: Floats,
        means: Floats,
        one: bool,
        *,
        scale: Scale = "center",
        shares: Floats | None = None,
        band: npt.NDArray[np.intp] | None = None,
    ) -> None:
        """Set the weights of features that those of rows amount to, a few at a time.

        Parameters
        ----------
        features : array, `[n, p]`
        of_rows : array, `[n, t]`
            Coefficients of the rows of the kernel.
        means : array, `[t]`
            Of targets.
        one : bool
            Whether there is one target, without an axis.
        scale : {"center", "zscore"}
        shares : array, `[bands, t]`, optional
            Factors of the weights of each band.
        band : int array, `[p]`, optional
        """
        n, p = features.shape
        of_rows = of_rows.astype(features.dtype)
        weights, self.mean_ = np.empty((p, len(means)), features.dtype), np.empty(p, features.dtype)
        level, intercept = means.copy(), means.copy()
        for start in range(0, p, _COLUMNS):
            some = slice(start, start + _COLUMNS)
            mean, divisor = standardised(features[:, some], np.arange(n), scale)
            self.mean_[some] = mean
            own = weights[some]
            np.matmul((features[:, some] - self.mean_[some]).T, of_rows, out=own)
            if scale == "zscore":
                own /= (divisor**2)[:, None]
            if shares is not None and band is not None:
                own *= shares[band[some]]
            level -= (mean - self.mean_[some]) @ own
            intercept -= mean @ own
        self.coef_ = weights[:, 0] if one else weights.T
        self.intercept_ = float(intercept[0]) if one else intercept
        self.level_ = float(level[0]) if one else level


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
    mean_, level_ : array, `[p]`; array, `[t]`, or float
        The same about the features' means: predictions are ``(X - mean_) @ coef_.T + level_``.
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
        fold = Fold("all", everything, everything[:0], _held_out(self.cv, features))
        (basis,) = bases(features, everything, [fold], options, place_on(self.device))
        tried = (
            automatic_penalties(basis) if self.alphas is None else checked_penalties(self.alphas)
        )
        found = ridge(basis, targets, fold.inner, tried)
        of_rows = dual(basis, targets, found.penalties)
        self._set_weights(features, of_rows, targets.mean(axis=0), one, scale=self.scale)
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
    mean_, level_ : array, `[p]`; array, `[t]`, or float
        The same about the features' means: predictions are ``(X - mean_) @ coef_.T + level_``.
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
        everything = np.arange(len(features))
        fold = Fold("all", everything, everything, _held_out(self.cv, features))
        products = [
            grams(features[:, number == k])["plain"].products for k in range(len(self.bands_))
        ]
        kernels, _ = centred_kernels(products, everything, fold)
        tried = None if self.alphas is None else checked_penalties(self.alphas)
        search = BandedOptions(self.n_iter, tried, self.random_state, self.device)
        found = banded_ridge(kernels, None, targets, fold.inner, search)
        # Kernels were brought to a mean eigenvalue of 1, about the mean.
        sizes = [(np.trace(k) - k.mean() * len(k)) / len(k) for k in products]
        shares = found.weights / found.penalties / np.maximum(sizes, _TINY)[:, None]
        self._set_weights(features, found.dual, found.means, one, shares=shares, band=number)
        self.band_weights_ = found.weights
        self.alpha_ = float(found.penalties[0]) if one else found.penalties
        return self


def _held_out(cv: Any, features: Values) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the rows that a splitter of scikit-learn holds out in turn."""
    if isinstance(cv, int):
        cv = min(cv, len(features))
    held = tuple(test for _, test in check_cv(cv).split(features))
    if sorted(np.concatenate(held).tolist()) != list(range(len(features))):
        raise RequestError("cv: every row has to be held out once")
    return held
