"""Bootstrap, permutations and joining: against rsatoolbox on the same draws, and closed forms."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import rsatoolbox
import scipy.stats
from rsatoolbox.inference import (
    eval_bootstrap,
    eval_bootstrap_pattern,
    eval_bootstrap_rdm,
    eval_dual_bootstrap,
    evaluate,
)
from rsatoolbox.util.inference_util import t_tests

from resmem_extract.compare import (
    COMPARATORS,
    RDM,
    Draws,
    Kernel,
    bootstrap,
    bootstrap_pairs,
    compare,
    false_discovery_rate,
    kernel,
    noise_ceiling,
    permutation_test,
    permutation_tests_of_pairs,
    to_rsatoolbox,
)
from resmem_extract.compare.kernel_resampling import resampled_cka
from resmem_extract.errors import RequestError

OF_RDMS = [name for name, entry in COMPARATORS.items() if entry.of == "rdms"]
DRAWING = ("bootstrap_sample", "bootstrap_sample_pattern", "bootstrap_sample_rdm")
N, SUBJECTS, SAMPLES = 11, 4, 25
IDS = tuple(f"{k:02d}.png" for k in range(N))


def models_and_reference(seed: int = 0, subjects: int = SUBJECTS) -> tuple[list[RDM], RDM]:
    rng = np.random.default_rng(seed)
    common = rng.random(N * (N - 1) // 2)
    models = [
        RDM(common + noise * rng.random(len(common)), IDS, "correlation", f"m{k}")
        for k, noise in enumerate((0.5, 1, 4))
    ]
    values = common + rng.random((subjects, len(common)))
    return models, RDM(values if subjects > 1 else values[0], IDS, "correlation", "it")


class Theirs:
    """rsatoolbox's bootstrap, and the draws that it made."""

    def __init__(self, function, models, reference, method) -> None:
        fixed = [rsatoolbox.model.ModelFixed(m.name, to_rsatoolbox(m)) for m in models]
        originals = {name: getattr(evaluate, name) for name in DRAWING}
        images, subjects = [], []

        def recording(draw):
            def drawn(*arguments, **keywords):
                sample, *drawn = draw(*arguments, **keywords)
                of_images = draw is not originals["bootstrap_sample_rdm"]
                images.append(drawn[-1] if of_images else np.arange(N))
                of_subjects = draw is not originals["bootstrap_sample_pattern"]
                subjects.append(drawn[0] if of_subjects else np.arange(SUBJECTS))
                return (sample, *drawn)

            return drawn

        np.random.seed(7)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # empty samples, and that tau's ceiling is of ranks
            for name in DRAWING:
                patch.setattr(evaluate, name, recording(originals[name]))
            data = to_rsatoolbox(reference)
            self.result = function(fixed, data, method=COMPARATORS[method].rsatoolbox, N=SAMPLES)
        self.draws = Draws(np.array(images), np.array(subjects))


CASES = [
    (eval_bootstrap, "both"),
    (eval_bootstrap_pattern, "images"),
    (eval_bootstrap_rdm, "subjects"),
]


@pytest.mark.parametrize(("function", "over"), CASES, ids=[over for _, over in CASES])
@pytest.mark.parametrize("method", OF_RDMS)
def test_samples_and_ceilings_are_those_of_rsatoolbox_on_the_same_draws(method, function, over):
    models, reference = models_and_reference()
    theirs = Theirs(function, models, reference, method)
    ours = bootstrap(models, reference, method, over=over, draws=theirs.draws, with_ceiling=True)
    np.testing.assert_allclose(ours.samples[0], theirs.result.evaluations, atol=1e-8)
    np.testing.assert_allclose(ours.ceilings.T, theirs.result.noise_ceiling, atol=1e-8)
    low, high = theirs.result.get_ci(0.8, test_type="bootstrap")
    # It adds infinite samples on both sides before it takes percentiles.
    framed = np.concatenate([[[-np.inf] * 3, [np.inf] * 3], ours.samples[0]])
    np.testing.assert_allclose(np.nanquantile(framed, [0.1, 0.9], axis=0), [low, high])


