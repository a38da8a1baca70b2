"""An RDM as a picture: images sorted into blocks, with thumbnails beside rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..decoding import LoadedImage, load_images
from ..images import StimulusSet
from ..rdm import RDM
from .style import SEQUENTIAL, distance_label, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["draw_rdm", "sorted_by_group"]

_SIDE = 4.4
"""Inches of the matrix, about; what is around it decides."""
_THUMBNAIL = 0.22
"""Inches."""
_GAP = 0.015
"""Between pictures and a label, of the side of the matrix."""
_PIXELS = 64
"""Of the longer side of a thumbnail."""
_MOST_THUMBNAILS = 200


def sorted_by_group(rdm: RDM, groups: Mapping[str, str]) -> tuple[RDM, list[tuple[str, int, int]]]:
    """Return an RDM with the images of each group together, and where groups begin and end.

    Parameters
    ----------
    rdm : RDM
    groups : mapping from id to name of the group
        In the order in which groups first appear; empty for one block.

    Returns
    -------
    RDM
    list of (name, first row, row after the last)
    """
    ids = list(rdm.ids or ())
    if not groups or not ids:
        return rdm, []
    names = list(dict.fromkeys(groups.get(image_id, "") for image_id in ids))
    rank = {name: k for k, name in enumerate(names)}
    order = sorted(ids, key=lambda image_id: rank[groups.get(image_id, "")])
    blocks = []
    start = 0
    for name in names:
        size = sum(groups.get(image_id, "") == name for image_id in ids)
        blocks.append((name, start, start + size))
        start += size
    return rdm.subset(order), blocks


def draw_rdm(
    rdm: RDM, *, groups: Mapping[str, str] | None = None, images: StimulusSet | None = None
) -> Figure:
    """Draw the mean RDM over subjects.

    Parameters
    ----------
    rdm : RDM
    groups : mapping from id to name, optional
        What puts images into blocks.
    images : StimulusSet, optional
        For thumbnails, by id; up to 200 images.
    """
    ordered, blocks = sorted_by_group(rdm.mean(), groups or {})
    ids = ordered.ids or ()
    thumbnails = _thumbnails(images, ids) if len(ids) <= _MOST_THUMBNAILS else []
    figure = new_figure(_SIDE + 4.0, _SIDE + 3.2)
    axes = figure.subplots()
    square = ordered.square()
    off_diagonal = ordered.dissimilarities
    low, high = np.percentile(off_diagonal, [1, 99]) if len(off_diagonal) > 2 else (None, None)
    picture = axes.imshow(square, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
    plain(axes)
    of_several = f", mean over {rdm.n_subjects} subjects" if rdm.n_subjects > 1 else ""
    axes.set_title(f"{rdm.name}{of_several}", pad=8)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02, extend="both")
    bar.set_label(distance_label(rdm.metric))
    if blocks:
        _mark_blocks(axes, blocks)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.xaxis.set_label_position("bottom")
    axes.yaxis.set_label_position("left")
    room = _place_thumbnails(axes, thumbnails) if thumbnails else 0.0
    # In parts of the matrix, which the layout makes as large as there is room.
    axes.xaxis.set_label_coords(0.5, -room - _GAP)
    axes.yaxis.set_label_coords(-room - _GAP, 0.5)
    what = f"images (n = {rdm.n_images}), in the same order on both axes"
    axes.set_xlabel(what)
    axes.set_ylabel(what)
    return figure


def _mark_blocks(axes: Axes, blocks: Sequence[tuple[str, int, int]]) -> None:
    middles = [(start + end - 1) / 2 for _, start, end in blocks]
    names = [name for name, _, _ in blocks]
    for _, start, _ in blocks[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=0.8)
        axes.axvline(start - 0.5, color="white", linewidth=0.8)
    axes.xaxis.tick_top()
    axes.yaxis.tick_right()
    axes.set_xticks(middles, names, rotation=45, ha="left")
    axes.set_yticks(middles, names)
    axes.tick_params(length=0)


def _thumbnails(stimuli: StimulusSet | None, ids: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return small pictures, none at all if one is missing or cannot be read."""
    if stimuli is None:
        return []
    row_of = {image_id: row for row, image_id in enumerate(stimuli.ids)}
    if not row_of.keys() >= set(ids):
        return []
    wanted = stimuli.take([row_of[image_id] for image_id in ids])
    found = list(load_images(wanted, _thumbnail, workers=0, on_error="skip"))
    pictures = [loaded.pixels for loaded in found if isinstance(loaded, LoadedImage)]
    return pictures if len(pictures) == len(found) else []


def _thumbnail(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.thumbnail((_PIXELS, _PIXELS))
    return np.asarray(image)


def _place_thumbnails(axes: Axes, pictures: Sequence[npt.NDArray[Any]]) -> float:
    """Put pictures left of rows and under columns, staggered; return their share of the matrix."""
    steps = max(int(np.ceil(_THUMBNAIL * len(pictures) / _SIDE)), 1)
    # Those of the first and the last image reach beyond the matrix by half their size.
    half = _THUMBNAIL / _SIDE / 2
    across = steps * 2 * half
    for upright, bounds in (
        (True, (-across - half / 2, -half, across, 1 + 2 * half)),
        (False, (-half, -across - half / 2, 1 + 2 * half, across)),
    ):
        strip = axes.inset_axes(bounds)
        strip.imshow(_strip(pictures, steps, upright), aspect="auto", interpolation="antialiased")
        strip.set_axis_off()
    return across + half / 2


def _strip(
    pictures: Sequence[npt.NDArray[Any]], steps: int, upright: bool
) -> npt.NDArray[np.uint8]:
    """Return one picture of all, in the order of rows, or of columns, the first next to them."""
    length = round(_SIDE / _THUMBNAIL * _PIXELS)
    along, across = length + _PIXELS, steps * _PIXELS
    canvas = np.full((along, across, 3) if upright else (across, along, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        middle = _PIXELS / 2 + (k + 0.5) / len(pictures) * length
        near = (k % steps + 0.5) * _PIXELS
        y, x = (middle, across - near) if upright else (near, middle)
        top, left = round(y - picture.shape[0] / 2), round(x - picture.shape[1] / 2)
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas
