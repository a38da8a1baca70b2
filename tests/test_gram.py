"""Streamed inner products: equal to float64 closed forms, in blocks that suit memory and chunks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_extract.errors import RequestError
from resmem_extract.gram import blocks, column_blocks, grams, memory_in_bytes

pytestmark = pytest.mark.usefixtures("_products_are_as_narrow_as_activations")


class Recorder:
    """An array that remembers what was read of it."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...] | None = None) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.keys: list[tuple[slice, ...]] = []
        if chunks:
            self.chunks = chunks

    def __getitem__(self, key):
        self.keys.append(key)
        return self.array[key]


def test_plain_form_holds_products_about_the_mean(rng):
    x = (rng.random((12, 5, 7, 3)) + 3).astype(np.float32)
    found = grams(x)["plain"]
    flat = x.reshape(12, -1).astype(np.float64)
    z = flat - flat.mean(axis=0)
    assert found.products.dtype == np.float64
    assert found.n_features == 105
    np.testing.assert_allclose(found.products, z @ z.T, atol=2e-6 * np.abs(z @ z.T).max())


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_scaled_form_leads_back_to_products_of_scaled_patterns(offset, rng):
    x = rng.random((9, 400)) + offset
    found = grams(x, ["scaled"])["scaled"]
    y_y = found.products + found.cross + found.cross[:, None] + found.mean_square
    length = np.sqrt(np.diagonal(y_y))
    norm = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(y_y / np.outer(length, length), x @ x.T / np.outer(norm, norm))


def test_several_forms_cost_one_reading(rng):
    rows = Recorder(rng.random((6, 40)).astype(np.float32))
    found = grams(rows, ["plain", "scaled", "standardised"])
    assert list(found) == ["plain", "scaled", "standardised"]
    assert len(rows.keys) == 1
    for form in found:
        alone = grams(rows.array, [form])[form]
        np.testing.assert_array_equal(found[form].products, alone.products)


def test_blocks_and_steps_do_not_matter(rng, monkeypatch):
    x = (rng.random((20, 16, 5, 3)) * 10).astype(np.float32)
    whole = grams(x)["plain"].products
    monkeypatch.setattr(blocks, "_plan", lambda *_: (7, 31))
    rows = Recorder(x)
    pieces = grams(rows)["plain"].products
    assert len(rows.keys) == 8
    np.testing.assert_allclose(pieces, whole, atol=1e-6 * np.abs(whole).max())


def test_float16_is_multiplied_in_float32(rng):
    x = rng.random((7, 300)).astype(np.float16)
    expected = grams(x.astype(np.float32))["plain"].products
    np.testing.assert_array_equal(grams(x)["plain"].products, expected)


def test_few_are_multiplied_in_float64_by_themselves(rng, monkeypatch):
    x = (rng.random((20, 300)) + 50).astype(np.float32)
    narrow, exact = (grams(x, precision=p)["plain"].products for p in ("float32", "float64"))
    for limit, expected in ((20 * 20 * 300, exact), (20 * 20 * 300 - 1, narrow)):
        monkeypatch.setattr("resmem_extract.gram.arrays._CHEAP", limit)
        np.testing.assert_array_equal(grams(x)["plain"].products, expected)
    assert np.abs(narrow - exact).max() > 0


def test_whole_numbers_are_multiplied_in_float64(rng):
    x = rng.integers(-(2**20), 2**20, (5, 30))
    z = x - x.mean(axis=0)
    np.testing.assert_allclose(grams(x)["plain"].products, z @ z.T, rtol=1e-12)


def test_pytorch_gives_what_numpy_gives(rng):
    x = (rng.random((30, 500)) + 5).astype(np.float32)
    there = grams(x, ["plain", "scaled", "standardised"], device="cpu:0")  # PyTorch's name of it
    for form, here in grams(x, ["plain", "scaled", "standardised"]).items():
        assert isinstance(there[form].products, np.ndarray)
        scale = np.abs(here.products).max()
        np.testing.assert_allclose(there[form].products, here.products, atol=2e-6 * scale)
        np.testing.assert_allclose(there[form].cross, here.cross, atol=2e-6 * scale)
        np.testing.assert_allclose(there[form].mean_square, here.mean_square, rtol=1e-5)


