"""A sample of pairs: the same numbers as all pairs have, and an honest standard error."""

from __future__ import annotations

import numpy as np
import pytest

from resmem_extract.compare import METRICS, RDM, compare, noise_ceiling, rdm
from resmem_extract.compare.sampled import MIN_PAIRS, PairSample, sampled_similarity
from resmem_extract.compare.sampled_table import SampledEntity, compare_all_sampled
from resmem_extract.errors import RequestError

N = 150
IDS = tuple(f"{k:03d}.jpg" for k in range(N))
METHODS = ("pearson", "spearman", "tau-a", "rho-a", "cosine")


@pytest.fixture
def features(rng) -> np.ndarray:
    """As behind a ReLU, with a mean that is large beside their spread."""
    x = np.maximum(rng.standard_normal((N, 6, 7, 5)), 0) + 30
    return x.astype(np.float32)


@pytest.fixture
def sides(rng) -> tuple[RDM, RDM]:
    """A module, and two subjects that resemble it."""
    x = rng.standard_normal((N, 8))
    model = rdm(x + rng.standard_normal(x.shape), ids=IDS, name="net:fc")
    own = [rdm(x + rng.standard_normal(x.shape)).dissimilarities for _ in range(2)]
    return model, RDM(np.round(own, 2), IDS, "correlation", "IT")


def test_pairs_are_of_different_images_and_of_all_of_them():
    pairs = PairSample.draw(IDS, 10_000, seed=3)
    assert (pairs.first != pairs.second).all()
    ordered = np.bincount(pairs.first * N + pairs.second, minlength=N * N)
    # Each of N (N - 1) ordered pairs as likely: chi-squared of as many degrees of freedom.
    expected = 10_000 / (N * (N - 1))
    free = ordered[np.flatnonzero(~np.eye(N, dtype=bool))]
    chi2 = ((free - expected) ** 2 / expected).sum()
    assert abs(chi2 - len(free)) < 5 * np.sqrt(2 * len(free))
    again = PairSample.draw(IDS, 10_000, seed=3)
    np.testing.assert_array_equal(pairs.second, again.second)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("memory", ["2GB", "30kB"])
def test_dissimilarities_are_those_of_the_rdm(metric, memory, features):
    pairs = PairSample.draw(IDS[:120:-1] + IDS[:121], MIN_PAIRS, seed=1)
    found = pairs.dissimilarities(features, metric, ids=IDS, memory=memory)
    whole = rdm(features.astype(np.float64), metric, ids=IDS)
    expected = pairs.of_rdm(whole)[0]
    assert np.abs(found - expected).max() < 1e-9 * expected.max()
    places = [IDS.index(pairs.ids[k]) for k in (pairs.first[7], pairs.second[7])]
    assert expected[7] == whole.square()[tuple(places)]


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_error_is_that_of_repeated_samples(method, sides):
    model, subjects = sides
    truth = compare(model, subjects, method).value
    found = [
        sampled_similarity(*map(PairSample.draw(IDS, MIN_PAIRS, seed).of_rdm, sides), method)
        for seed in range(40)
    ]
    values = np.array([one.value for one in found])
    errors = np.array([one.standard_error for one in found])
    spread = values.std(ddof=1)
    # The spread of 40 values is itself known to within an eighth.
    assert 0.65 < spread / errors.mean() < 1.5
    assert abs(values.mean() - truth) < 4 * spread / np.sqrt(40)


def test_a_table_of_models_and_references(sides, rng):
    pairs = PairSample.draw(IDS, MIN_PAIRS, seed=0)
    other = rdm(rng.standard_normal((N, 9)), ids=IDS)
    made = [
        SampledEntity(name, {"correlation": pairs.of_rdm(side)})
        for name, side in zip(("net:fc", "net:x", "IT"), (sides[0], other, sides[1]), strict=True)
    ]
    table = compare_all_sampled(made[:2], made[2:], ["correlation"], ["spearman"], pairs)
    assert [(row.a, row.b) for row in table.rows] == [
        ("net:fc", "IT"),
        ("net:x", "IT"),
        ("net:fc", "net:x"),
    ]
    for row, sampled in zip(table.rows, table.sampled, strict=True):
        assert (row.value, row.n_images) == (sampled.value, N)
        assert sampled.n_pairs == MIN_PAIRS
        assert np.isnan([row.ci_low, row.p]).all()
    truth = compare(*sides).value
    assert abs(table.rows[0].value - truth) < 4 * table.sampled[0].standard_error
    ceiling = noise_ceiling(sides[1])
    assert table.rows[0].ceiling_low == pytest.approx(ceiling.lower, abs=0.05)
    assert table.rows[0].ceiling_high == pytest.approx(ceiling.upper, abs=0.05)
    assert np.isnan(table.rows[2].ceiling_low)


def test_what_cannot_be_sampled_is_refused(features, sides):
    with pytest.raises(RequestError, match="150 images have 11175; compare them all, by rx"):
        PairSample.draw(IDS, 11_175)
    with pytest.raises(RequestError, match="10 pairs: expected 5000 at least, and fewer"):
        PairSample.draw(IDS, 10)
    with pytest.raises(RequestError, match="10 pairs: 100 images have 4950; compare them all"):
        PairSample.draw(IDS[:100], 10)
    with pytest.raises(RequestError, match="corr-cov needs all pairs"):
        sampled_similarity(np.ones(MIN_PAIRS), np.ones(MIN_PAIRS), "corr-cov")
    pairs = PairSample.draw(IDS, MIN_PAIRS)
    with pytest.raises(RequestError, match=r"fc has no image '149\.jpg'"):
        pairs.dissimilarities(features[:-1], ids=IDS[:-1], name="fc")
    with pytest.raises(RequestError, match="fc has no ids of images"):
        pairs.dissimilarities(features, name="fc")
    with pytest.raises(RequestError, match="fc has one unit"):
        pairs.dissimilarities(features[:, :1, 0, 0], ids=IDS, name="fc")
    with pytest.raises(RequestError, match="does not fit into 1kB"):
        pairs.dissimilarities(features, ids=IDS, name="fc", memory="1kB")
    features[5] = features[5, 0, 0, 0]
    features[9] = 0
    with pytest.raises(RequestError, match=r"of 2 images are constant \(005.jpg, 009.jpg\)"):
        pairs.dissimilarities(features, ids=IDS, name="fc")
    with pytest.raises(RequestError, match=r"of 1 image are zero \(009.jpg\)"):
        pairs.dissimilarities(features, "cosine", ids=IDS, name="fc")
    features[7, 0, 0, 0] = np.nan
    with pytest.raises(RequestError, match=r"NaN or infinite activations of 1 image \(007.jpg\)"):
        pairs.dissimilarities(features, ids=IDS, name="fc")
