"""Comparators against rsatoolbox, SciPy, closed forms and thingsvision's formulas."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rsatoolbox
import scipy.stats
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
from scipy.spatial import procrustes

from resmem_extract.compare.ceiling import ceiling, resampled_ceilings
from resmem_extract.compare.cka import kernel_similarity, rbf
from resmem_extract.compare.comparators import COMPARATORS, DEFAULT_COMPARATOR, comparator
from resmem_extract.compare.kendall import resampled_tau_a, tau_a
from resmem_extract.compare.resampling import resampled
from resmem_extract.compare.vectors import similarities
from resmem_extract.errors import RequestError

OF_RDMS = [name for name, entry in COMPARATORS.items() if entry.of == "rdms"]


def stacks(seed: int, n: int, a: int = 3, b: int = 4, digits: int = 3) -> tuple:
    """Return related RDMs, rounded so that some entries are tied."""
    rng = np.random.default_rng(seed)
    common = rng.random(n * (n - 1) // 2)
    return tuple(
        np.round(common + 0.5 * rng.random((k, len(common))), digits) + 0.001 for k in (a, b)
    )


def rdms(stack: np.ndarray) -> rsatoolbox.rdm.RDMs:
    return rsatoolbox.rdm.RDMs(stack.copy())


def quietly(function, *arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tau's ceiling is of averaged ranks
        return function(*arguments, **keywords)


def test_names():
    assert set(COMPARATORS) == {
        *("pearson", "spearman", "tau-a", "rho-a", "cosine", "cosine-cov", "corr-cov"),
        *("cka", "cka-rbf", "procrustes"),
    }
    assert DEFAULT_COMPARATOR == "spearman"
    assert comparator("cka").of == "features"
    with pytest.raises(RequestError, match="'spearmen' is not known; did you mean spearman"):
        comparator("spearmen")


@pytest.mark.parametrize("method", OF_RDMS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30), digits=st.integers(1, 6))
def test_similarities_are_those_of_rsatoolbox(method, seed, n, digits):
    a, b = stacks(seed, n, digits=digits)
    ours = similarities(method, a, b)
    assume(np.isfinite(ours).all())  # one constant RDM shifts all numbers of rsatoolbox 0.3.2
    theirs = rsatoolbox.rdm.compare(rdms(a), rdms(b), COMPARATORS[method].rsatoolbox)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_scipy_gives_the_same(rng):
    a, b = rng.random((2, 3, 45))
    for method, oracle in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        expected = [[oracle(x, y)[0] for y in b] for x in a]  # thingsvision's correlate_rdms too
        np.testing.assert_allclose(similarities(method, a, b), expected, atol=1e-12)
    taus = [[scipy.stats.kendalltau(x, y)[0] for y in b] for x in a]  # no ties: b is a
    np.testing.assert_allclose(similarities("tau-a", a, b), taus, atol=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=40))
def test_tau_a_counts_pairs(entries):
    a, b = np.array(entries, dtype=float).T
    signs = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
    assert tau_a(a, b) == pytest.approx(signs.sum() / (len(a) * (len(a) - 1)), abs=1e-12)


@pytest.mark.parametrize("method", OF_RDMS)
def test_equal_dissimilarities_have_no_correlation(method, rng):
    a, b = np.full((1, 6), 0.7), rng.random((1, 6))
    value = similarities(method, a, b)[0, 0]
    if method in ("tau-a", "rho-a"):
        assert value == 0
    elif method in ("cosine", "cosine-cov"):
        assert 0 < value < 1
        assert np.isnan(similarities(method, 0 * a, b)[0, 0])
    else:
        assert np.isnan(value)


# --- CKA and Procrustes --------------------------------------------------------------------------


def kernel_of(features: np.ndarray) -> np.ndarray:
    z = features - features.mean(axis=0)
    return z @ z.T


def unbiased_hsic(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al. (2012), equation 5."""
    n = len(k)
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    one = np.ones(n)
    first = np.trace(k @ other)
    second = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (one @ k @ other @ one)
    return (first + second - third) / (n * (n - 3))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 25), p=st.integers(2, 200))
