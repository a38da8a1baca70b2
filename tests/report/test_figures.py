"""Figures: what is drawn is what was computed, in files of every format."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist, squareform

from resmem_extract.compare import RDM
from resmem_extract.compare.build import read_once
from resmem_extract.compare.table import Entity, Inference, Row, compare_all
from resmem_extract.errors import MissingExtraError
from resmem_extract.images import find_images
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
    figure = draw_rdm(rdm, groups=GROUPS, images=find_images(tmp_path))
    axes, bar = figure.axes
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown, sorted_by_group(rdm, GROUPS)[0].square())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["place", "face"]
    assert bar.get_ylabel() == "correlation distance (1 - r)"
    assert axes.get_xlabel() == "images (n = 12), in the same order on both axes"
    figure.canvas.draw()
    beside, under = (strip.get_window_extent() for strip in axes.child_axes)
    assert axes.yaxis.label.get_window_extent().x1 <= beside.x0
    assert axes.xaxis.label.get_window_extent().y1 <= under.y0
    order = [
        int(image_id.partition(".")[0]) + 1 for image_id in sorted_by_group(rdm, GROUPS)[0].ids
    ]
    left, below = (strip.images[0].get_array() for strip in axes.child_axes)
    # Reds of the pictures, from top to bottom and from left to right.
    for reds in (left[..., 0], below[..., 0].T):
        seen = [value for value in dict.fromkeys(reds.ravel().tolist()) if value < 255]
        assert seen == order
    (tmp_path / IDS[3]).unlink()
    assert not draw_rdm(rdm, images=find_images(tmp_path)).axes[0].child_axes


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


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("subjects", [1, 3])
def test_the_profile_says_what_band_and_stars_are_of(models, reference, subjects):
    rdm = reference.rdms["correlation"]
    given = reference if subjects == 3 else Entity("IT", {"correlation": rdm.mean()})
    inference = Inference(bootstrap=20, permutations=199)
    table = compare_all(models, [given], ["correlation"], ["spearman"], inference)
    assert any(row.p_fdr < 0.05 for row in table.rows if row.b == "IT")
    shown = set(legend(draw_profile(table.rows, "IT", subjects=subjects)))
    assert (
        shown
        == {
            1: {
                "value",
                "95 % interval: images resampled",
                "p < 0.05 (FDR): images relabelled",
            },
            3: {
                "mean over 3 subjects",
                "95 % interval: images and subjects resampled",
                "p < 0.05 (FDR): images relabelled, these 3 subjects",
                "noise ceiling",
            },
        }[subjects]
    )


def test_the_interval_of_a_module_without_neighbours_is_a_bar():
    """Of one module alone, or beside one of which no interval is known, a band has no width."""
    nan = float("nan")
    intervals = {"net:a": (0.1, 0.4), "net:b": (nan, nan), "net:c": (0.2, 0.5), "net:d": (0.1, 0.6)}
    rows = [Row(a, "IT", "", "spearman", 9, 0.3, *ends) for a, ends in intervals.items()]
    for shown, bars in ((rows[:1], 1), (rows, 1), (rows[2:], 0)):
        figure = draw_profile(shown, "IT")
        assert "95 % interval: images resampled" in legend(figure)
        drawn = figure.axes[0].containers
        assert len(drawn) == bars
        for bar in drawn:
            (segment,) = bar.lines[2][0].get_segments()
            np.testing.assert_allclose(segment, [[0, 0.1], [0, 0.4]])


def test_the_profile_has_a_panel_for_each_store_of_a_network():
    rows = [Row(f"net:{k}", "IT", "correlation", "spearman", 9, 0.1) for k in "abc"]
    sources = {"net:a": "f.h5", "net:b": "g.h5", "net:c": "f.h5"}
    panels = draw_profile(rows, "IT", sources=sources).axes
    assert [panel.get_title() for panel in panels] == ["net\n(f.h5)", "net\n(g.h5)"]
    ticks = [[label.get_text() for label in panel.get_xticklabels()] for panel in panels]
    assert ticks == [["a", "c"], ["b"]]


def test_numbers_in_the_matrix_have_no_sign_at_zero():
    rows = [
        Row("net:a", "net:b", "", "cka", 9, -0.004),
        Row("net:a", "net:c", "", "cka", 9, -0.026),
        Row("net:b", "net:c", "", "cka", 9, 0.997),
    ]
    axes = draw_matrix(rows, ["net:a", "net:b", "net:c"]).axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["1.00", ".00", "-.03", ".00", "1.00", "1.00", "-.03", "1.00", "1.00"]


@pytest.mark.parametrize(("subjects", "title"), [(1, "IT"), (3, "IT, mean over 3 subjects")])
def test_an_rdm_of_several_subjects_is_called_their_mean(reference, subjects, title):
    rdm = reference.rdms["correlation"]
    axes = draw_rdm(rdm if subjects == 3 else rdm.mean()).axes[0]
    assert axes.get_title() == title
    np.testing.assert_allclose(
        axes.images[0].get_array(), squareform(rdm.dissimilarities.mean(axis=0))
    )


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
    (line,) = (line for line in axes.lines if line.get_linestyle() == "-")
    path = axes.transData.transform(line.get_xydata())
    steps = np.linspace(0, 1, 400)[:, None]
    along = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(path)])
    for box in boxes:
        assert not ((along > box.min) & (along < box.max)).all(axis=1).any()
    shown = {text.get_text() for text in axes.texts}
    assert "features.layer3.30" in shown  # far from all others
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
        assert axes.get_window_extent().contains(*box.min)
        assert axes.get_window_extent().contains(*box.max)


def test_the_map_names_references_and_says_what_lines_join(rng):
    points = rng.standard_normal((6, 2))
    names = ["net:a", "net:b", "net:c", "net:d", "IT", "file:with:colons"]
    sources = {"net:a": "f.h5", "net:b": "g.h5", "net:c": "f.h5", "net:d": "g.h5"}
    figure = draw_map(
        1 - squareform(pdist(points)), names, "x", references=names[4:], sources=sources
    )
    axes = figure.axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    found, _ = classical_scaling(squareform(pdist(points)))
    np.testing.assert_allclose(
        [line.get_xydata() for line in lines], [found[[0, 2]], found[[1, 3]]]
    )
    assert legend(figure) == [
        *("net (f.h5)", "net (g.h5)", "IT", "file:with:colons"),
        "modules of one store, in the order given",
    ]
    at = {text.get_text(): text.xy for text in axes.texts}
    for k in (4, 5):
        np.testing.assert_allclose(at[names[k]], found[k])


def test_without_lines_the_map_says_nothing_of_them(rng):
    distances = squareform(pdist(rng.standard_normal((3, 2))))
    figure = draw_map(1 - distances, ["a:x", "b:x", "IT"], "x", references=["IT"])
    assert legend(figure) == ["a", "b", "IT"]


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


def test_files_of_stores_and_the_number_of_subjects_reach_the_figures(models, reference, tmp_path):
    """Text in svg stays text, so that it can be read there."""
    files = ("x/f.h5", "x/g.h5", "x/f.h5")
    models = [replace(model, source=file) for model, file in zip(models, files, strict=True)]
    table = compare_all(models, [reference], ["correlation"], ["spearman"], Inference())
    draw_all(tmp_path, table.rows, models, [reference], ["svg"])
    profile, plane, rdm = (
        (tmp_path / f"{stem}.svg").read_text()
        for stem in ("profile_IT_spearman_correlation", "map_spearman_correlation", "rdm_IT")
    )
    assert "mean over 3 subjects" in profile
    for text in ("(f.h5)", "(g.h5)"):
        assert text in profile
        assert f"net {text}" in plane
    assert plane.count(">IT<") == 2  # in the legend, and beside the point
    assert "IT, mean over 3 subjects" in rdm


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[rsa\]'"):
        new_figure(1, 1)
