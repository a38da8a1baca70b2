"""RDMs, their correlation and CKA beside thingsvision's own; needs `make thingsvision-env`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("thingsvision.core.rsa", reason="needs make thingsvision-env")

from thingsvision.core.cka import get_cka
from thingsvision.core.rsa import compute_rdm, correlate_rdms

import resmem_extract as rx

IDS = [str(k) for k in range(31)]


@pytest.fixture
def features(rng) -> list[np.ndarray]:
    """Two layers of as many images as thingsvision's median has no middle for; behind a ReLU."""
    x = rng.standard_normal((31, 50))
    y = x @ rng.standard_normal((50, 400)) + 3 * rng.standard_normal((31, 400))
    return [np.maximum(x, 0) + 1, np.maximum(y, 0)]


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_rdms_and_their_correlations_are_theirs(metric, features):
    theirs = [compute_rdm(x, metric) for x in features]
    ours = [rx.rsa.rdm(x, metric, ids=IDS) for x in features]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.square(), other, rtol=1e-6, atol=1e-6 * other.max())
    for method in ("pearson", "spearman"):
        expected = correlate_rdms(*theirs, correlation=method)
        assert rx.rsa.compare(*ours, method).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("method", "kernel"), [("cka", "linear"), ("cka-rbf", "rbf")])
def test_cka_is_theirs_unbiased(backend, method, kernel, features):
    """Theirs with ``sigma=None``: the median distance, as ours."""
    options = {"m": 31, "kernel": kernel, "unbiased": True, "sigma": None}
    if backend == "torch":
        import torch

        cka = get_cka(backend="torch", device="cpu", **options)
        sides = [torch.from_numpy(x) for x in features]
    else:
        cka = get_cka(backend="numpy", **options)
        sides = features
    expected = float(cka.compare(X=sides[0], Y=sides[1]))
    kernels = [rx.rsa.kernel(x, ids=IDS) for x in features]
    assert rx.rsa.compare(*kernels, method).value == pytest.approx(expected, rel=1e-6)
