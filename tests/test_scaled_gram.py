"""Inner products of scaled features against the definition, streamed and in parts."""

from __future__ import annotations

import numpy as np
import pytest

from resmem_extract.errors import RequestError
from resmem_extract.gram import scaled_grams

pytestmark = pytest.mark.usefixtures("_products_are_as_narrow_as_activations")

N = 40


def centred(products: np.ndarray) -> np.ndarray:
    """What does not depend on the constants taken off the features."""
    p = np.eye(len(products)) - 1 / len(products)
    return p @ products @ p


@pytest.mark.parametrize("memory", ["2GB", "200kB"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_the_definition(rng, memory, dtype):
    x = (rng.standard_normal((N, 300, 2)) * 3 + 7).astype(dtype)
    groups = [np.arange(30), np.array([3, 3, 5, 8, 13, 21, 34])]
    found = scaled_grams(x, groups, memory=memory)
    wide = x.reshape(N, -1).astype(np.float64)
    for group, products in zip(groups, found, strict=True):
        z = (wide - wide[group].mean(axis=0)) / wide[group].std(axis=0)
        expected = centred(z @ z.T)
        tolerance = 3e-6 if dtype == np.float32 else 1e-12
        deviation = np.abs(centred(products) - expected).max() / np.abs(expected).max()
        assert deviation < tolerance


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 12345.678])
def test_features_that_do_not_vary_in_the_group_are_left_out(rng, value):
    x = rng.standard_normal((N, 50)).astype(np.float32)
    without = scaled_grams(x, [np.arange(30)])[0]
    x = np.concatenate([x, np.full((N, 1), value, np.float32)], axis=1)
    x[35, -1] += 5  # varies elsewhere
    np.testing.assert_allclose(scaled_grams(x, [np.arange(30)])[0], without, atol=1e-3)


def test_images_with_nan_are_named(rng):
    x = rng.standard_normal((N, 50))
    x[3, 4] = np.nan
    with pytest.raises(RequestError, match=r"f: NaN or infinite activations of 1 image \(im3\)"):
        scaled_grams(x, [np.arange(9)], name="f", ids=[f"im{k}" for k in range(N)])
