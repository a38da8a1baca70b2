"""Ridge against himalaya, scikit-learn and the closed form, over forms, penalties and targets."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import PredefinedSplit

from resmem_extract.encoding.arrays import himalaya_backend, place_on
from resmem_extract.encoding.basis import from_features, from_products
from resmem_extract.encoding.folds import Fold
from resmem_extract.encoding.solver import dual, ridge
from resmem_extract.gram import grams, scaled_grams

pytestmark = pytest.mark.usefixtures("_products_are_as_narrow_as_activations")

PENALTIES = np.logspace(-3, 5, 9)
N, TRAIN = 60, 45


def made(p: int, t: int = 7, seed: int = 0):
    """Features with a large mean and a falling spectrum; targets of different noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, p)) @ (
        np.diag(np.arange(1, p + 1) ** -0.5) @ rng.standard_normal((p, p)) / np.sqrt(p)
    )
    y = x @ rng.standard_normal((p, t)) / np.sqrt(p)
    y += rng.standard_normal((N, t)) * np.linspace(0.1, 3, t)
    return x + 5 * rng.standard_normal(p), y + 10


def fold_of(seed: int = 1) -> Fold:
    order = np.random.default_rng(seed).permutation(N)
    train = np.sort(order[:TRAIN])
    inner = tuple(np.arange(TRAIN)[k::5] for k in range(5))
    return Fold("0", train, np.sort(order[TRAIN:]), inner)


def basis_of(form: str, x: np.ndarray, fold: Fold, **more):
    place = place_on("cpu")
    if form == "primal":
        return from_features(x, fold, place, **more)
    return from_products(grams(x)["plain"].products, np.arange(N), fold, place, **more)


def splitter(fold: Fold) -> PredefinedSplit:
    number = np.empty(TRAIN, dtype=int)
    for k, held in enumerate(fold.inner):
        number[held] = k
    return PredefinedSplit(number)


@pytest.mark.parametrize("form", ["kernel", "primal"])
@pytest.mark.parametrize("p", [12, 44, 200])
def test_one_penalty_is_ridge_of_scikit_learn(form, p):
    x, y = made(p)
    fold = fold_of()
    basis = basis_of(form, x, fold)
    for penalty in PENALTIES:
        found = ridge(basis, y[fold.train], fold.inner, np.array([penalty])).predicted
        theirs = Ridge(alpha=penalty).fit(x[fold.train], y[fold.train])
        expected = theirs.predict(x[fold.test])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        weights = (x[fold.train] - x[fold.train].mean(0)).T @ dual(
            basis, y[fold.train], np.full(7, penalty)
        )
        scale = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(weights, theirs.coef_.T, atol=1e-5 * scale)


@pytest.mark.parametrize("form", ["kernel", "primal"])
@pytest.mark.parametrize("p", [12, 200])
def test_chosen_penalties_are_those_of_himalaya(form, p):
    pytest.importorskip("himalaya")
    from himalaya.kernel_ridge import KernelRidgeCV

    x, y = made(p, t=40)
    fold = fold_of()
    found = ridge(basis_of(form, x, fold), y[fold.train], fold.inner, PENALTIES)
    with himalaya_backend("cpu"):
        theirs = KernelRidgeCV(PENALTIES, cv=splitter(fold), fit_intercept=True, warn=False)
        theirs.fit(x[fold.train], y[fold.train])
        expected = theirs.predict(x[fold.test])
    assert len(np.unique(found.penalties)) > 2
    np.testing.assert_allclose(found.penalties, theirs.best_alphas_, rtol=1e-12)
    np.testing.assert_allclose(-found.losses.min(axis=0), theirs.cv_scores_, rtol=1e-5)
    np.testing.assert_allclose(found.predicted, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["kernel", "primal"])
@pytest.mark.parametrize("p", [12, 40, 200])
def test_losses_of_held_out_rows_are_those_of_models_made_without_them(form, p):
    x, y = made(p)
    fold = fold_of()
    losses = ridge(basis_of(form, x, fold), y[fold.train], fold.inner, PENALTIES).losses
    xt, yt = x[fold.train], y[fold.train]
    for k, penalty in enumerate(PENALTIES):
        errors = []
        for held in fold.inner:
            rest = np.setdiff1d(np.arange(TRAIN), held)
            model = Ridge(alpha=penalty).fit(xt[rest], yt[rest])
            errors.append(((yt[held] - model.predict(xt[held])) ** 2).mean(axis=0))
        np.testing.assert_allclose(losses[k], np.mean(errors, axis=0), rtol=1e-5)


def test_many_targets_are_the_same_in_batches(monkeypatch):
    x, y = made(30, t=23)
    fold = fold_of()
    basis = basis_of("primal", x, fold)
    whole = ridge(basis, y[fold.train], fold.inner, PENALTIES)
    monkeypatch.setattr("resmem_extract.encoding.solver._BATCH", 5)
    parts = ridge(basis, y[fold.train], fold.inner, PENALTIES)
    np.testing.assert_allclose(parts.predicted, whole.predicted, rtol=1e-10)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-10)


