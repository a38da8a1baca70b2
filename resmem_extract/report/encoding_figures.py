"""Encoding models as pictures: depth profiles, best modules, predictions, flat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..encoding import Grid
from .depth import ORDER, lines_over_depth, network_and_module, title_of
from .region_matrix import draw_region_matrix
from .style import COLOURS, MARKERS, SEQUENTIAL, draw_interval, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Encoded",
    "draw_best",
    "draw_encoding",
    "draw_flat_map",
    "draw_predictions",
    "draw_profile_of_depth",
]

Floats = npt.NDArray[np.float64]

_INCH = 0.075
"""Of a letter of a module's name."""
_ASIDE = 0.12
"""Of the room of a module, between its regions."""
_MOST_POINTS = 5000


class Encoded(Protocol):
    """What is drawn, as `encode` returns it; `L` modules, `t` targets, `n` measurements."""

    @property
    def names(self) -> tuple[str, ...]:
        """``network:module``, in the order of depth."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """The store of each module, by name."""
        ...

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of what was held out in turn."""
        ...

    @property
    def table(self) -> Floats:
        """Mean r over folds, `[L, t]`."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names."""
        ...

    @property
    def rois(self) -> tuple[str, ...]:
        """Region of each target; empty texts for none."""
        ...

    @property
    def ceiling(self) -> Floats:
        """Of r, `[t]`; NaN where there is none."""
        ...

    @property
    def best(self) -> npt.NDArray[np.intp]:
        """Module that predicts each target best, `[t]`; -1 for none."""
        ...

    @property
    def measured(self) -> npt.NDArray[np.floating]:
        """`[n, t]`."""
        ...

    @property
    def predicted(self) -> Mapping[str, npt.NDArray[np.floating]]:
        """By name of the module, `[n, t]`; of one at least."""
        ...

    @property
    def grid(self) -> Grid | None:
        """Where targets lie."""
        ...


def draw_encoding(folder: Path, data: Encoded, formats: Sequence[str]) -> list[Path]:
    """Draw everything that the scores allow, and write it.

    Parameters
    ----------
    folder : Path
    data : Encoded
    formats : sequence of str
        ``png``, ``svg``, ``pdf``.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    WorkError
        If the disk fails or is full.
    """
    figures: dict[str, Figure] = {"predictions": draw_predictions(data)}
    if len(data.names) > 1:
        figures["profile"] = draw_profile_of_depth(data)
        figures["best"] = draw_best(data)
    if data.grid is not None:
        top = np.where(np.isfinite(data.table), data.table, -np.inf).max(axis=0)
        top[np.isinf(top)] = np.nan
        figures["map_r"] = draw_flat_map(data.grid, top, "r of the best module")
        if len(data.names) > 1:
            depth = np.where(data.best < 0, np.nan, data.best.astype(np.float64))
            figures["map_best"] = draw_flat_map(data.grid, depth, "best module", data.names)
    written: list[Path] = []
    for stem, figure in figures.items():
        written += save(figure, folder / stem, formats)
    return written


