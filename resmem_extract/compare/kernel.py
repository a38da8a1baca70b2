"""Inner products of features as a record: what CKA and Procrustes need of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError

__all__ = ["Kernel", "centred"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Kernel:
    """Inner products of the features of all pairs of images, each feature less its mean.

    Raises
    ------
    RequestError
        If two ids are equal.
    """

    matrix: Floats
    """`[N, N]`; rows and columns sum to zero."""
    ids: tuple[str, ...] | None
    """Of the images, in the order of rows and columns; without them nothing can be compared."""
    name: str
    """`model:canonical path`, or the name of measured patterns."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the numbers come from, as JSON values."""

    def __post_init__(self) -> None:
        ids = self.ids or ()
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise RequestError(f"{self.name}: the image id {twice!r} is there twice")

    @property
    def n_images(self) -> int:
        """Number of rows and columns."""
        return len(self.matrix)

    def subset(self, ids: Sequence[str]) -> Kernel:
        """Return the kernel of some of the images, centred anew, in the order given.

        Raises
        ------
        RequestError
            If there is no image of some id.
        """
        if tuple(ids) == self.ids:
            return self
        row_of = {image_id: row for row, image_id in enumerate(self.ids or ())}
        unknown = [image_id for image_id in ids if image_id not in row_of]
        if unknown:
            raise RequestError(f"{self.name} has no image {unknown[0]!r}")
        rows = [row_of[image_id] for image_id in ids]
        return replace(self, matrix=centred(self.matrix[np.ix_(rows, rows)]), ids=tuple(ids))

    def __repr__(self) -> str:
        return f"<Kernel {self.name!r}: {self.n_images} images>"


def centred(products: Floats) -> Floats:
    """Return ``H @ products @ H``, where H takes off the mean over images; symmetric input."""
    means = products.mean(axis=0)
    result: Floats = products - means - means[:, None] + means.mean()
    return result