@pytest.mark.parametrize(("function", "over"), CASES[1:], ids=["images", "subjects"])
def test_variances_are_those_of_rsatoolbox_on_the_same_draws(function, over):
    models, reference = models_and_reference()
    theirs = Theirs(function, models, reference, "spearman")
    ours = bootstrap(models, reference, "spearman", over=over, draws=theirs.draws)
    np.testing.assert_allclose(ours.variances(), theirs.result.get_model_var(), rtol=1e-8)
    pairs = np.triu_indices(3, 1)
    np.testing.assert_allclose(
        ours.difference_variances()[pairs], theirs.result.diff_var, rtol=1e-8
    )
    assert ours.dof == theirs.result.dof


@pytest.mark.parametrize("method", ["spearman", "cosine"])
def test_corrected_variances_over_both_are_those_of_rsatoolbox(method):
    models, reference = models_and_reference(3)
    theirs = Theirs(eval_dual_bootstrap, models, reference, method)
    ours = bootstrap(models, reference, method, draws=theirs.draws)
    found = theirs.result.evaluations[:, :, 0, 0].transpose(2, 0, 1)  # both, subjects, images
    np.testing.assert_allclose(ours.samples, found, atol=1e-8)
    np.testing.assert_allclose(ours.variances(), theirs.result.get_model_var(), rtol=1e-6)
    pairs = np.triu_indices(3, 1)
    differences = ours.difference_variances()[pairs]
    np.testing.assert_allclose(differences, theirs.result.diff_var, rtol=1e-6)
    assert ours.dof == theirs.result.dof
    expected = t_tests(ours.values[None, :, None], theirs.result.diff_var, dof=ours.dof)
    np.testing.assert_allclose(ours.difference_tests(), expected, atol=1e-8)


def test_intervals_are_around_the_values():
    models, reference = models_and_reference()
    ours = bootstrap(models, reference, n=200, seed=1)
    low, high = ours.intervals(0.9).T
    np.testing.assert_allclose((low + high) / 2, ours.values)
    t = scipy.stats.t.ppf(0.95, SUBJECTS - 1)
    np.testing.assert_allclose(high - ours.values, t * np.sqrt(ours.variances()))
    expected = [compare(model, reference).value for model in models]
    np.testing.assert_allclose(ours.values, expected)


