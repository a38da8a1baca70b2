"""What all figures share: sizes, fonts, colours that colour-blind readers can tell apart, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compare import COMPARATORS
from ..errors import MissingExtraError, unwritable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "MARKERS",
    "SEQUENTIAL",
    "axis_label",
    "check_figures",
    "distance_label",
    "new_figure",
    "save",
]

SEQUENTIAL = "cividis"
"""A map that readers with any colour vision see alike."""
# Okabe and Ito (2008), without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

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
