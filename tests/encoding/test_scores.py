"""Scores and noise ceilings against SciPy, scikit-learn, himalaya and known noise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import r2_score

from resmem_extract.encoding import (
    ceiling_of_ncsnr,
    correlation,
    ncsnr,
    partition_variance,
    product_measure,
    r_squared,
    split_half,
)
from resmem_extract.errors import RequestError


def test_scores_are_those_of_scipy_and_scikit_learn(rng):
    y, f = rng.standard_normal((2, 40, 6)) + 1e3
    expected = [scipy.stats.pearsonr(y[:, k], f[:, k])[0] for k in range(6)]
    np.testing.assert_allclose(correlation(y, f), expected, atol=1e-10)
    np.testing.assert_allclose(r_squared(y, f), r2_score(y, f, multioutput="raw_values"))


def test_what_does_not_vary_has_no_score(rng):
    y = np.full((20, 1), 0.1)
    f = rng.standard_normal((20, 1))
    assert np.isnan(correlation(y, f)).all()
    assert np.isnan(correlation(f, y)).all()
    assert np.isnan(r_squared(y, f)).all()


def measured(rng, signal: float, n: int = 4000, repeats: int = 4):
    """Return trials of targets whose ncsnr is `signal`, the images, and the true signal."""
    true = rng.standard_normal((n, 1)) * signal
    trials = true[None] + rng.standard_normal((repeats, n, 1))
    return trials.reshape(-1, 1), np.tile(np.arange(n), repeats), true


@pytest.mark.parametrize("signal", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_both_ceilings_are_the_correlation_of_truth_with_the_mean(rng, signal, repeats):
    trials, images, true = measured(rng, signal, repeats=repeats)
    means = trials.reshape(repeats, -1).mean(axis=0)
    reached = np.corrcoef(true[:, 0], means)[0, 1]
    analytic = np.sqrt(signal**2 / (signal**2 + 1 / repeats))
    assert reached == pytest.approx(analytic, abs=0.03)
    assert ncsnr(trials, images)[0] == pytest.approx(signal, abs=0.06)
    assert ceiling_of_ncsnr(ncsnr(trials, images), repeats)[0] == pytest.approx(reached, abs=0.04)
    if repeats % 2 == 0:
        assert split_half(trials, images, splits=10)[0] == pytest.approx(reached, abs=0.04)


def test_noise_has_no_ceiling_and_images_measured_once_are_left_out(rng):
    trials, images, _ = measured(rng, 1.0, n=50)
    more = np.concatenate([trials, rng.standard_normal((10, 1)) * 99])
    numbers = np.concatenate([images, np.arange(100, 110)])
    np.testing.assert_allclose(ncsnr(more, numbers), ncsnr(trials, images))
    np.testing.assert_allclose(split_half(more, numbers), split_half(trials, images))
    opposed = np.array([[1.0], [2.0], [3.0], [3.0], [2.0], [1.0]])
    assert np.isnan(split_half(opposed, [0, 1, 2, 0, 1, 2], splits=1)).all()
    with pytest.raises(RequestError, match="3 images that were measured repeatedly, got 1 image"):
        ncsnr(np.zeros((4, 1)), [0, 0, 1, 2])


def test_shares_of_bands_are_those_of_himalaya(rng):
    pytest.importorskip("himalaya")
    from himalaya.scoring import r2_score_split

    bands = rng.standard_normal((3, 30, 5))
    y = bands.sum(axis=0) + rng.standard_normal((30, 5))
    ours = product_measure(y, bands, np.zeros(5))
    np.testing.assert_allclose(ours.sum(axis=0), r_squared(y, bands.sum(axis=0)))
    about_mean = y - y.mean(axis=0)
    np.testing.assert_allclose(
        product_measure(about_mean, bands, np.zeros(5)), r2_score_split(about_mean, bands)
    )


def test_partition_of_orthogonal_and_of_equal_predictions(rng):
    a, b = rng.standard_normal((2, 3000, 4))
    y = a + b + rng.standard_normal((3000, 4))
    folds = [np.arange(k, 3000, 3) for k in range(3)]
    apart = partition_variance(y, [a, b, a + b], folds, samples=200)
    np.testing.assert_allclose(apart.unique_a, 1 / 3, atol=0.06)
    np.testing.assert_allclose(apart.shared, 0, atol=0.06)
    np.testing.assert_allclose(apart.unique_a + apart.unique_b + apart.shared, apart.r2_both)
    low, high = apart.intervals["unique_a"].T
    assert (low < apart.unique_a).all() and (apart.unique_a < high).all()
    same = partition_variance(y, [a, a, a], folds, samples=50)
    np.testing.assert_allclose(same.unique_a, 0, atol=1e-12)
    np.testing.assert_allclose(same.shared, same.r2_a)
