"""Figures of encoding models say what is drawn, and draw what was found."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from resmem_extract.encoding import Grid
from resmem_extract.report.encoding_figures import (
    draw_best,
    draw_flat_map,
    draw_predictions,
    draw_profile_of_depth,
)


@dataclass
class Found:
    """Scores of modules and targets, with what figures ask of `encode`."""

    names: tuple[str, ...] = ("net:a", "net:b", "net:c")
    sources: dict[str, str] = field(default_factory=dict)
    folds: tuple[str, ...] = ("0", "1", "2")
    targets: tuple[str, ...] = tuple(f"t{k}" for k in range(6))
    rois: tuple[str, ...] = ("V1",) * 3 + ("IT",) * 3
    ceiling: np.ndarray | None = None
    grid: Grid | None = None

    def __post_init__(self):
        rng = np.random.default_rng(0)
        t = len(self.targets)
        self.ceiling = np.full(t, np.nan) if self.ceiling is None else self.ceiling
        self.table = rng.random((len(self.names), t))
        self.best = self.table.argmax(axis=0)
        self.measured = rng.random((20, t))
        self.predicted = {self.names[self.table.max(axis=1).argmax()]: rng.random((20, t))}


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_of_the_profile_names_the_band():
    found = Found()
    figure = draw_profile_of_depth(found)
    assert legend(figure) == ["V1 (3)", "IT (3)", "95 % interval of the mean over targets"]
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    values = found.table[:, :3]
    half = 1.96 * values.std(axis=1, ddof=1) / np.sqrt(3)
    assert band.ymin == pytest.approx((values.mean(axis=1) - half).min())
    assert band.ymax == pytest.approx((values.mean(axis=1) + half).max())


def test_the_interval_of_a_single_module_is_a_bar():
    found = Found(names=("net:a", "other:b"))
    figure = draw_profile_of_depth(found)
    assert "95 % interval of the mean over targets" in legend(figure)
    for k, axes in enumerate(figure.axes):
        for own, bar in zip((slice(0, 3), slice(3, 6)), axes.containers, strict=True):
            values = found.table[k, own]
            half = 1.96 * values.std(ddof=1) / np.sqrt(3)
            (segment,) = bar.lines[2][0].get_segments()
            np.testing.assert_allclose(segment[:, 1], [values.mean() - half, values.mean() + half])
        v1, it = (bar.lines[2][0].get_segments()[0][0, 0] for bar in axes.containers)
        assert v1 < 0 < it  # beside each other, about the module


@pytest.mark.parametrize(("regions", "step"), [(8, 1), (200, 4)])
def test_more_regions_than_colours_are_rows_of_a_matrix(regions, step):
    rois = tuple(f"r{k // 2}" for k in range(2 * regions))
    targets = tuple(map(str, range(2 * regions)))
    ceiling = np.linspace(0.5, 1, 2 * regions)
    found = Found(("net:a", "net:b", "other/net:c"), targets=targets, rois=rois, ceiling=ceiling)
    figure = draw_profile_of_depth(found)
    first, second, top, bar = figure.axes
    expected = found.table.reshape(3, regions, 2).mean(axis=2).T
    np.testing.assert_allclose(first.images[0].get_array(), expected[:, :2])
    np.testing.assert_allclose(second.images[0].get_array(), expected[:, 2:])
    np.testing.assert_allclose(
        top.images[0].get_array(), ceiling.reshape(regions, 2).mean(axis=1)[:, None]
    )
    assert [panel.get_title() for panel in (first, second, top)] == ["net", "other/\nnet", ""]
    rows = [label.get_text() for label in first.get_yticklabels()]
    assert rows == [f"r{k} (2)" for k in range(0, regions, step)]
    columns = [[x.get_text() for x in panel.get_xticklabels()] for panel in (first, second, top)]
    assert columns == [["a", "b"], ["c"], ["noise ceiling"]]
    assert bar.get_ylabel() == "r, mean over targets and folds"
    assert not figure.legends
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in first.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_shares_of_many_regions_are_a_matrix():
    rois = tuple(f"r{k % 8}" for k in range(24))
    found = Found(targets=tuple(map(str, range(24))), rois=rois)
    found.best[5] = -1  # nothing predicts it
    panel, bar = draw_best(found).axes
    best = found.best.reshape(3, 8)
    expected = [[(best[:, r] == k).mean() for k in range(3)] for r in range(8)]
    np.testing.assert_allclose(panel.images[0].get_array(), expected)
    assert bar.get_ylabel() == "share of a region's targets that it predicts best"


def test_without_a_band_the_legend_names_none():
    found = Found(rois=("",) * 6, ceiling=np.full(6, 0.9))
    figure = draw_profile_of_depth(found)
    assert not figure.axes[0].collections
    assert legend(figure) == [*found.targets, "noise ceiling"]


def test_a_profile_has_a_panel_for_each_store():
    sources = {"net:a": "f.h5", "net:b": "g.h5", "net:c": "f.h5"}
    panels = draw_profile_of_depth(Found(sources=sources)).axes
    assert [panel.get_title() for panel in panels] == ["net\n(f.h5)", "net\n(g.h5)"]
    ticks = [[label.get_text() for label in panel.get_xticklabels()] for panel in panels]
    assert ticks == [["a", "c"], ["b"]]
    assert panels[0].get_xlabel() == "module, in the order given"


@pytest.mark.parametrize(
    ("folds", "about", "points"),
    [
        (("0", "1", "2"), ", mean over 3 folds", "points of all 3 folds"),
        (("test",), "", "points held out"),
    ],
)
def test_predictions_say_what_r_is_of_and_which_points_are_drawn(folds, about, points):
    found = Found(folds=folds)
    ((name, predicted),) = found.predicted.items()
    scores = found.table[found.names.index(name)]
    panels = draw_predictions(found).axes
    order = np.argsort(-scores)[:4]
    assert [panel.get_title() for panel in panels] == [
        f"t{t}\nr = {scores[t]:.2f}{about}" for t in order
    ]
    assert panels[0].get_xlabel() == f"predicted for held-out images\n({points})"
    assert panels[0].get_ylabel() == "measured (unit as given)"
    drawn = panels[0].lines[0]
    np.testing.assert_array_equal(drawn.get_xdata(), predicted[:, order[0]])


def test_points_that_are_left_out_are_told_of():
    found = Found()
    name = next(iter(found.predicted))
    rng = np.random.default_rng(1)
    found.measured, found.predicted = rng.random((6000, 6)), {name: rng.random((6000, 6))}
    panel = draw_predictions(found).axes[0]
    assert len(panel.lines[0].get_xdata()) == 5000
    assert panel.get_xlabel().endswith("(the first 5000 points of all 3 folds)")


def test_every_slice_of_a_map_is_a_frame_with_its_label_and_its_voxels():
    places = np.array([[30, 12, 20], [33, 12, 20], [31, 17, 23], [30, 14, 24]])
    values = np.array([0.1, 0.2, 0.3, 0.4])
    figure = draw_flat_map(Grid((34, 18, 25), places), values, "r of the best module")
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["k = 20", "k = 23", "k = 24"]
    for panel in panels:
        assert all(spine.get_visible() for spine in panel.spines.values())
        assert panel.get_aspect() == 1
        assert (*panel.get_xlim(), *panel.get_ylim()) == (29.5, 33.5, 11.5, 17.5)
        (picture,) = panel.images
        shown = np.ma.filled(picture.get_array(), np.nan)
        left, _, low, _ = picture.get_extent()
        mine = places[:, 2] == int(panel.get_title().removeprefix("k = "))
        assert np.isfinite(shown).sum() == mine.sum()
        for (i, j, _), value in zip(places[mine], values[mine], strict=True):
            assert shown[int(j - low), int(i - left)] == value  # the pixel under the tick i, j
    assert figure.get_supxlabel() == "i, first index of the grid"
    assert figure.get_supylabel() == "j, second index of the grid"
    assert bar.get_ylabel() == "r of the best module"
    figure.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in panels]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1 :])


def test_a_plane_is_one_frame_without_a_number():
    places = np.array([[0, 0], [2, 1]])
    figure = draw_flat_map(Grid((3, 2), places), np.array([0.1, 0.2]), "r")
    panel, _ = figure.axes
    assert panel.get_title() == ""
    np.testing.assert_array_equal(
        np.ma.filled(panel.images[0].get_array(), -1), [[0.1, -1, -1], [-1, -1, 0.2]]
    )


def test_a_map_takes_the_room_of_its_targets_and_not_of_its_indices():
    places = np.array([[10**6, 10**6, 10**6], [10**6 + 1, 10**6, 10**6]])
    figure = draw_flat_map(Grid((10**6 + 2,) * 3, places), np.array([0.1, 0.2]), "r")
    assert figure.axes[0].images[0].get_array().shape == (1, 2)
