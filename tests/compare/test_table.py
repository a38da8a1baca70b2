"""The table of all comparisons: which pairs, what in each cell, and why cells are empty."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
import scipy.stats

from resmem_extract.compare import (
    RDM,
    bootstrap,
    compare,
    noise_ceiling,
    permutation_test,
    rdm,
)
from resmem_extract.compare.build import read_once
from resmem_extract.compare.table import Difference, Entity, Inference, Row, compare_all, to_csv
from resmem_extract.errors import RequestError

N = 14
IDS = tuple(f"{k:02d}.png" for k in range(N))


@pytest.fixture
def models(rng) -> list[Entity]:
    """Three layers of two networks; the last of fewer images."""
    x = rng.standard_normal((N, 30))
    made = []
    for name, noise, n in (("net:a", 0.3, N), ("net:b", 2.0, N), ("other:c", 0.5, N - 4)):
        features = (x + noise * rng.standard_normal(x.shape))[:n]
        rdms, linear = read_once(
            features, ["correlation", "euclidean"], with_kernel=True, ids=IDS[:n], name=name
        )
        made.append(Entity(name, rdms, linear))
    return made


@pytest.fixture
def brain(models, rng) -> Entity:
    values = models[0].rdms["correlation"].dissimilarities
    stack = values + 0.3 * rng.random((3, len(values)))
    it = RDM(stack, IDS, "", "IT")
    return Entity("IT", {"correlation": it, "euclidean": it})


def test_every_model_with_every_reference_and_every_other_model(models, brain):
    table = compare_all(models, [brain], ["correlation", "euclidean"], ["spearman"], Inference())
    pairs = [(row.a, row.b) for row in table.rows if row.metric == "euclidean"]
    assert pairs == [
        ("net:a", "IT"),
        ("net:b", "IT"),
        ("other:c", "IT"),
        ("net:a", "net:b"),
        ("net:a", "other:c"),
        ("net:b", "other:c"),
    ]
    assert [row.n_images for row in table.rows[:6]] == [14, 14, 10, 14, 10, 10]
    for row in table.rows:
        sides = {m.name: m.rdms[row.metric] for m in (*models, brain)}
        assert row.value == compare(sides[row.a], sides[row.b]).value
        assert math.isnan(row.ci_low) and math.isnan(row.p) and math.isnan(row.p_fdr)
    assert table.differences == []
    assert "no confidence intervals: --bootstrap 1000 gives them" in table.notes
    assert "no p: --permutations 1000 gives them" in table.notes
    overlap = "other:c has 10 images, IT has 14: compared on the 10 that both have"
    assert overlap in table.notes


def test_cells_are_what_the_functions_give(models, brain):
    inference = Inference(bootstrap=40, permutations=30, seed=4)
    table = compare_all(models[:2], [brain], ["correlation"], ["pearson"], inference)
    sides = [model.rdms["correlation"] for model in models[:2]]
    target = brain.rdms["correlation"]
    sampled = bootstrap(sides, target, "pearson", n=40, seed=4)
    tested = permutation_test(sides, target, "pearson", n=30, seed=4).p()
    corrected = scipy.stats.false_discovery_control(tested)
    for k, row in enumerate(table.rows[:2]):
        assert (row.ci_low, row.ci_high) == tuple(sampled.intervals()[k])
        assert (row.p, row.p_fdr) == (tested[k], corrected[k])
        assert (row.ceiling_low, row.ceiling_high) == noise_ceiling(target, "pearson")
    (difference,) = table.differences
    assert difference == Difference(
        "IT",
        "correlation",
        "pearson",
        "net:a",
        "net:b",
        table.rows[0].value - table.rows[1].value,
        sampled.difference_tests()[0, 1],
        sampled.difference_tests()[0, 1],
    )
    pair = table.rows[2]
    alone = bootstrap(sides[:1], sides[1], "pearson", n=40, seed=4)
    np.testing.assert_allclose([pair.ci_low, pair.ci_high], alone.intervals()[0], rtol=1e-9)
    expected = permutation_test(sides[:1], sides[1], "pearson", n=30, seed=4).p()[0]
    assert (pair.p, pair.p_fdr) == (expected, expected)
    assert math.isnan(pair.ceiling_low)


def test_p_is_corrected_within_each_reference_metric_and_comparator(models, brain):
    table = compare_all(
        models,
        [brain],
        ["correlation", "euclidean"],
        ["pearson", "cosine"],
        Inference(permutations=20),
    )
    families: dict[tuple, list[Row]] = {}
    for row in table.rows:
        key = (row.metric, row.compare, row.b if row.b == "IT" else "pairs")
        families.setdefault(key, []).append(row)
    assert len(families) == 8
    for rows in families.values():
        expected = scipy.stats.false_discovery_control([row.p for row in rows])
        np.testing.assert_allclose([row.p_fdr for row in rows], expected)


def test_comparators_of_features_need_no_metric(models):
    table = compare_all(models, [], ["correlation"], ["cka", "procrustes"], Inference(20, 20))
    assert [(row.metric, row.compare) for row in table.rows] == [("", "cka")] * 3 + [
        ("", "procrustes")
    ] * 3
    assert all(row.ci_low < row.value < row.ci_high for row in table.rows[:3])
    assert all(math.isnan(row.ci_low) and row.p <= 1 for row in table.rows[3:])
    assert any(note.startswith("procrustes has no bootstrap") for note in table.notes)


def test_features_are_not_told_from_an_rdm(models, brain):
    with pytest.raises(RequestError, match="cka compares features, and IT is an RDM"):
        compare_all(models, [brain], ["correlation"], ["cka"], Inference())


def test_one_subject_has_no_ceiling(models, brain):
    mean = Entity("mean", {"correlation": brain.rdms["correlation"].mean()})
    table = compare_all(models[:1], [mean], ["correlation"], ["spearman"], Inference())
    assert math.isnan(table.rows[0].ceiling_low)
    assert any(note.startswith("no noise ceiling for IT: one subject") for note in table.notes)


def test_too_few_images_leave_cells_empty_and_say_why(models, brain):
    few = [Entity("few", {"correlation": models[0].rdms["correlation"].subset(IDS[:4])})]
    table = compare_all(few, [brain], ["correlation"], ["spearman"], Inference(10, 10))
    (row,) = table.rows
    assert math.isfinite(row.value)
    assert math.isnan(row.ci_low) and math.isnan(row.p)
    assert "bootstrap over 4 images: expected 6 at least" in table.notes
    assert "permutations of 4 images: expected 5 at least" in table.notes


def test_csv_has_the_columns_of_the_design_and_empty_cells():
    row = Row("net:a", "IT", "correlation", "spearman", 92, 0.27371234567, p=0.001)
    text = to_csv([row], Row)
    assert text == (
        "a,b,metric,compare,n_images,value,ci_low,ci_high,p,p_fdr,ceiling_low,ceiling_high\n"
        "net:a,IT,correlation,spearman,92,0.2737123,,,0.001,,,\n"
    )
    assert len(list(csv.DictReader(io.StringIO(text)))) == 1


def test_two_unrelated_layers_are_told_to_be_unrelated(rng):
    sides = [
        rdm(rng.standard_normal((30, 50)), ids=[str(k) for k in range(30)], name=name)
        for name in "ab"
    ]
    entities = [Entity(side.name, {"correlation": side}) for side in sides]
    table = compare_all(entities, [], ["correlation"], ["spearman"], Inference(200, 200))
    (row,) = table.rows
    assert row.ci_low < 0 < row.ci_high
    assert row.p > 0.05