def test_a_seed_gives_the_same_samples_again():
    models, reference = models_and_reference()
    one, again, other = (bootstrap(models, reference, n=20, seed=s).samples for s in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_one_subject_is_resampled_over_images():
    models, reference = models_and_reference(subjects=1)
    ours = bootstrap(models, reference, n=50)
    assert (ours.over, ours.dof, ours.samples.shape) == ("images", N - 1, (1, 50, 3))
    with pytest.raises(RequestError, match="it is of 1 subject; use over='images'"):
        bootstrap(models, reference, over="both")


def test_too_few_images_are_not_resampled():
    models, reference = models_and_reference()
    few = [model.subset(IDS[:5]) for model in models]
    with pytest.raises(RequestError, match="bootstrap over 5 images: expected 6 at least"):
        bootstrap(few, reference)


# --- CKA -----------------------------------------------------------------------------------------


def hsic_over_different_images(k: np.ndarray, other: np.ndarray, draw: np.ndarray) -> float:
    """The mean over all ordered fours of different images of Song et al. (2012), literally."""
    pairs, triples, fours = [], [], []
    places = range(len(draw))
    for i, j in itertools.permutations(places, 2):
        if draw[i] != draw[j]:
            pairs.append(k[draw[i], draw[j]] * other[draw[i], draw[j]])
    for i, j, q in itertools.permutations(places, 3):
        if len({draw[i], draw[j], draw[q]}) == 3:
            triples.append(k[draw[i], draw[j]] * other[draw[i], draw[q]])
    for i, j, q, r in itertools.permutations(places, 4):
        if len({draw[i], draw[j], draw[q], draw[r]}) == 4:
            fours.append(k[draw[i], draw[j]] * other[draw[q], draw[r]])
    return float(np.mean(pairs) + np.mean(fours) - 2 * np.mean(triples))


def test_cka_of_samples_is_over_different_images(rng):
    x, y = rng.standard_normal((2, 8, 3))
    y += x
    k, other = x @ x.T, y @ y.T
    draws = rng.integers(0, 8, (4, 8))
    draws[0] = np.arange(8)
    counts = np.stack([np.bincount(draw, minlength=8) for draw in draws])
    found = resampled_cka("cka", [k], [other], counts)[:, 0, 0]
    for draw, value in zip(draws, found, strict=True):
        hsic = hsic_over_different_images
        squares = hsic(k, k, draw) * hsic(other, other, draw)
        assert value == pytest.approx(hsic(k, other, draw) / np.sqrt(squares), rel=1e-9)


@pytest.mark.parametrize("method", ["cka", "cka-rbf"])
def test_cka_is_bootstrapped(method, rng):
    x = rng.standard_normal((30, 40))
    ids = [str(k) for k in range(30)]
    sides = [
        kernel(x + noise * rng.standard_normal((30, 40)), ids=ids, name=str(noise))
        for noise in (0.1, 1.0, 30.0)
    ]
    ours = bootstrap(sides, kernel(x, ids=ids, name="x"), method, n=100)
    assert ours.values[0] > 0.95
    low, high = ours.intervals().T
    assert (low < ours.values).all()
    assert (high - low)[0] < 0.1
    assert low[2] < 0 < high[2]
    with pytest.raises(RequestError, match="procrustes has no bootstrap"):
        bootstrap(sides, sides[0], "procrustes")


# --- permutations --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF_RDMS)
def test_permutations_compare_with_relabelled_images(method, rng):
    models, reference = models_and_reference()
    orders = np.array([rng.permutation(N) for _ in range(6)])
    found = permutation_test(models, reference, method, orders=orders)
    for order, null in zip(orders, found.null, strict=True):
        moved = RDM.from_square(reference.square()[:, order][:, :, order], IDS, name="moved")
        expected = [compare(model, moved, method).value for model in models]
        np.testing.assert_allclose(null, expected, atol=1e-12)
    expected = [compare(model, reference, method).value for model in models]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)


@pytest.mark.parametrize("method", ["cka", "cka-rbf", "procrustes"])
def test_permutations_of_features(method, rng):
    x, y = rng.standard_normal((2, N, 5))
    left, right = kernel(x, ids=IDS), kernel(y, ids=IDS)
    orders = np.array([rng.permutation(N) for _ in range(4)])
    found = permutation_test([left], right, method, orders=orders)
    for order, null in zip(orders, found.null[:, 0], strict=True):
        moved = kernel(y[order], ids=IDS)
        assert null == pytest.approx(compare(left, moved, method).value, abs=1e-9)


@pytest.mark.parametrize("method", ["spearman", "corr-cov", "tau-a", "cka", "procrustes"])
def test_all_pairs_at_once_are_what_each_alone_is(method, rng):
    models, _ = models_and_reference()
    if COMPARATORS[method].of == "features":
        x = rng.standard_normal((N, 6))
        models = [kernel(x + k * rng.standard_normal((N, 6)), ids=IDS, name=str(k)) for k in (1, 2)]
    permuted = permutation_tests_of_pairs(models, method, n=5, seed=2)
    sampled = bootstrap_pairs(models, method, n=8, seed=2) if method != "procrustes" else None
    for j, reference in enumerate(models):
        alone = permutation_test(models, reference, method, n=5, seed=2)
        np.testing.assert_allclose(permuted.values[:, j], alone.values, atol=1e-12)
        np.testing.assert_allclose(permuted.null[:, :, j], alone.null, atol=1e-12)
        if sampled is not None:
            alone = bootstrap(models, reference, method, n=8, seed=2)
            np.testing.assert_allclose(sampled.values[:, j], alone.values, atol=1e-12)
            np.testing.assert_allclose(sampled.samples[0][:, :, j], alone.samples[0], atol=1e-12)
            np.testing.assert_allclose(sampled.intervals()[:, j], alone.intervals(), atol=1e-12)


