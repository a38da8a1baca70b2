"""Estimators: scikit-learn's own checks, and equality with its and himalaya's models."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from resmem_extract.encoding import (
    BandedOptions,
    BandedRidgeCV,
    FeatureOptions,
    RidgeCV,
    himalaya_backend,
)
from resmem_extract.encoding.banded import _weights
from resmem_extract.errors import RequestError

pytest.importorskip("himalaya")

PENALTIES = np.logspace(-2, 4, 7)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [RidgeCV(), RidgeCV(form="kernel", scale="zscore"), BandedRidgeCV(n_iter=4)]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("form", ["auto", "primal", "kernel"])
@pytest.mark.parametrize("p", [15, 120])
def test_ridge_of_many_targets(rng, form, p):
    x = rng.standard_normal((50, p)) + 2
    y = x @ rng.standard_normal((p, 6)) + rng.standard_normal((50, 6)) * 3
    model = RidgeCV(PENALTIES, cv=KFold(5, shuffle=True, random_state=0), form=form).fit(x, y)
    for t in range(6):
        theirs = Ridge(alpha=model.alpha_[t]).fit(x, y[:, t])
        np.testing.assert_allclose(model.coef_[t], theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(model.intercept_[t], theirs.intercept_, rtol=1e-5)
    one = clone(model).fit(x, y[:, 0])
    assert one.coef_.shape == (p,)
    np.testing.assert_allclose(one.predict(x), model.predict(x)[:, 0])


@pytest.mark.parametrize("scale", ["center", "zscore"])
@pytest.mark.parametrize("p", [15, 5000])
def test_float32_features_are_not_copied_to_float64(rng, scale, p):
    x = (rng.standard_normal((60, p)) * rng.uniform(1, 3, p) + 1000).astype(np.float32)
    y = x[:, :15] @ rng.standard_normal((15, 4)) + rng.standard_normal((60, 4)) * 3
    model = RidgeCV([30.0], scale=scale).fit(x, y)
    assert model.coef_.dtype == np.float32
    wide = x.astype(np.float64)
    sizes = wide.std(axis=0) if scale == "zscore" else 1.0
    expected = Ridge(alpha=30.0).fit(wide / sizes, y).predict(wide / sizes)
    np.testing.assert_allclose(model.predict(x), expected, atol=1e-5 * np.abs(y - y.mean(0)).max())


def test_bands_are_those_of_himalaya(rng):
    """GroupRidgeCV on the same features, weights and penalties."""
    from himalaya.ridge import solve_group_ridge_random_search

    parts = [rng.standard_normal((60, 8)), 4 * rng.standard_normal((60, 20))]
    y = parts[0] @ rng.standard_normal((8, 5)) + rng.standard_normal((60, 5))
    y[:, 3:] += parts[1] @ rng.standard_normal((20, 2)) / 4
    x = np.concatenate(parts, axis=1)
    model = BandedRidgeCV([0] * 8 + [1] * 20, PENALTIES, n_iter=15).fit(x, y)
    np.testing.assert_allclose(model.band_weights_.sum(axis=0), 1)
    assert (model.band_weights_[0, :3] > 0.9).all()
    # The same problem for himalaya: bands of mean eigenvalue 1, about the mean.
    centred = [part - part.mean(axis=0) for part in parts]
    scaled = [part / np.sqrt((part**2).sum() / 60) for part in centred]
    tried = np.maximum(_weights(2, BandedOptions(15)), 1e-12)  # theirs divides by weights
    with himalaya_backend("cpu"):
        _, weights, _, intercept = solve_group_ridge_random_search(
            scaled,
            y,
            n_iter=tried,
            alphas=PENALTIES,
            cv=KFold(5),
            fit_intercept=True,
            return_weights=True,
            progress_bar=False,
        )
    expected = np.concatenate(scaled, axis=1) @ weights + intercept
    np.testing.assert_allclose(model.predict(x), expected, atol=1e-5 * np.abs(expected).max())


def test_wrong_arguments_are_refused(rng):
    x, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    with pytest.raises(RequestError, match="expected positive numbers"):
        RidgeCV([0.0, 1.0]).fit(x, y)
    with pytest.raises(RequestError, match="3 given for 4 features"):
        BandedRidgeCV([0, 0, 1]).fit(x, y)
    with pytest.raises(RequestError, match=r"scale 'centre' is not known; did you mean center\?"):
        RidgeCV(scale="centre").fit(x, y)
    with pytest.raises(RequestError, match="form 'svd' is not known; expected auto or primal or"):
        FeatureOptions(form="svd")