def test_debiased_cka_is_the_closed_form(seed, n, p):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) + 5
    y = x[:, : p // 2 + 1] + rng.standard_normal((n, p // 2 + 1))
    k, other = x @ x.T, y @ y.T
    own = unbiased_hsic(k, k) * unbiased_hsic(other, other)
    found = kernel_similarity("cka", kernel_of(x), kernel_of(y))
    assert found == pytest.approx(unbiased_hsic(k, other) / np.sqrt(own), rel=1e-6)


def thingsvision_cka(x: np.ndarray, y: np.ndarray, kernel: str, unbiased: bool) -> float:
    """`core/cka/cka_numpy.py` of thingsvision 2.7.3, written anew; sigma is the median distance."""

    def centred(features: np.ndarray) -> np.ndarray:
        k = features @ features.T
        if kernel == "rbf":
            k = np.diag(k) - k + (np.diag(k) - k).T
            k = np.exp(k * -0.5 / np.median(k[k != 0]))
        n = len(k)
        if not unbiased:
            h = np.eye(n) - 1 / n
            return h @ k @ h
        np.fill_diagonal(k, 0)
        means = k.sum(axis=0) / (n - 2)
        means -= means.sum() / (2 * (n - 1))
        k = k - means[:, None] - means[None]
        np.fill_diagonal(k, 0)
        return k

    k, other = centred(x), centred(y)
    return (k * other).sum() / np.sqrt((k * k).sum() * (other * other).sum())


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_thingsvision_gives_the_same_cka(kernel, unbiased, rng):
    x = rng.standard_normal((30, 50))
    y = x @ rng.standard_normal((50, 20)) + rng.standard_normal((30, 20))
    method = "cka" if kernel == "linear" else "cka-rbf"
    found = kernel_similarity(method, kernel_of(x), kernel_of(y), debiased=unbiased)
    # Its median is over both triangles at once, which is the same but for an even number's middle.
    assert found == pytest.approx(thingsvision_cka(x, y, kernel, unbiased), rel=1e-6)


def test_biased_linear_cka_is_the_whitened_cosine_of_squared_distances(rng):
    x, y = rng.standard_normal((15, 8)), rng.standard_normal((15, 5))
    squared = [((z[:, None] - z) ** 2).sum(axis=2)[np.triu_indices(15, 1)][None] for z in (x, y)]
    expected = similarities("cosine-cov", *squared)[0, 0]
    found = kernel_similarity("cka", kernel_of(x), kernel_of(y), debiased=False)
    assert found == pytest.approx(expected, rel=1e-9)


def test_gaussian_kernel_is_as_wide_as_the_median_distance(rng):
    x = rng.standard_normal((11, 4))
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    median = np.median(distances[np.triu_indices(11, 1)])
    np.testing.assert_allclose(rbf(kernel_of(x)), np.exp(-(distances**2) / (2 * median**2)))


def test_procrustes_is_that_of_scipy_and_of_rsatoolbox(rng):
    x = rng.standard_normal((12, 6))
    y = x @ rng.standard_normal((6, 6)) + 0.3 * rng.standard_normal((12, 6))
    found = kernel_similarity("procrustes", kernel_of(x), kernel_of(y))
    assert found == pytest.approx(np.sqrt(1 - procrustes(x, y)[2]), rel=1e-8)
    squared = [((z[:, None] - z) ** 2).sum(axis=2)[np.triu_indices(12, 1)][None] for z in (x, y)]
    assert found == pytest.approx(rsatoolbox.rdm.compare(*map(rdms, squared), "bures")[0, 0])


@pytest.mark.parametrize("method", ["cka", "cka-rbf", "procrustes"])
def test_features_are_wholly_like_themselves_turned(method, rng):
    x = rng.standard_normal((20, 7))
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    found = kernel_similarity(method, kernel_of(x), kernel_of(3 * x @ turn + 1))
    assert found == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("method", ["cka", "cka-rbf", "procrustes"])
def test_features_that_do_not_vary_are_like_nothing(method, rng):
    assert np.isnan(kernel_similarity(method, np.zeros((6, 6)), kernel_of(rng.random((6, 3)))))


def test_debiased_cka_does_not_grow_with_features(rng):
    x, y = rng.standard_normal((2, 20, 5000))
    assert abs(kernel_similarity("cka", kernel_of(x), kernel_of(y))) < 0.1
    assert kernel_similarity("cka", kernel_of(x), kernel_of(y), debiased=False) > 0.9
    assert np.isnan(kernel_similarity("cka", kernel_of(x[:3]), kernel_of(y[:3])))


# --- repeated images -----------------------------------------------------------------------------


def counts_of(draws: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(draw, minlength=draws.shape[1]) for draw in draws])


