"""Figures: what is drawn is what was computed, in files of every format."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist, squareform

from resmem_extract.compare import RDM
from resmem_extract.compare.build import read_once
from resmem_extract.compare.table import Entity, Inference, Row, compare_all
from resmem_extract.errors import MissingExtraError
from resmem_extract.report import draw_all
from resmem_extract.report.comparisons import (
    classical_scaling,
    draw_map,
    draw_matrix,
    draw_profile,
    similarity_matrix,
)
from resmem_extract.report.rdm_figure import draw_rdm, sorted_by_group
from resmem_extract.report.style import new_figure

IDS = tuple(f"{k}.png" for k in range(12))
GROUPS = {image_id: "face" if k % 3 else "place" for k, image_id in enumerate(IDS)}


@pytest.fixture
def models(rng) -> list[Entity]:
    x = rng.standard_normal((12, 20))
    made = []
    for name, noise in (("net:a", 0.5), ("net:b", 1.0), ("other:a", 2.0)):
        rdms, _ = read_once(
            x + noise * rng.standard_normal(x.shape), ["correlation"], ids=IDS, name=name
        )
        made.append(Entity(name, rdms))
    return made


@pytest.fixture
def reference(models, rng) -> Entity:
    values = models[0].rdms["correlation"].dissimilarities
    return Entity("IT", {"correlation": RDM(values + 0.2 * rng.random((3, 66)), IDS, "", "IT")})


def test_images_of_a_group_stand_together(models):
    rdm = models[0].rdms["correlation"]
    ordered, blocks = sorted_by_group(rdm, GROUPS)
    assert blocks == [("place", 0, 4), ("face", 4, 12)]
    assert ordered.ids[:4] == ("0.png", "3.png", "6.png", "9.png")
    assert ordered.square()[0, 4] == rdm.square()[0, 1]
    assert sorted_by_group(rdm, {}) == (rdm, [])


def test_the_picture_of_an_rdm_holds_its_numbers(models, tmp_path):
    for k, image_id in enumerate(IDS):
        Image.new("RGB", (30, 20), (k + 1, 0, 0)).save(tmp_path / image_id)
    rdm = models[0].rdms["correlation"]
    figure = draw_rdm(rdm, groups=GROUPS, images=tmp_path)
    axes, bar = figure.axes
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown, sorted_by_group(rdm, GROUPS)[0].square())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["place", "face"]
    assert bar.get_ylabel() == "correlation distance (1 - r)"
    assert axes.get_xlabel() == "images (n = 12), in the same order on both axes"
    order = [
        int(image_id.partition(".")[0]) + 1 for image_id in sorted_by_group(rdm, GROUPS)[0].ids
    ]
    left, below = (strip.images[0].get_array() for strip in axes.child_axes)
    # Reds of the pictures, from top to bottom and from left to right.
    for reds in (left[..., 0], below[..., 0].T):
        seen = [value for value in dict.fromkeys(reds.ravel().tolist()) if value < 255]
        assert seen == order
    (tmp_path / IDS[3]).unlink()
    assert not draw_rdm(rdm, images=tmp_path).axes[0].child_axes


def test_the_matrix_and_the_profile_hold_the_values(models, reference):
    table = compare_all(
        models, [reference], ["correlation"], ["spearman"], Inference(bootstrap=20, permutations=20)
    )
    names = [model.name for model in models]
    axes = draw_matrix(table.rows, names).axes[0]
    values = {(row.a, row.b): row for row in table.rows}
    shown = axes.images[0].get_array()
    assert shown[0, 2] == shown[2, 0] == values["net:a", "other:a"].value
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "a"]
    (above,) = axes.child_axes
    assert [label.get_text() for label in above.get_xticklabels()] == ["net", "other"]
    np.testing.assert_array_equal(above.get_xticks(), [0.5, 2])
    panels = draw_profile(table.rows, "IT").axes
    assert [panel.get_title() for panel in panels] == ["net", "other"]
    lines = {line.get_label(): line for line in panels[0].lines}
    expected = [values[name, "IT"].value for name in names[:2]]
    np.testing.assert_array_equal(lines["value"].get_ydata(), expected)
    assert "Spearman" in panels[0].get_ylabel()


def test_a_reference_like_which_nothing_can_be_is_drawn_empty():
    rows = [Row(f"net:{k}", "flat", "correlation", "spearman", 9, float("nan")) for k in "ab"]
    axes = draw_profile(rows, "flat").axes[0]
    assert np.isnan(axes.lines[0].get_ydata()).all()


def test_scaling_finds_points_that_lie_in_a_plane(rng):
    points = rng.standard_normal((7, 2))
    found, share = classical_scaling(squareform(pdist(points)))
    np.testing.assert_allclose(pdist(found), pdist(points))
    assert share == pytest.approx(1)
    axes = draw_map(1 - squareform(pdist(points)), [f"net:{k}" for k in range(7)], "x").axes[0]
    np.testing.assert_allclose(np.array(axes.lines[0].get_xydata()), found)


def test_names_of_points_lie_on_nothing(rng):
    """Boxes as the renderer has them, which are not those that places were chosen by."""
    points = np.concatenate([0.05 * rng.standard_normal((25, 2)), rng.standard_normal((6, 2))])
    names = [f"net:features.layer3.{k}" for k in range(len(points))]
    figure = draw_map(1 - squareform(pdist(points)), names, "x")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 5 < len(boxes) < len(points)
    shown = {text.get_text() for text in axes.texts}
    assert "features.layer3.30" in shown  # far from all others
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
        assert axes.get_window_extent().contains(*box.min)
        assert axes.get_window_extent().contains(*box.max)


def test_missing_similarities_stay_empty():
    matrix = similarity_matrix([Row("a", "b", "", "cka", 5, 0.5)], ["a", "b", "c"])
    np.testing.assert_array_equal(matrix, [[1, 0.5, np.nan], [0.5, 1, np.nan], [np.nan, np.nan, 1]])


def test_every_figure_is_written_in_every_format(models, reference, tmp_path):
    table = compare_all(models, [reference], ["correlation"], ["spearman"], Inference())
    formats = ["png", "svg", "pdf"]
    written = draw_all(tmp_path, table.rows, models, [reference], formats, groups=GROUPS)
    stems = {path.stem for path in written}
    assert stems == {
        *(f"rdm_{name}_correlation" for name in ("net_a", "net_b", "other_a")),
        "rdm_IT",
        "profile_IT_spearman_correlation",
        "matrix_spearman_correlation",
        "map_spearman_correlation",
    }
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert len(written) == 3 * len(stems)
    with Image.open(tmp_path / "rdm_IT.png") as image:
        assert min(image.size) > 1000
    assert Path(tmp_path / "rdm_IT.svg").read_text().startswith("<?xml")
    assert Path(tmp_path / "rdm_IT.pdf").read_bytes().startswith(b"%PDF")


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[rsa\]'"):
        new_figure(1, 1)