@pytest.mark.parametrize("form", ["kernel", "primal"])
def test_principal_components_are_those_of_the_training_rows(form):
    from sklearn.decomposition import PCA

    x, y = made(80)
    fold = fold_of()
    basis = basis_of(form, x, fold, components=6)
    found = ridge(basis, y[fold.train], fold.inner, np.array([0.7])).predicted
    pca = PCA(6).fit(x[fold.train])
    model = Ridge(alpha=0.7).fit(pca.transform(x[fold.train]), y[fold.train])
    np.testing.assert_allclose(found, model.predict(pca.transform(x[fold.test])), rtol=1e-5)


def test_features_scaled_on_training_rows_are_those_of_scikit_learn(rng):
    from sklearn.preprocessing import StandardScaler

    x, y = made(300)
    x *= 10.0 ** rng.integers(-2, 3, 300)
    fold = fold_of()
    x[:, 3] = 4.0  # never varies
    x[fold.train, 5] = -7.0  # varies among test rows alone
    (products,) = scaled_grams(x, [fold.train])
    basis = from_products(products, np.arange(N), fold, place_on("cpu"))
    found = ridge(basis, y[fold.train], fold.inner, np.array([50.0])).predicted
    scaler = StandardScaler().fit(x[fold.train])
    model = Ridge(alpha=50.0).fit(scaler.transform(x[fold.train]), y[fold.train])
    expected = model.predict(scaler.transform(x[fold.test]))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_float32_activations_with_a_large_mean_are_exact_enough(rng):
    x, y = made(800)
    fold = fold_of()
    x32 = (x + 300 * rng.standard_normal(800)).astype(np.float32)
    wide = x32.astype(np.float64)
    for products, scale in (
        (grams(x32)["plain"].products, 1.0),
        (scaled_grams(x32, [fold.train])[0], wide[fold.train].std(axis=0)),
    ):
        basis = from_products(products, np.arange(N), fold, place_on("cpu"))
        found = ridge(basis, y[fold.train], fold.inner, np.array([1.0])).predicted
        model = Ridge(alpha=1.0).fit(wide[fold.train] / scale, y[fold.train])
        expected = model.predict(wide[fold.test] / scale)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_repeated_rows_and_repeated_images(rng):
    """Rows of one image have equal features; the kernel is then far from full rank."""
    x, _ = made(200)
    rows = np.repeat(np.arange(20), 3)
    y = rng.standard_normal((60, 4)) + x[rows, :4]
    fold = fold_of()
    products = grams(x)["plain"].products
    basis = from_products(products, rows, fold, place_on("cpu"))
    assert not basis.complete
    found = ridge(basis, y[fold.train], fold.inner, np.array([2.0])).predicted
    expected = Ridge(alpha=2.0).fit(x[rows[fold.train]], y[fold.train]).predict(x[rows[fold.test]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_vanishing_penalty_is_plain_linear_regression():
    x, y = made(12)
    fold = fold_of()
    basis = basis_of("primal", x, fold)
    found = ridge(basis, y[fold.train], fold.inner, np.array([0.0])).predicted
    expected = LinearRegression().fit(x[fold.train], y[fold.train]).predict(x[fold.test])
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_himalayas_switch_is_set_back():
    pytest.importorskip("himalaya")
    from himalaya.backend import get_backend, set_backend

    from resmem_extract.errors import RequestError

    set_backend("torch")
    try:
        with himalaya_backend("cpu") as backend:
            assert backend.name == get_backend().name == "numpy"
        assert get_backend().name == "torch"
        with pytest.raises(ZeroDivisionError), himalaya_backend("cpu"):
            _ = 1 / 0
        assert get_backend().name == "torch"
        with pytest.raises(RequestError, match="himalaya knows cpu, cuda"), himalaya_backend("tpu"):
            pass
    finally:
        set_backend("numpy")


@pytest.mark.parametrize("form", ["kernel", "primal"])
@pytest.mark.parametrize("p", [12, 200])
def test_pytorch_computes_the_same(form, p):
    """``cpu:0`` is PyTorch's name of the processor, and takes the way of a GPU."""
    pytest.importorskip("torch")
    x, y = made(p)
    fold = fold_of()
    ours = basis_of(form, x, fold)
    place = place_on("cpu:0")
    if form == "primal":
        theirs = from_features(x, fold, place)
    else:
        products = grams(x, device="cpu:0")["plain"].products
        theirs = from_products(products, np.arange(N), fold, place)
    expected = ridge(ours, y[fold.train], fold.inner, PENALTIES)
    found = ridge(theirs, y[fold.train], fold.inner, PENALTIES)
    np.testing.assert_array_equal(found.penalties, expected.penalties)
    np.testing.assert_allclose(found.predicted, expected.predicted, rtol=1e-8)
    np.testing.assert_allclose(
        dual(theirs, y[fold.train], found.penalties),
        dual(ours, y[fold.train], found.penalties),
        atol=1e-9,
    )
    scaled, others = scaled_grams(x, [fold.train], device="cpu:0"), scaled_grams(x, [fold.train])
    np.testing.assert_allclose(scaled[0], others[0], atol=1e-8)
