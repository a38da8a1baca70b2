"""Steps against scikit-learn on whole arrays, SciPy, thingsvision's formulas and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection

from resmem_extract.errors import RequestError
from resmem_extract.transforms import Vectors, fit, parse_steps
from resmem_extract.transforms import vectors as vectors_module


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of seven rows of thirty values, so that everything takes several of them."""
    monkeypatch.setattr(vectors_module, "BLOCK_BYTES", 7 * 30 * 4)


@pytest.fixture
def x(rng) -> np.ndarray:
    """Activations as behind a ReLU: an offset, some values that never vary, different scales."""
    values = rng.gamma(2.0, np.geomspace(0.1, 30, 30), (50, 30)).astype(np.float32) + 5
    values[:, 3] = 2.5
    return values.reshape(50, 5, 3, 2)


def apply(x: np.ndarray, *texts: str, rows=None, seed: int = 0) -> np.ndarray:
    vectors = Vectors([x])
    chain = fit(parse_steps(texts), vectors, rows, seed=seed)
    found = np.concatenate([chain(vectors[cut]) for cut in vectors.slices(len(x))])
    assert found.dtype == np.float32
    assert found.shape == (len(x), chain.size)
    return found


def test_center(small_blocks, x) -> None:
    flat = x.reshape(50, -1).astype(np.float64)
    np.testing.assert_allclose(apply(x, "center"), flat - flat.mean(axis=0), atol=1e-5)


def test_l2_is_thingsvisions(small_blocks, x) -> None:
    flat = x.reshape(50, -1).astype(np.float64)
    expected = flat / np.linalg.norm(flat, axis=1)[:, np.newaxis]  # its normalize_features
    np.testing.assert_allclose(apply(x, "l2"), expected, rtol=1e-6)
    assert not apply(np.zeros((2, 3), np.float32), "l2").any()


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
def test_zscore_is_scipys(small_blocks, x) -> None:
    found = apply(x, "zscore")
    expected = stats.zscore(x.reshape(50, -1).astype(np.float64), axis=0)
    varies = np.arange(30) != 3
    np.testing.assert_allclose(found[:, varies], expected[:, varies], rtol=1e-5, atol=1e-5)
    assert not found[:, 3].any()
    chain = fit(parse_steps(["zscore"]), Vectors([x]))
    assert chain.notes == ("zscore: 1 of 30 values never vary; they become 0",)


def test_steps_follow_one_another(small_blocks, x) -> None:
    flat = x.reshape(50, -1).astype(np.float64)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(apply(x, "l2", "center"), flat - flat.mean(axis=0), atol=1e-6)


def test_fitted_on_a_subset(small_blocks, x) -> None:
    rows = np.array([1, 2, 5, 8, 13, 21, 34, 40, 41])
    flat = x.reshape(50, -1).astype(np.float64)
    expected = flat - flat[rows].mean(axis=0)
    np.testing.assert_allclose(apply(x, "center", rows=rows), expected, atol=1e-5)
    other = x.copy()
    other[49] *= 100  # an image that is not fitted on changes no other one's features
    assert np.array_equal(
        apply(x, "center", rows=rows)[:49], apply(other, "center", rows=rows)[:49]
    )


def test_pca_is_exact_where_images_have_no_more_dimensions(small_blocks, rng) -> None:
    x = (rng.standard_normal((60, 4)) * [9, 6, 3, 1] @ rng.standard_normal((4, 30)) + 3).astype(
        np.float32
    )
    found = apply(x, "pca=4")
    expected = PCA(4, svd_solver="full").fit_transform(x.astype(np.float64))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=2e-4 * np.abs(expected).max())
    chain = fit(parse_steps(["pca=4"]), Vectors([x]))
    assert chain.notes == ("pca=4 keeps 100.0% of the variance of the images it was fitted on",)


def test_pca_in_one_block_is_exact(x) -> None:
    found = apply(x, "pca=6")
    expected = PCA(6, svd_solver="full").fit_transform(x.reshape(50, -1).astype(np.float64))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4 * np.abs(expected).max())


