"""Names beside points, where there is room for them."""

from __future__ import annotations

from collections.abc import Mapping
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
    figure: Figure, axes: Axes, places: npt.NDArray[np.float64], labels: Mapping[int, str]
) -> list[int]:
    """Write labels beside points so that none lies on another or on a point.

    Parameters
    ----------
    figure : Figure
    axes : Axes
        One of it, with everything else drawn.
    places : array, `[L, 2]`
        All points.
    labels : mapping from index of a point to str
        The most important first: those for which there is no room are left out.

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
        ):
            x, y = points[index] + (dx, dy)
            start = {"left": x, "right": x - width, "center": x - width / 2}[align]
            box = (start, y - _HEIGHT / 2, start + width, y + _HEIGHT / 2)
            fits = left < box[0] and box[2] < right and bottom < box[1] and box[3] < top
            others = taken[:index] + taken[index + 1 :]
            if fits and not any(_overlap(box, other) for other in others):
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
