"""Compare two RDMs, or the features of two modules: one number, joined by image id."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError
from ..rdm import RDM
from .ceiling import Ceiling, ceiling
from .cka import kernel_similarity
from .comparators import DEFAULT_COMPARATOR, comparator
from .joining import common_ids, overlap_note
from .kernel import Kernel
from .vectors import similarities, undefined

__all__ = ["Side", "Similarity", "check_sides", "compare", "noise_ceiling", "why_undefined"]

Side = RDM | Kernel


@dataclass(frozen=True)
class Similarity:
    """How alike two sides are."""

    value: float
    """The mean over subjects where there are several; NaN where undefined."""
    n_images: int
    """On which they were compared."""
    note: str | None = None
    """What the user should know: images that only one side has, why there is no value."""

    def __float__(self) -> float:
        return self.value


def compare(a: Side, b: Side, method: str = DEFAULT_COMPARATOR) -> Similarity:
    """Return how alike two sides are, on the images that both have.

    Parameters
    ----------
    a, b : RDM or Kernel
        RDMs for a comparator of RDMs (see `COMPARATORS`), kernels for one of features.
    method : str

    Returns
    -------
    Similarity

    Raises
    ------
    RequestError
        If the comparator is not for these sides, a side has no ids, or fewer than three images are
        in common.
    """
    check_sides(method, a, b)
    common = common_ids([a, b])
    left, right = a.subset(common), b.subset(common)
    if isinstance(left, Kernel) and isinstance(right, Kernel):
        value = kernel_similarity(method, left.matrix, right.matrix)
    else:
        assert isinstance(left, RDM) and isinstance(right, RDM)
        value = float(np.mean(similarities(method, left.stack, right.stack)))
    notes = [overlap_note(a, b, common)]
    if math.isnan(value):
        notes.append(why_undefined(method, left, right))
    return Similarity(value, len(common), "; ".join(filter(None, notes)) or None)


def check_sides(method: str, *sides: Side) -> None:
    """Raise if a comparator is not for these sides.

    Raises
    ------
    RequestError
    """
    of_features = comparator(method).of == "features"
    for side in sides:
        if of_features and isinstance(side, RDM):
            raise RequestError(
                f"{method} compares features, and {side.name} is an RDM, from which they cannot be "
                f"told; use --compare {DEFAULT_COMPARATOR}"
            )
        if not of_features and isinstance(side, Kernel):
            raise RequestError(
                f"{method} compares RDMs, and {side.name} is a kernel of features; "
                "use --compare cka"
            )


def why_undefined(method: str, *sides: Side) -> str:
    """Return why a similarity of these sides is NaN."""
    for side in sides:
        if isinstance(side, RDM) and undefined(method, side.stack).any():
            what = "zero" if method.startswith("cosine") else "equal"
            return f"no {method} with {side.name}: all of its dissimilarities are {what}"
    if isinstance(sides[0], Kernel) and method != "procrustes" and sides[0].n_images < 4:
        return f"no debiased {method} of fewer than 4 images"
    names = " and ".join(side.name for side in sides)
    return f"no {method} of {names}: features hardly vary over these images"


def noise_ceiling(reference: RDM, method: str = DEFAULT_COMPARATOR) -> Ceiling:
    """Return how well any RDM could do against a reference of several subjects.

    Parameters
    ----------
    reference : RDM
    method : str
        A comparator of RDMs.

    Returns
    -------
    Ceiling
        NaN for a reference of one subject, which tells nothing of how subjects differ.

    Raises
    ------
    RequestError
        If the comparator is not one of RDMs.
    """
    check_sides(method, reference)
    return ceiling(method, reference.stack)
