"""Names beside points, where there is room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["place_labels"]

_SIZE = 7.0
"""Of letters, points."""
_WIDTH, _HEIGHT = 0.58 * _SIZE, 1.25 * _SIZE
"""Of a letter with what parts it from others, points."""
_MARKER = 3.5
"""Half a marker, points."""
_AWAY = 5.0


def place_labels(
    figure: Figure,
    axes: Axes,
    places: npt.NDArray[np.float64],
    labels: Mapping[int, str],
    lines: Sequence[Sequence[int]] = (),
) -> list[int]:
    """Write labels beside points so that none lies on another, on a point or on a line.

    Parameters
    ----------
    figure : Figure
    axes : Axes
        One of it, with everything else drawn.
    places : array, `[L, 2]`
        All points.
    labels : mapping from index of a point to str
        The most important first: those for which there is no room are left out.
    lines : sequence of sequence of int
        The points that each line joins.

    Returns
    -------
    list of int
        The points that have a label.
    """
    figure.draw_without_rendering()  # settles the layout, and with it where points are
    points = axes.transData.transform(places) * 72 / figure.dpi
    inside = axes.get_window_extent()
    left, bottom, right, top = (edge * 72 / figure.dpi for edge in inside.extents)
    taken = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in points]
    starts = points[np.array([k for line in lines for k in line[:-1]], dtype=np.intp)]
    ends = points[np.array([k for line in lines for k in line[1:]], dtype=np.intp)]
    labelled = []
    for index, text in labels.items():
        width = _WIDTH * len(text)
        for dx, dy, align in (
            (_AWAY, 0.0, "left"),
            (-_AWAY, 0.0, "right"),
            (0.0, _AWAY + 3, "center"),
            (0.0, -_AWAY - 3, "center"),
            (_AWAY, _AWAY, "left"),
            (_AWAY, -_AWAY, "left"),
            (-_AWAY, _AWAY, "right"),
            (-_AWAY, -_AWAY, "right"),
            (_AWAY, _AWAY + 4, "left"),
            (_AWAY, -_AWAY - 4, "left"),
            (-_AWAY, _AWAY + 4, "right"),
            (-_AWAY, -_AWAY - 4, "right"),
        ):
            x, y = points[index] + (dx, dy)
            start = {"left": x, "right": x - width, "center": x - width / 2}[align]
            box = (start, y - _HEIGHT / 2, start + width, y + _HEIGHT / 2)
            fits = left < box[0] and box[2] < right and bottom < box[1] and box[3] < top
            others = taken[:index] + taken[index + 1 :]
            free = not any(_overlap(box, other) for other in others)
            if fits and free and not _crossed(box, starts, ends):
                axes.annotate(
                    text,
                    places[index],
                    xytext=(dx, dy),
                    textcoords="offset points",
                    fontsize=_SIZE,
                    ha=align,
                    va="center",
                )
                taken.append(box)
                labelled.append(index)
                break
    return labelled


_Box = tuple[float, float, float, float]


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _crossed(box: _Box, starts: npt.NDArray[np.float64], ends: npt.NDArray[np.float64]) -> bool:
    """Return whether any segment runs through a box (Liang and Barsky, 1984)."""
    corner, opposite = np.array(box[:2]), np.array(box[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where on the segment, from 0 to 1, it is within the box along each axis.
        one, other = (corner - starts) / (ends - starts), (opposite - starts) / (ends - starts)
    enters, leaves = np.fmin(one, other).max(axis=1), np.fmax(one, other).min(axis=1)
    return bool((np.maximum(enters, 0) < np.minimum(leaves, 1)).any())