def test_p_counts_the_true_order_and_is_one_sided():
    models, reference = models_and_reference()
    opposite = RDM(-models[0].dissimilarities, IDS, "", "opposite")
    p = permutation_test([models[0], opposite], reference, n=199, seed=3).p()
    assert p[0] == pytest.approx(1 / 200)
    assert p[1] == pytest.approx(1)


def test_p_is_uniform_where_there_is_nothing(rng):
    p = []
    for seed in range(120):
        a, b = np.random.default_rng(seed).random((2, N * (N - 1) // 2))
        pair = RDM(a, IDS, "", "a"), RDM(b, IDS, "", "b")
        p.append(permutation_test(pair[:1], pair[1], "pearson", n=99, seed=seed).p()[0])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_too_few_images_are_not_permuted():
    models, reference = models_and_reference()
    with pytest.raises(RequestError, match="permutations of 4 images: expected 5 at least"):
        permutation_test([models[0].subset(IDS[:4])], reference)


def test_false_discovery_rate_leaves_out_what_was_not_tested():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(false_discovery_rate(p), [0.03, np.nan, 0.04, 0.04])
    assert np.isnan(false_discovery_rate(np.array([np.nan]))).all()


# --- joining -------------------------------------------------------------------------------------


def test_sides_are_joined_by_id(rng):
    models, reference = models_and_reference()
    order = rng.permutation(N)
    moved = reference.subset([IDS[k] for k in order])
    assert compare(models[0], moved).value == pytest.approx(compare(models[0], reference).value)
    assert compare(models[0], moved).note is None
    assert float(compare(models[0], moved)) == compare(models[0], moved).value


def test_a_partial_overlap_is_told():
    models, reference = models_and_reference()
    part = reference.subset(IDS[3:])
    found = compare(models[0].subset(IDS[:8]), part)
    assert found.n_images == 5
    assert found.note == "m0 has 8 images, it has 8: compared on the 5 that both have"
    expected = compare(models[0].subset(IDS[3:8]), reference.subset(IDS[3:8]))
    assert found.value == expected.value


def test_positions_are_not_joined(rng):
    nameless = RDM(rng.random(N * (N - 1) // 2), None, "", "mine")
    with pytest.raises(RequestError, match="mine has no ids of images, and positions prove noth"):
        compare(models_and_reference()[1], nameless)


def test_nothing_in_common_is_refused():
    models, _ = models_and_reference()
    other = RDM(np.ones(3), ("a/00.png", "a/01.png", "02.png"), "", "other")
    with pytest.raises(RequestError, match="m0 and other have 1 image in common") as caught:
        compare(models[0], other)
    assert "m0 has '00.png' and other has 'a/00.png'" in str(caught.value)


def test_features_and_rdms_do_not_mix(rng):
    _, reference = models_and_reference()
    features = kernel(rng.random((N, 4)), ids=IDS, name="fc")
    with pytest.raises(RequestError, match="cka compares features, and it is an RDM"):
        compare(features, reference, "cka")
    with pytest.raises(RequestError, match="spearman compares RDMs, and fc is a kernel"):
        compare(features, reference, "spearman")


def test_why_there_is_no_value():
    equal = RDM(np.full(N * (N - 1) // 2, 0.5), IDS, "", "equal")
    found = compare(equal, models_and_reference()[1], "pearson")
    assert np.isnan(found.value)
    assert found.note == "no pearson with equal: all of its dissimilarities are equal"
    few = Kernel(np.eye(3) - 1 / 3, ("a", "b", "c"), "fc")
    assert compare(few, few, "cka").note == "no debiased cka of fewer than 4 images"


def test_noise_ceiling_takes_subjects():
    models, reference = models_and_reference()
    lower, upper = noise_ceiling(reference)
    assert 0 < lower < upper < 1
    assert np.isnan(noise_ceiling(models[0])).all()