def draw_profile_of_depth(data: Encoded) -> Figure:
    """Draw mean r over the modules of each network, one line a region, with its noise ceiling.

    Bands are 95 % intervals of the mean over targets (1.96 standard errors). More regions than
    there are colours that readers can tell apart are rows of a matrix.
    """
    regions = _regions(data)
    several = any(len(columns) > 1 for columns in regions.values())
    what = "r, mean over targets and folds" if several else "r, mean over folds"
    networks = lines_over_depth(data.names, data.sources)
    if len(regions) > len(COLOURS):
        rows = [_mean_and_half(data.table[:, own])[0] for own in regions.values()]
        tops = [_mean_and_half(data.ceiling[None, own])[0] for own in regions.values()]
        return draw_region_matrix(data, _sizes(regions), np.stack(rows), what, np.stack(tops))
    longest = max(len(network_and_module(name)[1]) for name in data.names) * _INCH
    width = max(4.5, 0.34 * max(map(len, networks.values())) + 2.2)
    figure = new_figure(width * (1 if len(networks) == 1 else 1.25), 3.9 + longest)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, (network, own) in zip(panels, networks.items(), strict=True):
        x = np.arange(len(own))
        for k, (region, columns) in enumerate(regions.items()):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            values = data.table[own][:, columns]
            mean, half = _mean_and_half(values)
            label = f"{region} ({len(columns)})" if len(columns) > 1 else region
            # Bars of one module would lie on each other.
            at = x + _ASIDE * (k - (len(regions) - 1) / 2) if len(own) == 1 else x
            axes.plot(at, mean, color=colour, marker=marker, markersize=4.5, label=label)
            if len(columns) > 1:
                draw_interval(axes, at, mean - half, mean + half, colour)
            ceiling = data.ceiling[columns]
            if np.isfinite(ceiling).any():
                axes.axhline(np.nanmean(ceiling), color=colour, linewidth=1, linestyle="--")
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xticks(x, [network_and_module(data.names[k])[1] for k in own], rotation=90)
        axes.set_title(title_of(network))
        axes.set_xlabel(ORDER)
        axes.set_xlim(-0.6, len(own) - 0.4)
        plain(axes)
    panels[0].set_ylabel(what)
    handles, labels = panels[0].get_legend_handles_labels()
    if several:
        bar = Line2D([], [], color="0.5", linestyle="none", marker="|", markersize=9)
        band = Patch(color="0.5", alpha=0.4, linewidth=0)
        handles.append(band if any(len(own) > 1 for own in networks.values()) else bar)
        labels.append("95 % interval of the mean over targets")
    if np.isfinite(data.ceiling).any():
        handles.append(Line2D([], [], color="0.3", linewidth=1, linestyle="--"))
        labels.append("noise ceiling" + (", mean over targets" if several else ""))
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    return figure


def draw_best(data: Encoded) -> Figure:
    """Draw for how many targets each module is the best, regions on top of one another."""
    regions = _regions(data)
    if len(regions) > len(COLOURS):
        numbers = np.arange(len(data.names))
        rows = [(data.best[own][:, None] == numbers).mean(axis=0) for own in regions.values()]
        what = "share of a region's targets that it predicts best"
        return draw_region_matrix(data, _sizes(regions), np.stack(rows), what)
    longest = max(len(name) for name in data.names) * _INCH
    several = len({network_and_module(name)[0] for name in data.names}) > 1
    labels = list(data.names) if several else [network_and_module(n)[1] for n in data.names]
    figure = new_figure(max(4.5, 0.34 * len(data.names) + 2.2), 3.4 + longest)
    axes = figure.subplots()
    x, floor = np.arange(len(data.names)), np.zeros(len(data.names))
    for k, (region, columns) in enumerate(regions.items()):
        counts = np.bincount(data.best[columns][data.best[columns] >= 0], minlength=len(x))
        axes.bar(x, counts, bottom=floor, color=COLOURS[k % len(COLOURS)], label=region)
        floor += counts
    axes.set_xticks(x, labels, rotation=90)
    axes.set_xlabel(ORDER)
    axes.set_ylabel("targets that it predicts best")
    axes.locator_params(axis="y", integer=True)
    if len(regions) > 1:
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    plain(axes)
    return figure


def draw_predictions(data: Encoded, most: int = 4) -> Figure:
    """Draw predicted against measured values, for the targets that are predicted best.

    The r above a panel is that of ``best.csv``, a mean over folds; the points are those of all
    folds together, whose r would be another.
    """
    name = max(
        (name for name in data.predicted if name in data.names),
        key=lambda name: np.nanmax(
            np.append(data.table[data.names.index(name)], -math.inf), initial=-math.inf
        ),
    )
    scores = data.table[data.names.index(name)]
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")[:most]
    k = len(data.folds)
    about, of = (f", mean over {k} folds", f"of all {k} folds") if k > 1 else ("", "held out")
    figure = new_figure(2.9 * len(order) + 0.4, 3.7)
    panels = figure.subplots(1, len(order), squeeze=False)[0]
    for axes, t in zip(panels, order.tolist(), strict=True):
        predicted, measured = data.predicted[name][:, t], data.measured[:, t]
        tested = np.isfinite(predicted)
        x, y = predicted[tested][:_MOST_POINTS], measured[tested][:_MOST_POINTS]
        points = f"points {of}" if len(x) == tested.sum() else f"the first {len(x)} points {of}"
        axes.plot(x, y, linestyle="none", marker="o", markersize=3, alpha=0.5, color=COLOURS[0])
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axes.plot([low, high], [low, high], color="0.5", linewidth=0.8)
        axes.set_title(f"{data.targets[t]}\nr = {scores[t]:.2f}{about}")
        axes.set_xlabel(f"predicted for held-out images\n({points})")
        plain(axes)
        axes.title.set_fontsize(9)
    panels[0].set_ylabel("measured (unit as given)")
    figure.suptitle(name, fontsize=10)
    return figure


