"""Scores of many regions as a matrix: more than lines that readers can tell apart by colour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from .depth import ORDER, lines_over_depth, network_and_module, title_of
from .style import MOST_NUMBERS, SEQUENTIAL, new_figure, plain, write_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_region_matrix"]

Floats = npt.NDArray[np.float64]

_WIDTH, _HEIGHT = 0.3, 0.22
"""Inches of a cell, in which two digits have room."""
_LINE, _LETTER, _OF_TITLE = 0.14, 0.075, 0.1
"""Inches of a line of text, of a letter of it, and of one of a title."""
_TALLEST = 8.0
"""Inches of the cells of a page: those of more regions are lower, and not every one is named."""


class Modules(Protocol):
    """Which modules there are, `L`."""

    @property
    def names(self) -> tuple[str, ...]:
        """``network:module``, in the order of depth."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """The store of each module, by name."""
        ...


def draw_region_matrix(
    modules: Modules,
    regions: Mapping[str, int],
    values: Floats,
    what: str,
    ceilings: Floats | None = None,
) -> Figure:
    """Draw a row a region and a column a module, the modules of each store apart.

    Parameters
    ----------
    modules : Modules
    regions : mapping from name to number of targets
        In the order of rows.
    values : array, `[R, L]`
    what : str
        Of the values.
    ceilings : array, `[R, 1]`, optional
        The best that could be, in a column of their own; NaN where there is none.
    """
    panels = [
        (values[:, own], [network_and_module(modules.names[k])[1] for k in own], title_of(line))
        for line, own in lines_over_depth(modules.names, modules.sources).items()
    ]
    if ceilings is not None and np.isfinite(ceilings).any():
        panels.append((ceilings, ["noise ceiling"], ""))
    widths = [part.shape[1] for part, _, _ in panels]
    everything = np.hstack([part for part, _, _ in panels])
    everything = everything[np.isfinite(everything)]
    low, high = everything.min(initial=0.0), everything.max(initial=1e-9)
    names = [f"{name} ({n})" if n > 1 else name for name, n in regions.items()]
    height = min(_HEIGHT, _TALLEST / len(names))
    # Columns are as wide everywhere, and panels as wide as their titles.
    width = _WIDTH
    for part, _, title in panels:
        title_width = _OF_TITLE * max(map(len, title.split("\n")))
        width = max(width, title_width / part.shape[1])
    below = max(len(module) for _, labels, _ in panels for module in labels) * _LETTER
    beside = max(map(len, names)) * _LETTER + 1.6
    figure = new_figure(width * sum(widths) + beside, height * len(names) + below + 1)
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (part, labels, title) in zip(drawn, panels, strict=True):
        picture = axes.imshow(
            part, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest", aspect="auto"
        )
        if height == _HEIGHT and len(modules.names) <= MOST_NUMBERS:
            write_numbers(axes, part, low, high)
        plain(axes)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_title(title)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    step = math.ceil(_LINE / height)
    drawn[0].set_yticks(range(0, len(names), step), names[::step])
    figure.supxlabel(ORDER, fontsize=drawn[0].yaxis.label.get_size())
    bar = figure.colorbar(picture, ax=list(drawn), shrink=0.6, pad=0.02)
    bar.set_label(what)
    return figure
