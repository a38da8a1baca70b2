"""The record of an RDM: its order of pairs is SciPy's, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

from resmem_extract.errors import RequestError
from resmem_extract.rdm import RDM, condensed_rows, n_from_pairs, pair_indices

IDS = ("a", "b", "c", "d")
SQUARE = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], dtype=float)
HOLE = np.zeros((4, 4))
HOLE[0, 1] = np.nan  # in one triangle alone


def test_pairs_are_in_the_order_of_scipy():
    record = RDM.from_square(SQUARE, IDS, metric="euclidean", name="x")
    np.testing.assert_array_equal(record.dissimilarities, squareform(SQUARE))
    np.testing.assert_array_equal(record.square(), SQUARE)
    assert (record.n_images, record.n_subjects, record.stack.shape) == (4, 1, (1, 6))
    assert repr(record) == "<RDM 'x': 4 images, euclidean>"


def test_several_subjects():
    record = RDM.from_square(np.stack([SQUARE, 3 * SQUARE]), IDS, name="it")
    assert record.subjects == ("0", "1")
    assert record.dissimilarities.shape == (2, 6)
    np.testing.assert_array_equal(record.square()[1], 3 * SQUARE)
    assert record.mean().subjects == ()
    np.testing.assert_array_equal(record.mean().square(), 2 * SQUARE)
    assert repr(record) == "<RDM 'it': 4 images, 2 subjects, ?>"


@given(st.integers(2, 30), st.data())
def test_a_subset_is_that_of_the_square_matrix(n, data):
    rows = data.draw(st.permutations(range(n)))[: data.draw(st.integers(2, n))]
    values = np.random.default_rng(n).random((2, n * (n - 1) // 2))
    record = RDM(values, tuple(map(str, range(n))), "", "x")
    part = record.subset([str(row) for row in rows])
    assert part.ids == tuple(str(row) for row in rows)
    np.testing.assert_array_equal(part.square(), record.square()[:, rows][:, :, rows])


@given(st.integers(2, 2000))
def test_numbers_of_pairs(n):
    assert n_from_pairs(n * (n - 1) // 2) == n
    if n > 2:
        with pytest.raises(RequestError, match="are not the pairs"):
            n_from_pairs(n * (n - 1) // 2 + 1)


def test_condensed_rows_of_all_images_change_nothing():
    np.testing.assert_array_equal(condensed_rows(np.arange(7), 7), np.arange(21))
    first, second = pair_indices(7)
    assert (first < second).all()


def test_the_numbers_cannot_be_changed_afterwards():
    values = np.ones(3)
    record = RDM(values, ("a", "b", "c"), "", "x")
    values[0] = 5
    assert record.dissimilarities[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        record.dissimilarities[0] = 2


def test_a_diagonal_of_nan_is_accepted():
    square = SQUARE.copy()
    np.fill_diagonal(square, np.nan)
    np.testing.assert_array_equal(RDM.from_square(square, IDS).square(), SQUARE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RDM(np.ones(4), None, "", "x"), "x: 4 numbers are not the pairs of any number"),
        (lambda: RDM(np.ones(6), ("a", "b"), "", "x"), "x: 2 ids for 4 images"),
        (lambda: RDM(np.ones(3), ("a", "b", "a"), "", "x"), "the image id 'a' is there twice"),
        (lambda: RDM(np.ones((2, 3)), None, "", "x", ("s",)), "1 subject name for 2 subjects"),
        (lambda: RDM(np.ones(3), None, "", "x", ("s",)), "1 subject name for 0 subjects"),
        (lambda: RDM(np.ones((1, 1, 3)), None, "", "x"), r"got shape \(1, 1, 3\)"),
        (lambda: RDM(np.array([1, np.nan, 1]), ("a", "b", "c"), "", "x"), "of a and c; leave"),
        (lambda: RDM.from_square(SQUARE[:3], IDS), r"rdm: expected a square matrix"),
        (lambda: RDM.from_square(1 - SQUARE / 10, IDS), "the diagonal is not zero"),
        (
            lambda: RDM.from_square(np.triu(SQUARE), IDS),
            "not symmetric.*: c with d is 6, d with c is 0;",
        ),
        (
            lambda: RDM.from_square(np.stack([SQUARE, SQUARE * [1, 2, 1, 1]]), IDS),
            "b with a is 1, a with b is 2 of subject 1|b with d is 5, d with b is 10 of subject 1",
        ),
        (
            lambda: RDM.from_square(np.where(SQUARE == 4, np.tri(4) / 0.25, SQUARE) + HOLE, None),
            "row 0 with row 1 is nan, row 1 with row 0 is 1",
        ),
        (lambda: RDM.from_square(SQUARE, IDS).subset(["a", "x"]), "rdm has no image 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(RequestError, match=message):
        make()
