"""Which images two sides have in common: everything is joined by id, nothing by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import RequestError, counted, stem_advice

__all__ = ["MIN_IMAGES", "Named", "common_ids", "overlap_note"]

MIN_IMAGES = 3
"""Fewer have one dissimilarity, and nothing to correlate."""


class Named(Protocol):
    """An RDM or a kernel."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def ids(self) -> tuple[str, ...] | None:
        """Of its images."""
        ...


def common_ids(sides: Sequence[Named]) -> tuple[str, ...]:
    """Return the images that all sides have, in the order of the first.

    Raises
    ------
    RequestError
        If a side has no ids, or there are too few images in common.
    """
    for side in sides:
        if side.ids is None:
            raise RequestError(
                f"{side.name} has no ids of images, and positions prove nothing; give ids "
                "(rx.rsa.rdm(..., ids=[...]), or --reference-ids FILE)"
            )
    first, *others = sides
    ids = [set(side.ids or ()) for side in sides]
    shared = set.intersection(*ids)
    common = tuple(image_id for image_id in first.ids or () if image_id in shared)
    if len(common) < MIN_IMAGES:
        other = min(others, key=lambda side: len(ids[0] & set(side.ids or ())), default=first)
        shown = " and ".join(
            f"{side.name} has {side.ids[0]!r}" for side in (first, other) if side.ids
        )
        more = f"give sides that share {MIN_IMAGES} images or more, under the same ids"
        raise RequestError(
            f"{first.name} and {other.name} have {counted(len(common), 'image')} in common, and "
            f"comparing takes {MIN_IMAGES}: {shown}; "
            + stem_advice(first.ids or (), other.ids or (), more)
        )
    return common


def overlap_note(a: Named, b: Named, common: Sequence[str]) -> str | None:
    """Return what to tell the user if two sides are not of the same images."""
    left, right = len(a.ids or ()), len(b.ids or ())
    if len(common) == left == right:
        return None
    return (
        f"{a.name} has {counted(left, 'image')}, {b.name} has {right}: compared on the "
        f"{len(common)} that both have"
    )