def test_unusable_device_is_refused(rng):
    with pytest.raises(RequestError, match="device 'meta:x' cannot be used here"):
        grams(rng.random((3, 4)), device="meta:x")


# --- what is read --------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    room=st.integers(1, 300),
    data=st.data(),
)
def test_blocks_cover_every_column_once_within_the_room(shape, room, data):
    chunks = None
    if data.draw(st.booleans()):
        chunks = (4, *(data.draw(st.integers(1, size)) for size in shape))
    seen = np.zeros((3, *shape), dtype=int)
    for key in column_blocks(seen.shape, room, chunks):
        seen[key] += 1
        assert 1 <= seen[key][0].size <= room
    assert (seen == 1).all()


def test_blocks_end_where_chunks_end():
    keys = list(column_blocks((64, 512, 29, 29), 70_000, (8, 32, 29, 29)))
    assert [key[1].stop - key[1].start for key in keys] == [64] * 8
    assert all(key[2:] == (slice(0, 29), slice(0, 29)) for key in keys)


def test_memory_stays_within_the_budget(rng):
    n, p, budget = 300, 60_000, 30_000_000

    class Made:
        shape, dtype = (n, p), np.dtype(np.float32)

        def __getitem__(self, key):
            return rng.random((n, key[1].stop - key[1].start), dtype=np.float32)

    tracemalloc.start()
    grams(Made(), ["plain", "standardised"], memory=budget)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 1610612736), ("500mb", 5 * 10**8), (1000, 1000), ("7k", 7000)],
)
def test_memory_is_read(text, expected):
    assert memory_in_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-2GB", "0", 0, True, "2 TBs", None])
def test_other_memory_is_refused(text):
    with pytest.raises(RequestError, match="expected an amount such as 2GB"):
        memory_in_bytes(text)


# --- what is refused -----------------------------------------------------------------------------


def test_nan_is_refused_with_the_images(rng):
    x = rng.random((8, 50)).astype(np.float32)
    x[2, 40] = np.nan
    x[5, 0] = np.inf
    with pytest.raises(RequestError) as caught:
        grams(x, ["standardised"], name="features.fc", ids=[f"{k}.jpg" for k in range(8)])
    assert str(caught.value) == (
        "features.fc: NaN or infinite activations of 2 images (2.jpg, 5.jpg); extract them again"
    )


def test_overflow_is_refused_and_float64_helps():
    x = np.array([[1e38, 0], [-1e38, 1], [1e38, 2]], np.float32)
    with pytest.raises(RequestError, match="too large to be multiplied in float32"):
        grams(x)
    assert np.isfinite(grams(x, precision="float64")["plain"].products).all()
    tall = np.full((20, 2), 3e38, np.float32)
    with pytest.raises(RequestError, match="too large for float32"):
        grams(tall)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"expected an array \[images, features\]"),
        (np.zeros((1, 3)), "1 image of 3 features"),
        (np.zeros((4, 0)), "4 images of 0 features"),
        (np.zeros((4, 2), complex), "expected numbers, got complex128"),
    ],
)
def test_what_cannot_be_compared_is_refused(array, message):
    with pytest.raises(RequestError, match=message):
        grams(array)


@pytest.mark.parametrize("shape", [(3000, 10), (6000, 3000)])
def test_too_small_a_budget_says_how_much_is_needed(shape):
    x = np.zeros(shape, np.float32)
    with pytest.raises(RequestError) as caught:
        grams(x, memory="100MB")
    message = str(caught.value)
    assert f"all pairs of {shape[0]} images need about" in message
    needed = message.partition("give --memory ")[2].partition(",")[0]
    grams(np.random.default_rng(0).random(x.shape, dtype=np.float32), memory=needed)


def test_unknown_precision_is_refused():
    with pytest.raises(RequestError, match="expected auto, float32 or float64"):
        grams(np.eye(3), precision="half")
