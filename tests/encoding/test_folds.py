"""Folds: partitions that keep together what belongs together, and depend on ids alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmem_extract.encoding import crossed_folds, given_folds, group_folds, kfolds
from resmem_extract.errors import RequestError


@given(
    st.lists(st.sampled_from([f"i{k}" for k in range(40)]), min_size=30, max_size=90),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_rows_of_an_image_are_never_on_both_sides(ids, n, seed):
    if len(set(ids)) < 3 * n:
        return
    folds = kfolds(ids, n, seed=seed)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(ids)))
    images = np.array(ids)
    for fold in folds:
        assert not set(images[fold.train]) & set(images[fold.test])
        held = np.concatenate(fold.inner)
        assert sorted(held.tolist()) == list(range(len(fold.train)))
        for inner in fold.inner:
            rest = np.setdiff1d(np.arange(len(fold.train)), inner)
            assert not set(images[fold.train][inner]) & set(images[fold.train][rest])


def test_the_order_of_ids_has_no_influence_and_the_seed_has(rng):
    ids = np.array([f"{k}.png" for k in range(50)])
    order = rng.permutation(50)
    numbers = kfolds(ids, 5, seed=3).numbers
    assert (kfolds(ids[order], 5, seed=3).numbers == numbers[order]).all()
    assert (kfolds(ids, 5, seed=4).numbers != numbers).any()
    assert np.bincount(numbers).tolist() == [10] * 5


def test_groups_stay_together_inside_of_folds_too():
    groups = np.repeat(["a", "b", "c", "d", "e", "f", "g"], [9, 8, 7, 6, 5, 4, 4])
    folds = group_folds(groups, 3, inner=2)
    for fold in folds:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert not set(groups[fold.train][fold.inner[0]]) & set(groups[fold.train][fold.inner[1]])
    assert np.ptp(np.bincount(folds.numbers)) <= 4  # the smallest group
    alone = group_folds(groups)
    assert alone.names == ("a", "b", "c", "d", "e", "f", "g")
    assert [set(groups[fold.test]) for fold in alone] == [{name} for name in alone.names]


def test_crossed_folds_have_neither_subject_nor_image_on_both_sides(rng):
    order = rng.permutation(36)
    who, ids = np.repeat(list("xyz"), 12)[order], np.tile([f"{k}" for k in range(12)], 3)[order]
    folds = crossed_folds(who, ids, 3)
    assert folds.names == tuple(f"{name}/{k}" for name in "xyz" for k in range(3))
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(36))
    for fold in folds:
        assert (len(fold.train), len(fold.test)) == (2 * 8, 4)
        assert not set(who[fold.train]) & set(who[fold.test])
        assert not set(ids[fold.train]) & set(ids[fold.test])
        held = [set(ids[fold.train][rows]) for rows in fold.inner]
        assert sum(map(len, held)) == len(set.union(*held))  # no image in two inner folds


def test_a_given_split_is_followed():
    ids = [f"{k}" for k in range(12)]
    folds = given_folds(["train"] * 8 + ["test"] * 4, ids)
    (fold,) = folds
    assert fold.name == "test"
    assert fold.test.tolist() == [8, 9, 10, 11]
    assert fold.train.tolist() == list(range(8))
    folds = given_folds(["x", "y"] * 6, ids)
    assert folds.names == ("x", "y")
    assert next(iter(folds)).test.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kfolds(["a", "b", "c"], 2), "2 folds of 3 images"),
        (lambda: kfolds([str(k) for k in range(30)], 1), "two folds or more"),
        (lambda: group_folds(["a", "b"] * 9), "three groups"),
        (lambda: group_folds(list("abcd") * 5, 9), "9 folds of 4 groups"),
        (lambda: group_folds(list("abcdef") * 2), "fold 'a' has 2 rows; expected 3 or more"),
        (lambda: crossed_folds(["x"] * 9, list("abcdefghi"), 3), "two groups or more; got x"),
        (lambda: given_folds(["train"] * 9, list("abcdefghi")), "expected train and test"),
        (lambda: given_folds(["train", "test"] * 5, ["a"] * 10), "'a' is in test and in train"),
        (lambda: given_folds(["train"] * 8 + ["test"], list("abcdefghi")), "fold 'test' has 1 row"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(make, message):
    with pytest.raises(RequestError, match=message):
        make()