def draw_flat_map(grid: Grid, values: Floats, what: str, names: Sequence[str] = ()) -> Figure:
    """Draw targets where they lie: a plane, or the slices of a volume that hold any.

    A frame is a slice, over the part of the grid that holds targets in any. Axes are the indices
    that were given: the second goes up; what is left or anterior is not known.

    Parameters
    ----------
    grid : Grid
    values : array, `[t]`
    what : str
        Of the values.
    names : sequence of str
        Where values are numbers of modules: their names.
    """
    places = grid.places if grid.places.shape[1] == 3 else np.pad(grid.places, ((0, 0), (0, 1)))
    first, last = places.min(axis=0), places.max(axis=0)
    volume = np.full(last - first + 1, np.nan)
    volume[tuple((places - first).T)] = values
    slices = np.unique(places[:, 2]).tolist()
    columns = math.ceil(math.sqrt(len(slices)))
    rows = math.ceil(len(slices) / columns)
    ratio = volume.shape[1] / volume.shape[0]
    side = 2.2 if len(slices) > 1 else 4.0
    figure = new_figure(side * columns + 2.0, max((side * ratio + 0.35) * rows, 1.5) + 0.8)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    limits: dict[str, Any] = {"vmin": -0.5, "vmax": len(names) - 0.5}
    if not names:
        finite = values[np.isfinite(values)]
        limits = {"vmin": min(0.0, finite.min(initial=0)), "vmax": finite.max(initial=1e-9)}
    left, right, low, high = first[0] - 0.5, last[0] + 0.5, first[1] - 0.5, last[1] + 0.5
    picture: Any = None
    for number, (panel, k) in enumerate(zip(panels, slices, strict=False)):
        picture = panel.imshow(
            volume[..., k - first[2]].T,
            origin="lower",
            extent=(left, right, low, high),
            cmap=_colours(len(names)),
            interpolation="nearest",
            **limits,
        )
        panel.locator_params(integer=True, nbins=5)
        panel.tick_params(labelsize=7, labelbottom=number + columns >= len(slices))
        panel.spines[:].set_color("0.5")
        if len(grid.shape) == 3:
            panel.set_title(f"k = {k}", fontsize=8, pad=3)
    for unused in panels[len(slices) :]:
        unused.remove()
    panels = panels[: len(slices)]
    figure.supxlabel("i, first index of the grid", fontsize=9)
    figure.supylabel("j, second index of the grid", fontsize=9)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label(what)
    if names:
        step = max(len(names) // 20, 1)
        several = len({network_and_module(name)[0] for name in names}) > 1
        shown = names if several else [network_and_module(name)[1] for name in names]
        bar.set_ticks(list(range(0, len(names), step)), labels=list(shown[::step]), fontsize=7)
    return figure


def _colours(n: int) -> Any:
    """Return the map of colours: in steps where values are numbers of modules."""
    import matplotlib

    if not n:
        return SEQUENTIAL
    return matplotlib.colormaps[SEQUENTIAL].resampled(n)


def _regions(data: Encoded) -> dict[str, npt.NDArray[np.intp]]:
    """Return the targets of each region; few targets without region are drawn one by one."""
    few = len(data.targets) <= len(COLOURS) and not any(data.rois)
    names = data.targets if few else [roi or "all targets" for roi in data.rois]
    given = np.array(names)
    return {str(name): np.flatnonzero(given == name) for name in dict.fromkeys(names)}


def _sizes(regions: Mapping[str, npt.NDArray[np.intp]]) -> dict[str, int]:
    """Return the number of targets of each region."""
    return {name: len(own) for name, own in regions.items()}


def _mean_and_half(values: Floats) -> tuple[Floats, Floats]:
    """Return mean and half of the 95 % interval over the second axis, of what is not NaN."""
    defined = np.isfinite(values)
    n = np.maximum(defined.sum(axis=1), 1)
    mean = np.where(defined, values, 0).sum(axis=1) / n
    spread = np.where(defined, (values - mean[:, None]) ** 2, 0).sum(axis=1) / np.maximum(n - 1, 1)
    mean = np.where(defined.any(axis=1), mean, np.nan)
    return mean, 1.96 * np.sqrt(spread / n)
