"""RDMs of activations against SciPy in float64, rsatoolbox and thingsvision's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import rsatoolbox
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from resmem_extract.compare import METRICS, compare, kernel, rdm, rdms
from resmem_extract.compare.build import read_once
from resmem_extract.errors import RequestError
from resmem_extract.store import StoreWriter, open_store
from resmem_extract.types import ActivationSpec

pytestmark = pytest.mark.usefixtures("_products_are_as_narrow_as_activations")

IDS = [f"{k:02d}.jpg" for k in range(100)]


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def layers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return float32 features that are each awkward in a way that real layers are."""
    n, p = 30, 3000
    noise = rng.standard_normal((n, p))
    mean = rng.standard_normal(p)
    return {
        "centred": noise,
        "behind a ReLU": np.maximum(noise + mean, 0),
        "with an offset": noise + 1000,
        "about a strong mean pattern": noise + 300 * mean,
        "of very different strength": noise * np.logspace(-4, 4, n)[:, None],
        "of different strength and offset": (noise + 20 * mean) * np.logspace(-2, 2, n)[:, None],
        "each with an offset": noise + 500 * rng.standard_normal((n, 1)),
        "blank at first": np.concatenate([np.zeros((n, p)), np.maximum(noise, 0)], axis=1),
        "nearly alike": mean + 1e-3 * noise,
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", layers(np.random.default_rng(0)))
def test_float32_features_give_what_float64_gives(kind, metric, rng):
    features = layers(rng)[kind].astype(np.float32)
    expected = pdist(features.astype(np.float64), metric)
    found = rdm(features, metric)
    assert found.dissimilarities.dtype == np.float64
    assert deviation(found.dissimilarities, expected) < 1e-6


def test_a_layer_of_few_units_beside_a_wide_one_under_procrustes(rng):
    narrow, wide = rng.standard_normal((40, 1)), np.maximum(rng.standard_normal((40, 3000)), 0)
    x, y = (z - z.mean(axis=0) for z in (narrow, wide))
    exact = np.linalg.norm(x.T @ y) / (np.linalg.norm(x) * np.linalg.norm(y))  # of one unit
    sides = (kernel(z.astype(np.float32), ids=IDS[:40]) for z in (narrow, wide))
    assert compare(*sides, "procrustes").value == pytest.approx(exact, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(3, 12),
    p=st.integers(3, 40),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    metric=st.sampled_from(list(METRICS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_features_give_what_scipy_gives(n, p, offset, spread, dtype, metric, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, p)) * 10 ** rng.uniform(-spread, spread, (n, 1)) + offset
    features = features.astype(dtype)
    expected = pdist(features.astype(np.float64), metric)
    assert deviation(rdm(features, metric).dissimilarities, expected) < 1e-6


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_the_same_image_twice_has_no_distance(metric, rng):
    features = (rng.random((20, 5000)) * 10).astype(np.float32)
    features[7] = features[3]
    features[11] = features[12] * np.float32(1 + 1e-5)
    expected = pdist(features.astype(np.float64), metric)
    found = rdm(features, metric)
    assert deviation(found.dissimilarities, expected) < 1e-6
    assert found.square()[3, 7] < 1e-6
    assert found.square()[11, 12] == pytest.approx(squareform(expected)[11, 12], rel=1e-5)


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_rsatoolbox_gives_the_same_by_the_documented_conversion(metric, rng):
    features = np.maximum(rng.standard_normal((25, 700)) + 1, 0)
    theirs = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(features), method=metric)
    ours = rdm(features, metric).dissimilarities
    converted = ours if metric == "correlation" else ours**2 / features.shape[1]
    assert deviation(converted, theirs.get_vectors()[0]) < 1e-6


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_thingsvision_formulas_give_the_same(metric, rng):
    """The formulas of thingsvision 2.7.3, `core/rsa/helpers.py`, written anew."""
    x = np.maximum(rng.standard_normal((25, 700)) + 1, 0)
    if metric == "euclidean":
        theirs = squareform(pdist(x, "euclidean"))
    else:
        centred = x - x.mean(axis=1, keepdims=True) if metric == "correlation" else x
        norms = np.linalg.norm(centred, axis=1)
        theirs = 1 - (centred @ centred.T / np.outer(norms, norms)).clip(-1, 1)
    assert deviation(rdm(x, metric).square(), theirs) < 1e-6


def test_one_reading_gives_all_metrics_and_the_kernel(rng):
    features = rng.random((10, 60)).astype(np.float32)
    made, linear = read_once(features, list(METRICS), with_kernel=True, ids=IDS[:10], name="fc")
    for metric in METRICS:
        alone = rdm(features, metric)
        np.testing.assert_array_equal(made[metric].dissimilarities, alone.dissimilarities)
        assert (made[metric].ids, made[metric].name) == (tuple(IDS[:10]), "fc")
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(linear.matrix, centred @ centred.T, atol=1e-5)
    np.testing.assert_array_equal(kernel(features).matrix, linear.matrix)


# --- from a store --------------------------------------------------------------------------------


@pytest.fixture
def store_path(tmp_path, rng):
    """Forty images, two modules, and one unit; chunks are smaller than a block."""
    specs = [
        ActivationSpec("conv", "conv", (64, 40, 40), ("image", "channel", "height", "width")),
        ActivationSpec("fc", "fc", (300,), ("image", "unit")),
        ActivationSpec("output", "output", (1,), ("image", "unit")),
    ]
    arrays = {s.path: rng.random((40, *s.shape), dtype=np.float32) + 1 for s in specs}
    with StoreWriter(tmp_path / "f.h5", specs, 40) as writer:
        writer.append(IDS[:40], ["0" * 64] * 40, arrays)
        writer.finish(provenance={"model": "small"})
    return tmp_path / "f.h5", arrays


@pytest.mark.parametrize("memory", ["2GB", "8MB"])
def test_a_module_of_a_store_is_read_in_blocks(store_path, memory):
    path, arrays = store_path
    with open_store(path) as store:
        found = rdm(store["conv"], "correlation", memory=memory)
    expected = pdist(arrays["conv"].reshape(40, -1).astype(np.float64), "correlation")
    assert deviation(found.dissimilarities, expected) < 1e-6
    assert found.ids == tuple(IDS[:40])
    assert found.name == "conv"


def test_all_modules_of_a_store(store_path):
    path, arrays = store_path
    with open_store(path) as store:
        found = rdms(store, "euclidean")
    assert list(found) == ["conv", "fc", "output"]
    for module, made in found.items():
        expected = pdist(arrays[module].reshape(40, -1).astype(np.float64), "euclidean")
        assert deviation(made.dissimilarities, expected) < 1e-6
        assert (made.name, made.metric) == (module, "euclidean")


# --- what is refused -----------------------------------------------------------------------------


def test_one_unit_under_correlation_is_refused(store_path):
    path, _ = store_path
    with open_store(path) as store, pytest.raises(RequestError) as caught:
        rdm(store["output"], "correlation")
    assert str(caught.value) == (
        "output has one unit, and patterns of one number have no correlation; "
        "use --metric euclidean, or choose other modules with --module"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_constant_patterns_are_refused_with_the_images(dtype, level, rng):
    features = (rng.random((12, 5000)) + level).astype(dtype)
    features[3] = level
    features[8] = features[8, 0]
    with pytest.raises(RequestError) as caught:
        rdm(features, "correlation", ids=IDS[:12], name="features.bn1")
    assert str(caught.value) == (
        "features.bn1: all activations of 2 images are constant (03.jpg, 08.jpg), which has no "
        "correlation; leave these images out, or use --metric euclidean"
    )
    assert rdm(features, "euclidean").n_images == 12


def test_zero_patterns_are_refused_under_cosine(rng):
    features = rng.random((6, 50))
    features[1] = 0
    with pytest.raises(RequestError, match=r"activations of 1 image are zero \(01.jpg\)"):
        rdm(features, "cosine", ids=IDS[:6])
    features[1] = 5  # constant is a direction
    assert deviation(rdm(features, "cosine").dissimilarities, pdist(features, "cosine")) < 1e-6


def test_nothing_but_constant_patterns_is_refused():
    with pytest.raises(RequestError, match="all activations of 4 images are constant"):
        rdm(np.full((4, 9), 2.5, np.float32))


def test_faint_patterns_are_not_taken_for_constant(rng):
    """Blank where the first block lies, and weak after it: no factor was found for them."""
    features = rng.random((9, 40_000)).astype(np.float32)
    features[4, :39_000] = 0
    features[4, 39_000:] *= 1e-4
    expected = pdist(features.astype(np.float64), "correlation")
    assert deviation(rdm(features, "correlation").dissimilarities, expected) < 1e-6


def test_nan_is_refused_with_layer_and_image(rng):
    features = rng.random((5, 30)).astype(np.float32)
    features[2, 3] = np.nan
    with pytest.raises(RequestError, match=r"fc: NaN or infinite .* 1 image \(02.jpg\)"):
        rdm(features, "euclidean", ids=IDS[:5], name="fc")


def test_unknown_metric_is_refused(rng):
    with pytest.raises(RequestError, match="'corelation' is not known; did you mean correlation"):
        rdm(rng.random((5, 30)), "corelation")


def test_no_image_is_there_twice(rng):
    for make in (rdm, kernel):
        with pytest.raises(RequestError, match="the image id 'b' is there twice"):
            make(rng.random((4, 9)), ids=["a", "b", "b", "c"])


def test_ids_have_to_fit(rng):
    with pytest.raises(RequestError, match="features: 4 ids for 5 images"):
        rdm(rng.random((5, 30)), ids=IDS[:4])
