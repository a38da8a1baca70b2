"""Cross-validation: no leak, p that hold under the null, equality with models made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from resmem_extract.compare import false_discovery_rate
from resmem_extract.encoding import (
    BandedOptions,
    Chance,
    FeatureOptions,
    Picked,
    banded_models,
    cross_validate,
    kfolds,
    linear_models,
    place_on,
    pls_models,
    ridge_models,
)
from resmem_extract.errors import RequestError

PENALTIES = np.logspace(-2, 4, 7)
N = 60
IDS = [f"{k:03d}" for k in range(N)]
ALL = np.arange(N)


def data(rng, p=100, t=5):
    x = rng.standard_normal((N, p)).astype(np.float32) + 3
    y = x @ rng.standard_normal((p, t)) / np.sqrt(p) + rng.standard_normal((N, t)) * 0.5
    return x, y


def validated(x, y, method="ridge", chance=None, **options):
    folds = list(kfolds(IDS, 4, inner=3))
    asked = FeatureOptions(**options)
    if method == "pls":
        return cross_validate(pls_models(x, ALL, folds, asked, 3), y, chance, alone=False)
    if method == "linear":
        return cross_validate(linear_models(x, ALL, folds, asked, place_on()), y, chance)
    if method == "banded":
        bands = [x[:, ::2], x[:, 1::2]]
        made = banded_models(bands, ALL, folds, asked, BandedOptions(12))
        return cross_validate(made, y, chance)
    made = ridge_models(x, ALL, folds, asked, place_on(), PENALTIES)
    return cross_validate(made, y, chance)


@pytest.mark.parametrize("form", ["primal", "kernel"])
@pytest.mark.parametrize(
    ("scale", "components"), [("center", None), ("zscore", None), ("center", 7)]
)
def test_nested_cross_validation_is_that_of_scikit_learn(rng, form, scale, components):
    x, y = data(rng)
    found = validated(x, y, scale=scale, components=components, form=form)
    wide = x.astype(np.float64)
    for fold in kfolds(IDS, 4, inner=3):
        number = np.empty(len(fold.train))
        for k, held in enumerate(fold.inner):
            number[held] = k
        # Scale and components are learnt on the outer training rows, once.
        first = StandardScaler(with_std=scale == "zscore").fit(wide[fold.train])
        if components:
            first = make_pipeline(first, PCA(components)).fit(wide[fold.train])
        train, test = first.transform(wide[fold.train]), first.transform(wide[fold.test])
        for t in range(y.shape[1]):
            search = GridSearchCV(
                Ridge(),
                {"alpha": PENALTIES},
                scoring="neg_mean_squared_error",
                cv=PredefinedSplit(number),
            ).fit(train, y[fold.train, t])
            k = list(kfolds(IDS, 4, inner=3).names).index(fold.name)
            assert found.penalties[k, t] == search.best_params_["alpha"]
            np.testing.assert_allclose(
                found.predicted[fold.test, t], search.predict(test), rtol=1e-4, atol=1e-5
            )


def test_plain_linear_regression_and_partial_least_squares_are_scikit_learns(rng):
    x, y = data(rng, p=20)
    linear, pls = validated(x, y, "linear"), validated(x, y, "pls", scale="zscore")
    for fold in kfolds(IDS, 4):
        wide = x.astype(float)
        model = LinearRegression().fit(wide[fold.train], y[fold.train])
        expected = model.predict(wide[fold.test])
        np.testing.assert_allclose(linear.predicted[fold.test], expected, rtol=1e-4)
        scaler = StandardScaler().fit(x[fold.train].astype(float))
        train, test = scaler.transform(x[fold.train]), scaler.transform(x[fold.test])
        expected = PLSRegression(3, scale=False).fit(train, y[fold.train]).predict(test)
        np.testing.assert_allclose(pls.predicted[fold.test], expected, rtol=1e-5)
    with pytest.raises(RequestError, match=r"100 features and 45 training rows.*--pca"):
        validated(data(rng)[0], y, "linear")
    with pytest.raises(RequestError, match="4 PLS components; expected 1 to 3"):
        list(pls_models(x[:, :3], ALL, list(kfolds(IDS)), FeatureOptions(), 4))


@pytest.mark.parametrize("method", ["ridge", "linear", "pls", "banded"])
@pytest.mark.parametrize("scale", ["center", "zscore"])
def test_a_planted_leak_is_not_taken(rng, method, scale):
    """What stands in test rows, features or responses, has no influence on their model."""
    if method == "banded":
        pytest.importorskip("himalaya")
    x, y = data(rng, p=20)
    before = validated(x, y, method, scale=scale).predicted
    for fold in list(kfolds(IDS, 4, inner=3))[1:3]:
        other_y = y.copy()
        other_y[fold.test] = rng.standard_normal((len(fold.test), y.shape[1])) * 100
        after = validated(x, other_y, method, scale=scale).predicted
        np.testing.assert_allclose(after[fold.test], before[fold.test], rtol=1e-6)
        # Another test row in the same fold: none of the others' predictions move.
        first, *others = fold.test
        other_x = x.copy()
        other_x[first] += 50
        after = validated(other_x, y, method, scale=scale).predicted
        np.testing.assert_allclose(after[others], before[others], rtol=2e-4, atol=1e-4)
        assert abs(after[first] - before[first]).max() > 1e-2


@pytest.mark.parametrize("scale", ["center", "zscore"])
def test_principal_components_know_nothing_of_test_rows(rng, scale):
    x, y = data(rng)
    before = validated(x, y, components=5, scale=scale).predicted
    fold = next(iter(kfolds(IDS, 4, inner=3)))
    x = x.copy()
    x[fold.test[0]] *= 100  # would be the first component
    after = validated(x, y, components=5, scale=scale).predicted
    np.testing.assert_allclose(after[fold.test[1:]], before[fold.test[1:]], rtol=2e-3, atol=1e-3)


def test_scores_agree_with_the_analytic_expectation(rng):
    """E |y - f|^2 = |g_test - S g_train|^2 + s^2 (m + |S|^2), S the smoother of one penalty."""
    x, _ = data(rng, p=30)
    signal = x.astype(float) @ rng.standard_normal((30, 1)) / np.sqrt(30)
    noise, draws, penalty = 1.0, 3000, 20.0
    y = signal + noise * rng.standard_normal((N, draws))
    folds = list(kfolds(IDS, 4))
    made = ridge_models(x, ALL, folds, FeatureOptions(), place_on(), np.array([penalty]))
    found = cross_validate(made, y)
    for fold in folds:
        train, test = x[fold.train].astype(float), x[fold.test].astype(float)
        n = len(train)
        mean = train.mean(axis=0)
        train, test = train - mean, test - mean
        s = test @ np.linalg.solve(train.T @ train + penalty * np.eye(30), train.T)
        s = s @ (np.eye(n) - 1 / n) + 1 / n
        bias = ((signal[fold.test] - s @ signal[fold.train]) ** 2).sum()
        expected = bias + noise**2 * (len(fold.test) + (s**2).sum())
        errors = ((y[fold.test] - found.predicted[fold.test]) ** 2).sum(axis=0)
        assert errors.mean() == pytest.approx(expected, abs=5 * errors.std() / np.sqrt(draws))


def test_p_hold_under_the_null(rng):
    """2,000 targets of noise: the share below 0.05 is within its binomial interval."""
    n, t = 30, 2000
    ids = [f"{k:02d}" for k in range(n)]
    x = rng.standard_normal((n, 12)) @ np.diag(np.arange(1, 13) ** -0.7)
    y = rng.standard_normal((n, t))
    folds = list(kfolds(ids, 3, inner=3))
    chance = Chance(99, np.arange(n)[:, None])
    made = ridge_models(x, np.arange(n), folds, FeatureOptions(), place_on())
    found = cross_validate(made, y, chance)
    low, high = scipy.stats.binom.interval(0.99, t, 0.05)
    # Targets share features and orders, so that the count varies a little more than binomially.
    assert 0.9 * low <= (found.p <= 0.05).sum() <= 1.1 * high
    assert (false_discovery_rate(found.p) <= 0.05).sum() == 0
    assert abs(found.p.mean() - 0.5) < 0.03


def test_p_is_that_of_doing_everything_again(rng):
    x, y = data(rng, t=3)
    chance = Chance(19, ALL[:, None], seed=5)
    found = validated(x, y, chance=chance)
    r = np.array([validated(x, y[order]).mean_r for order in chance.orders()])
    np.testing.assert_allclose(found.p, (1 + (r >= found.mean_r - 1e-12).sum(axis=0)) / 20)
    assert found.p.min() == 0.05


def test_orders_keep_units_and_groups_together():
    units = np.array([[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]])
    within = np.array([0, 0, 0, 1, 1, 1])
    for order in Chance(50, units, within).orders():
        assert sorted(order.tolist()) == list(range(12))
        for unit in units:
            assert order[unit].tolist() in units.tolist()
        assert set(order[units[:3]].ravel()) == set(units[:3].ravel())
    orders = Chance(200, np.arange(4)[:, None]).orders()
    assert len(np.unique(orders, axis=0)) == 24


def test_rows_of_an_array_in_another_order(rng):
    x = rng.standard_normal((9, 2, 3))
    order = np.array([5, 2, 2, 8, 0])
    picked = Picked(x, order)
    assert picked.shape == (5, 2, 3)
    for key in (slice(None), slice(1, 4), np.array([3, 0, 3]), (slice(None), slice(1), slice(2))):
        first, *rest = key if isinstance(key, tuple) else (key,)
        np.testing.assert_array_equal(picked[key], x[order][(first, *rest)])


@pytest.mark.parametrize(("dtype", "level"), [(np.float32, 1e4), (np.float64, 1e9)])
def test_a_large_mean_costs_no_digits(rng, dtype, level):
    x, y = data(rng)
    raised = (y + level).astype(dtype)
    plain = validated(x, raised.astype(np.float64) - level)
    found = validated(x, raised)
    np.testing.assert_allclose(found.r, plain.r, atol=1e-5)
    np.testing.assert_allclose(found.r2, plain.r2, atol=1e-5)
    np.testing.assert_allclose(found.predicted, plain.predicted + level, rtol=1e-6)


@pytest.mark.parametrize("method", ["ridge", "linear", "pls", "banded"])
def test_the_unit_of_responses_does_not_matter(rng, method):
    """Volts of an EEG, tesla of a MEG."""
    if method == "banded":
        pytest.importorskip("himalaya")
    x, y = data(rng, p=20)
    found, expected = validated(x, y * 1e-13, method), validated(x, y, method)
    np.testing.assert_allclose(found.r, expected.r, atol=1e-6)
    np.testing.assert_allclose(found.r2, expected.r2, atol=1e-6)
