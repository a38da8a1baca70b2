"""Comparisons as pictures: the matrix of layers, profiles over depth, and a map of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..compare.table import Row
from .depth import ORDER, lines_over_depth, network_and_module, title_of
from .labels import place_labels
from .style import (
    COLOURS,
    MARKERS,
    MOST_NUMBERS,
    SEQUENTIAL,
    axis_label,
    draw_interval,
    new_figure,
    plain,
    write_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["classical_scaling", "draw_map", "draw_matrix", "draw_profile", "similarity_matrix"]

Floats = npt.NDArray[np.float64]

_CELL, _STEP, _LETTER = 0.22, 0.22, 0.075
"""Inches of a cell, of a module on an axis, and of a letter of its name."""


def similarity_matrix(rows: Sequence[Row], names: Sequence[str]) -> Floats:
    """Return similarities as a square matrix, 1 on the diagonal, NaN where there is none."""
    place = {name: k for k, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for row in rows:
        if row.a in place and row.b in place:
            i, j = place[row.a], place[row.b]
            matrix[i, j] = matrix[j, i] = row.value
    return matrix


def draw_matrix(rows: Sequence[Row], names: Sequence[str]) -> Figure:
    """Draw how alike every two modules are, networks apart.

    Parameters
    ----------
    rows : sequence of Row
        Of one metric and comparator.
    names : sequence of str
        Of the modules, those of a network together.
    """
    matrix = similarity_matrix(rows, names)
    n = len(names)
    side = max(3.0, _CELL * n)
    networks = [network_and_module(name)[0] for name in names]
    modules = [network_and_module(name)[1] for name in names]
    longest = max(map(len, modules)) * _LETTER
    figure = new_figure(side + longest + 2.0, side + longest + 1.0)
    axes = figure.subplots()
    low = min(0.0, float(np.nanmin(matrix)))
    picture = axes.imshow(matrix, cmap=SEQUENTIAL, vmin=low, vmax=1, interpolation="nearest")
    plain(axes)
    axes.set_xticks(range(n), modules, rotation=90)
    axes.set_yticks(range(n), modules)
    axes.tick_params(length=0)
    axes.set_xlabel(ORDER)
    axes.set_ylabel(ORDER)
    _mark_networks(axes, networks)
    if n <= MOST_NUMBERS:
        write_numbers(axes, matrix, low, 1)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label(_what(rows[0]))
    return figure


def _mark_networks(axes: Axes, networks: Sequence[str]) -> None:
    """Part networks by lines, and name them above their columns; rows are in the same order."""
    starts = [k for k in range(len(networks)) if k == 0 or networks[k] != networks[k - 1]]
    ends = [*starts[1:], len(networks)]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=1.5)
        axes.axvline(start - 0.5, color="white", linewidth=1.5)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    names = [networks[start] for start in starts]
    above = axes.secondary_xaxis("top")
    # Names of several networks would run into each other if they lay level.
    slanted: dict[str, Any] = {"rotation": 30, "ha": "left"} if len(names) > 1 else {}
    above.set_xticks(middles, names, **slanted)
    above.tick_params(length=0, labelsize=float(axes.xaxis.label.get_fontsize()) - 1)
    above.spines[:].set_visible(False)


def draw_profile(
    rows: Sequence[Row],
    reference: str,
    *,
    subjects: int = 1,
    sources: Mapping[str, str] | None = None,
) -> Figure:
    """Draw how alike modules are to a reference, over the depth of each network.

    Bands and stars answer two questions, and the legend says which: an interval is over what was
    resampled, of several subjects these too; p is of these subjects, whose images are relabelled.

    Parameters
    ----------
    rows : sequence of Row
        Of one metric and comparator, with any references; modules in the order of depth.
    reference : str
    subjects : int
        Of the reference.
    sources : mapping from name to path, optional
        The store of each module.
    """
    mine = [row for row in rows if row.b == reference]
    lines = lines_over_depth([row.a for row in mine], sources)
    networks = {name: [mine[k] for k in own] for name, own in lines.items()}
    longest = max(len(network_and_module(row.a)[1]) for row in mine) * _LETTER
    titles = [title_of(network) for network in networks]
    sizes = [
        max(len(own), 3, max(map(len, title.split("\n"))) * _LETTER * 1.25 / _STEP)
        for title, own in zip(titles, networks.values(), strict=True)
    ]
    width = max(4.5, _STEP * sum(sizes) + 1.2)
    figure = new_figure(width, 4.0 + longest)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False, width_ratios=sizes)[0]
    floor = _floor(mine)
    for k, (axes, own) in enumerate(zip(panels, networks.values(), strict=True)):
        _one_profile(axes, own, floor, k, subjects)
        axes.set_title(titles[k])
    figure.supxlabel(ORDER, fontsize=panels[0].yaxis.label.get_size())
    panels[0].set_ylabel(f"similarity to {reference}\n({_what(mine[0])})")
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    figure.legend(
        list(found.values()),
        list(found),
        frameon=False,
        fontsize=8,
        loc="outside upper center",
        ncols=1 if width < 7 else 2,  # the longest entry takes about three inches
    )
    return figure


def _floor(rows: Sequence[Row]) -> float:
    """Return where marks of significance stand: under all that is drawn."""
    drawn = np.array([(row.value, row.ci_low, row.ci_high, row.ceiling_high) for row in rows])
    drawn = drawn[np.isfinite(drawn)]
    low, high = float(drawn.min(initial=0.0)), float(drawn.max(initial=0.0))
    return low - 0.06 * max(high - low, 1e-3)


def _one_profile(axes: Axes, rows: Sequence[Row], floor: float, k: int, subjects: int) -> None:
    colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
    resampled, fixed = "images resampled", ""
    if subjects > 1:
        resampled, fixed = "images and subjects resampled", f", these {subjects} subjects"
    x = np.arange(len(rows))
    values, low, high = (
        np.array([getattr(row, name) for row in rows]) for name in ("value", "ci_low", "ci_high")
    )
    ceiling = rows[0].ceiling_low, rows[0].ceiling_high
    if not math.isnan(ceiling[0]):
        axes.axhspan(*ceiling, color="0.85", linewidth=0, label="noise ceiling")
    draw_interval(axes, x, low, high, colour, f"95 % interval: {resampled}")
    label = f"mean over {subjects} subjects" if subjects > 1 else "value"
    axes.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=label)
    significant = np.array([row.p_fdr < 0.05 for row in rows])
    if significant.any():
        axes.plot(
            x[significant],
            np.full(significant.sum(), floor),
            linestyle="none",
            marker="*",
            color="black",
            markersize=5,
            label=f"p < 0.05 (FDR): images relabelled{fixed}",
        )
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(x, [network_and_module(row.a)[1] for row in rows], rotation=90)
    axes.set_xlim(-0.6, max(len(rows), 2) - 0.4)
    plain(axes)


def draw_map(
    matrix: Floats,
    names: Sequence[str],
    what: str,
    *,
    references: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
) -> Figure:
    """Draw modules as points that lie the nearer the more alike they are.

    Parameters
    ----------
    matrix : array, `[L, L]`
        Similarities, 1 on the diagonal.
    names : sequence of str
        ``network:module``, in the order of depth, or the name of a reference.
    what : str
        Of the similarities.
    references : sequence of str
        Those of the names that are references.
    sources : mapping from name to path, optional
        The store of each module; the modules of one are joined by a line.
    """
    places, share = classical_scaling(1 - matrix)
    figure = new_figure(7.2, 5.6)
    from matplotlib.lines import Line2D

    axes = figure.subplots()
    known = [k for k, name in enumerate(names) if name in references]
    modules = [k for k in range(len(names)) if k not in known]
    lines = {
        label: [modules[k] for k in own]
        for label, own in lines_over_depth([names[k] for k in modules], sources).items()
    }
    for k, (label, own) in enumerate([*lines.items(), *((names[r], [r]) for r in known)]):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        x, y = places[own].T
        if len(own) > 1:
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.6)
        axes.plot(x, y, color=colour, marker=marker, linestyle="none", markersize=6, label=label)
    plain(axes)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    axes.set_xlabel(f"first axis (1 - {what})")
    axes.set_ylabel(f"second axis (1 - {what})")
    axes.set_title(f"{100 * share:.0f} % of squared distances lie in this plane")
    handles, labels = axes.get_legend_handles_labels()
    if any(len(own) > 1 for own in lines.values()):
        handles.append(Line2D([], [], color="0.4", linewidth=0.9))
        labels.append("modules of one store, in the order given")
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    # References come first, then ends of lines, where not all have room.
    ends = [index for own in lines.values() for index in (own[0], own[-1])]
    shown = {k: names[k] for k in known}
    shown |= {k: network_and_module(names[k])[1] for k in dict.fromkeys([*ends, *modules])}
    place_labels(figure, axes, places, shown, list(lines.values()))
    return figure


def classical_scaling(distances: Floats) -> tuple[Floats, float]:
    """Return points in the plane whose distances are nearest to those given (Torgerson, 1952).

    Parameters
    ----------
    distances : array, `[L, L]`

    Returns
    -------
    points : array, `[L, 2]`
    share : float
        Of the positive part of the scatter that the plane holds.
    """
    centring = np.eye(len(distances)) - 1 / len(distances)
    scatter = -0.5 * centring @ distances**2 @ centring
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = values[::-1], vectors[:, ::-1]
    # The sign of an axis is arbitrary; this makes it the same on every machine.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(largest))])
    positive = np.maximum(values, 0.0)
    points = vectors[:, :2] * np.sqrt(positive[:2])
    return points, float(positive[:2].sum() / max(positive.sum(), np.finfo(float).tiny))


def _what(row: Row) -> str:
    label = axis_label(row.compare)
    return f"{label} of {row.metric} RDMs" if row.metric else label
