"""What all figures share: sizes, fonts, colours that colour-blind readers can tell apart, files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..compare import COMPARATORS
from ..errors import MissingExtraError, unwritable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "MARKERS",
    "MOST_NUMBERS",
    "SEQUENTIAL",
    "axis_label",
    "check_figures",
    "distance_label",
    "draw_interval",
    "new_figure",
    "plain",
    "save",
    "write_numbers",
]

Floats = npt.NDArray[np.float64]

SEQUENTIAL = "cividis"
"""A map that readers with any colour vision see alike."""
# Okabe and Ito (2008), without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_NUMBERS = 16
"""Modules up to which numbers are written into the cells of a matrix."""

_FONT = 9.0
_RESOLUTION = 200
_SYMBOLS = {
    "spearman": "Spearman's \N{GREEK SMALL LETTER RHO}",
    "pearson": "Pearson's r",
    "tau-a": "Kendall's \N{GREEK SMALL LETTER TAU}\N{LATIN SUBSCRIPT SMALL LETTER A}",
    "rho-a": "\N{GREEK SMALL LETTER RHO}\N{LATIN SUBSCRIPT SMALL LETTER A}",
    "cosine": "cosine",
    "cosine-cov": "whitened cosine",
    "corr-cov": "whitened correlation",
    "cka": "linear CKA, debiased",
    "cka-rbf": "Gaussian CKA, debiased",
    "procrustes": "Procrustes similarity",
}
_DISTANCES = {
    "correlation": "correlation distance (1 - r)",
    "cosine": "cosine distance (1 - cos)",
    "euclidean": "Euclidean distance (units of activation)",
    "sqeuclidean": "squared Euclidean distance (units of activation²)",
    "crossnobis": "crossnobis distance (squared, a channel)",
    "": "dissimilarity (as given)",
}
assert set(_SYMBOLS) == set(COMPARATORS)


def axis_label(method: str) -> str:
    """Return how a comparator is written on an axis; all are without unit."""
    return _SYMBOLS[method]


def distance_label(metric: str) -> str:
    """Return how a dissimilarity is written on an axis, with its unit."""
    return _DISTANCES.get(metric, metric)


def check_figures() -> None:
    """Check that figures can be drawn, before the work of which they are to be.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    new_figure(1, 1)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            "figures need matplotlib: pip install 'resmem-extract[rsa]'; or --figures none"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def draw_interval(
    axes: Axes,
    x: npt.NDArray[Any],
    low: Floats,
    high: Floats,
    colour: str,
    label: str | None = None,
) -> None:
    """Draw intervals as a band, and those of a module without neighbours as a bar.

    Parameters
    ----------
    axes : Axes
    x, low, high : array, `[L]`
        NaN where there is no interval.
    colour : str
    label : str, optional
        For the legend.
    """
    defined = np.isfinite(low)
    beside = np.pad(defined, 1)
    alone = defined & ~beside[:-2] & ~beside[2:]  # of which a band would have no width
    if (defined & ~alone).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, label=label)
        label = None
    if alone.any():
        half = (high - low)[alone] / 2
        bar: dict[str, Any] = {"ecolor": colour, "elinewidth": 1.4, "capsize": 4, "label": label}
        axes.errorbar(x[alone], low[alone] + half, half, fmt="none", **bar)


def write_numbers(axes: Axes, matrix: Floats, low: float, high: float) -> None:
    """Write two digits into the cells of a matrix that is drawn by `SEQUENTIAL`, dark on bright.

    Parameters
    ----------
    axes : Axes
    matrix : array, `[rows, columns]`
    low, high : float
        Ends of the colours.
    """
    for i, j in np.ndindex(*matrix.shape):
        value = float(matrix[i, j])
        if not math.isnan(value):
            colour = "white" if value < low + 0.5 * (high - low) else "black"
            # Without the zero before the point, and zero without a sign.
            text = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=6.5)


def plain(axes: Axes) -> None:
    """Take off what a reader does not need, and set the size of letters."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT)
    axes.xaxis.label.set_fontsize(_FONT + 1)
    axes.yaxis.label.set_fontsize(_FONT + 1)
    axes.title.set_fontsize(_FONT + 2)


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure in each format.

    Raises
    ------
    WorkError
        If the disk fails or is full.
    """
    import matplotlib

    written = []
    # Text stays text, which editors of figures can change.
    with matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": _FONT}):
        for ending in formats:
            path = stem.with_name(f"{stem.name}.{ending}")
            try:
                figure.savefig(path, format=ending, dpi=_RESOLUTION, bbox_inches="tight")
            except OSError as error:  # of the name alone: the folder may be a hidden one
                raise unwritable(Path(path.name), error) from error
            written.append(path)
    return written