def test_pca_in_blocks_keeps_nearly_the_variance_of_the_exact_one(small_blocks, x) -> None:
    flat = x.reshape(50, -1).astype(np.float64)
    exact = PCA(5, svd_solver="full").fit(flat).explained_variance_.sum()
    assert apply(x, "pca=5").var(axis=0, ddof=1).sum() > 0.97 * exact


def test_projection_is_seeded_and_sparse(small_blocks, x) -> None:
    found = apply(x, "project=8", seed=3)
    expected = SparseRandomProjection(8, random_state=3).fit_transform(x.reshape(50, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(found, apply(x, "project=8", seed=3))
    assert not np.array_equal(found, apply(x, "project=8", seed=4))
    # The matrix itself: Li, Hastie & Church 2006, density 1/sqrt(d), entries +-sqrt(sqrt(d) / k).
    matrix = apply(np.eye(30, dtype=np.float32), "project=8", seed=3)
    values = np.unique(np.abs(matrix).round(5))
    np.testing.assert_allclose(values, [0, np.sqrt(np.sqrt(30) / 8)], rtol=1e-4)


def test_projection_of_many_values_keeps_distances(rng) -> None:
    x = rng.standard_normal((6, 20_000)).astype(np.float32)
    found = apply(x, "project=2000")
    ratio = np.linalg.norm(found[0] - found[1:], axis=1) / np.linalg.norm(x[0] - x[1:], axis=1)
    assert np.abs(ratio - 1).max() < 0.1


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40), d=st.integers(1, 12), block=st.integers(1, 50), k=st.integers(1, 12),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_blocks_do_not_matter(n, d, block, k, seed) -> None:
    """Any cut into blocks gives the same, and the PCA never gets a block that is too small."""
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32) + 2
    texts = ["zscore", "l2", *([f"pca={k}"] if k <= min(n, d) else [])]
    with pytest.MonkeyPatch.context() as patch:
        whole = apply(x, *texts[:2])
        patch.setattr(vectors_module, "BLOCK_BYTES", 4 * block)
        np.testing.assert_allclose(apply(x, *texts[:2]), whole, rtol=1e-4, atol=1e-5)
        assert apply(x, *texts).shape == (n, k if len(texts) > 2 else d)


def test_joined_modules_are_one_behind_the_other(rng) -> None:
    maps, vector = rng.random((4, 2, 3, 3)), rng.random((4, 5)).astype(np.float16)
    vectors = Vectors([maps, vector], [None, np.array([3, 2, 1, 0])])
    assert (vectors.n_images, vectors.size) == (4, 23)
    expected = np.concatenate([maps.reshape(4, -1), vector[::-1]], axis=1).astype(np.float32)
    assert np.array_equal(vectors[0:4], expected)
    assert np.array_equal(vectors[np.array([2, 0])], expected[[2, 0]])
    assert vectors[0:1].dtype == np.float32


def test_slices_are_never_too_small() -> None:
    vectors = Vectors([np.zeros((1000, 2**20))])
    assert [s.stop - s.start for s in vectors.slices(25, 10)] == [10, 15]
    assert [s.stop - s.start for s in vectors.slices(9, 10)] == [9]
    assert [s.stop - s.start for s in vectors.slices(20)] == [8, 8, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("centre", "no step 'centre': did you mean center?"),
        ("x", "no step 'x': expected center, zscore, l2, pca=N, project=N"),
        ("pca", "step 'pca': expected how many values to keep, such as pca=50"),
        ("pca=0", "step 'pca=0': expected how many values to keep, such as pca=50"),
        ("project=1e3", "step 'project=1e3': expected how many values to keep, such as project=50"),
        ("l2=3", "step 'l2=3': l2 takes no number"),
    ],
)
def test_what_is_no_step(text: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_steps([text])
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pca=31"], "step pca=31: there are only 30 values an image"),
        (["pca=5", "project=6"], "step project=6: there are only 5 values an image"),
        (["pca=12"], "step pca=12: needs at least 12 images to be fitted on, got 9"),
    ],
)
def test_too_many_values(x, texts, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        fit(parse_steps(texts), Vectors([x]), np.arange(9))
    assert str(raised.value) == message