@pytest.mark.parametrize("method", OF_RDMS)
def test_without_repeats_samples_are_the_whole(method):
    a, b = stacks(1, 12)
    found = resampled(method, a, b, np.ones((2, 12), np.int64))
    expected = similarities(method, a, b)
    np.testing.assert_allclose(found, [expected, expected], atol=1e-12)


@pytest.mark.parametrize("method", OF_RDMS)
@pytest.mark.parametrize("n", [5, 17])
def test_samples_are_those_of_rsatoolbox(method, n, rng):
    """Its own subsampling, in which repeats of an image are NaN to each other."""
    a, b = stacks(2, n)
    draws = rng.integers(0, n, (30, n))
    found = resampled(method, a, b, counts_of(draws))
    for draw, ours in zip(draws, found, strict=True):
        if len(np.unique(draw)) < 3:
            continue
        samples = [rdms(stack).subsample_pattern("index", draw) for stack in (a, b)]
        theirs = rsatoolbox.rdm.compare(*samples, COMPARATORS[method].rsatoolbox)
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("method", OF_RDMS)
def test_samples_without_two_different_pairs_have_no_similarity(method):
    a, b = stacks(3, 4)
    counts = np.array([[4, 0, 0, 0]])
    assert np.isnan(resampled(method, a, b, counts)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 400),
    digits=st.integers(0, 3),
    heaviest=st.integers(1, 9),
)
@example(seed=0, size=150, digits=1, heaviest=200)  # beyond the whole numbers of float32
def test_tau_a_in_blocks_is_tau_a_of_the_repeated_entries(seed, size, digits, heaviest):
    rng = np.random.default_rng(seed)
    a = np.round(rng.standard_normal((2, size)), digits)
    b = np.round(a[:1] + rng.standard_normal((3, size)), digits)
    weights = rng.integers(0, heaviest + 1, (4, size)).astype(float)
    found = resampled_tau_a(a, b, weights)
    for d, weight in enumerate(weights.astype(int)):
        if weight.sum() < 2:
            assert np.isnan(found[d]).all()
            continue
        x, y = np.repeat(a, weight, axis=1), np.repeat(b, weight, axis=1)
        np.testing.assert_allclose(found[d], similarities("tau-a", x, y), atol=1e-12)


def test_large_rdms_are_sorted_sample_by_sample(rng, monkeypatch):
    a, b = rng.random((1, 300)), rng.random((2, 300))
    weights = rng.integers(0, 3, (3, 300)).astype(float)
    expected = resampled_tau_a(a, b, weights)
    monkeypatch.setattr("resmem_extract.compare.kendall._BLOCKS_WORTHWHILE", 10)
    np.testing.assert_allclose(resampled_tau_a(a, b, weights), expected, atol=1e-12)


# --- noise ceilings ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF_RDMS)
@pytest.mark.parametrize("n_subjects", [2, 5])
def test_noise_ceiling_is_that_of_rsatoolbox(method, n_subjects):
    subjects = stacks(4, 14, b=n_subjects)[1]
    theirs = quietly(boot_noise_ceiling, rdms(subjects), COMPARATORS[method].rsatoolbox)
    np.testing.assert_allclose(ceiling(method, subjects), theirs, atol=1e-8)


def test_one_subject_has_no_noise_ceiling():
    assert np.isnan(ceiling("spearman", stacks(5, 9, b=1)[1])).all()


@pytest.mark.parametrize("method", OF_RDMS)
def test_noise_ceilings_of_samples_are_those_of_rsatoolbox(method, rng):
    n, n_subjects = 9, 3
    subjects = stacks(6, n, b=n_subjects)[1]
    draws, subject_draws = rng.integers(0, n, (25, n)), rng.integers(0, n_subjects, (25, 3))
    subject_draws[0] = 1
    found = resampled_ceilings(method, subjects, counts_of(draws), counts_of(subject_draws))
    for draw, subject_draw, ours in zip(draws, subject_draws, found, strict=True):
        sample = rdms(subjects).subsample("index", subject_draw)
        sample = sample.subsample_pattern("index", draw)
        theirs = quietly(boot_noise_ceiling, sample, COMPARATORS[method].rsatoolbox)
        np.testing.assert_allclose(ours, theirs, atol=1e-8)
