"""Representational dissimilarity matrices: the numbers, and which images they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RequestError, counted

__all__ = ["RDM", "condensed_places", "condensed_rows", "n_from_pairs", "pair_indices"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RDM:
    """Dissimilarities of all pairs of images: of one module, or of several subjects.

    Raises
    ------
    RequestError
        If the numbers do not fit the ids, two ids are equal, or a dissimilarity is NaN (the message
        names the images).
    """

    dissimilarities: Floats
    """`[n_pairs]`, or `[n_subjects, n_pairs]`: the upper triangle row by row, as SciPy's
    `squareform` has it."""
    ids: tuple[str, ...] | None
    """Of the images, in the order of rows and columns; without them nothing can be compared."""
    metric: str
    """How dissimilarity was measured, `correlation`; empty if unknown."""
    name: str
    """`model:canonical path`, or the name of a reference."""
    subjects: tuple[str, ...] = ()
    """Names of the subjects, if there are several RDMs."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the numbers come from, as JSON values."""

    def __post_init__(self) -> None:
        values = np.array(self.dissimilarities, dtype=np.float64)
        values.flags.writeable = False
        object.__setattr__(self, "dissimilarities", values)
        if values.ndim not in (1, 2) or 0 in values.shape:
            raise RequestError(
                f"{self.name}: expected dissimilarities [pairs] or [subjects, pairs], "
                f"got shape {values.shape}"
            )
        n = n_from_pairs(values.shape[-1], self.name)
        if self.ids is not None:
            ids = tuple(str(image_id) for image_id in self.ids)
            object.__setattr__(self, "ids", ids)
            if len(ids) != n:
                raise RequestError(f"{self.name}: {len(ids)} ids for {counted(n, 'image')}")
            if len(set(ids)) < n:
                twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
                raise RequestError(f"{self.name}: the image id {twice!r} is there twice")
        if values.ndim == 2:
            subjects = self.subjects or tuple(str(k) for k in range(len(values)))
            object.__setattr__(self, "subjects", tuple(str(subject) for subject in subjects))
        if len(self.subjects) != (len(values) if values.ndim == 2 else 0):
            raise RequestError(
                f"{self.name}: {counted(len(self.subjects), 'subject name')} for "
                f"{counted(len(values) if values.ndim == 2 else 0, 'subject')}"
            )
        if not np.isfinite(values).all():
            raise RequestError(f"{self.name}: {self._holes()}; leave these images out")

    def _holes(self) -> str:
        first, second = pair_indices(self.n_images)
        missing = ~np.isfinite(self.stack).all(axis=0)
        pairs = [
            f"{self._label(first[k])} and {self._label(second[k])}"
            for k in np.flatnonzero(missing)[:3]
        ]
        more = ", ..." if missing.sum() > 3 else ""
        return f"no finite dissimilarity of {', '.join(pairs)}{more}"

    def _label(self, row: int) -> str:
        return self.ids[row] if self.ids else f"row {row}"

    @classmethod
    def from_square(
        cls,
        matrix: npt.ArrayLike,
        ids: Sequence[str] | None,
        *,
        metric: str = "",
        name: str = "rdm",
        subjects: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> RDM:
        """Return the RDM of one square matrix, or of a stack of them, `[..., N, N]`.

        The diagonal may be NaN, as some toolboxes leave it.

        Raises
        ------
        RequestError
            If it is not square and symmetric, or its diagonal is neither zero nor NaN.
        """
        square = np.asarray(matrix, dtype=np.float64)
        if square.ndim not in (2, 3) or square.shape[-1] != square.shape[-2]:
            raise RequestError(
                f"{name}: expected a square matrix or a stack of them, got shape {square.shape}"
            )
        diagonal = np.diagonal(square, axis1=-2, axis2=-1)
        scale = np.nanmax(np.abs(square), initial=0.0)
        if np.nanmax(np.abs(diagonal), initial=0.0) > 1e-6 * scale:
            raise RequestError(
                f"{name}: the diagonal is not zero, so these are no dissimilarities; "
                "for similarities give 1 - r"
            )
        lower = np.swapaxes(square, -1, -2)
        if not np.allclose(square, lower, rtol=1e-5, atol=1e-6 * scale, equal_nan=True):
            raise RequestError(
                f"{name}: the matrix is not symmetric, as dissimilarities are: "
                f"{_asymmetry(square, ids)}; correct it, or give the mean of it and its transpose"
            )
        first, second = pair_indices(square.shape[-1])
        return cls(
            square[..., first, second],
            None if ids is None else tuple(ids),
            metric,
            name,
            tuple(subjects),
            dict(provenance or {}),
        )

    @property
    def n_images(self) -> int:
        """Number of rows and columns."""
        return n_from_pairs(self.dissimilarities.shape[-1], self.name)

    @property
    def n_subjects(self) -> int:
        """Number of RDMs; 1 where there are no subjects."""
        return len(self.stack)

    @property
    def stack(self) -> Floats:
        """The dissimilarities as `[n_subjects, n_pairs]`, whatever their number."""
        return np.atleast_2d(self.dissimilarities)

    def square(self) -> Floats:
        """Return the full matrix, `[N, N]` or `[n_subjects, N, N]`, zero on the diagonal."""
        n = self.n_images
        first, second = pair_indices(n)
        full = np.zeros((*self.dissimilarities.shape[:-1], n, n))
        full[..., first, second] = full[..., second, first] = self.dissimilarities
        return full

    def mean(self) -> RDM:
        """Return the mean over subjects; of a single one, itself."""
        if self.dissimilarities.ndim == 1:
            return self
        return replace(self, dissimilarities=self.dissimilarities.mean(axis=0), subjects=())

    def subset(self, ids: Sequence[str]) -> RDM:
        """Return the RDM of some of the images, in the order given.

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
        rows = np.array([row_of[image_id] for image_id in ids], dtype=np.intp)
        pairs = self.dissimilarities[..., condensed_rows(rows, self.n_images)]
        return replace(self, dissimilarities=pairs, ids=tuple(ids))

    def __repr__(self) -> str:
        of = f", {counted(len(self.subjects), 'subject')}" if self.subjects else ""
        return f"<RDM {self.name!r}: {counted(self.n_images, 'image')}{of}, {self.metric or '?'}>"


def _asymmetry(square: Floats, ids: Sequence[str] | None) -> str:
    """Return the two images whose two values differ most, and the values."""
    other = np.swapaxes(square, -1, -2)
    one_missing = np.isnan(square) != np.isnan(other)
    apart = np.where(one_missing, np.inf, np.nan_to_num(np.abs(square - other)))
    *subject, i, j = (int(k) for k in np.unravel_index(np.argmax(apart), square.shape))
    a, b = (str(ids[k]) if ids is not None and k < len(ids) else f"row {k}" for k in (i, j))
    there, back = square[(*subject, i, j)], square[(*subject, j, i)]
    of = f" of subject {subject[0]}" if subject else ""
    return f"{a} with {b} is {there:.6g}, {b} with {a} is {back:.6g}{of}"


def n_from_pairs(n_pairs: int, name: str = "the RDM") -> int:
    """Return the number of images that have so many pairs.

    Raises
    ------
    RequestError
        If there is none.
    """
    n = (1 + math.isqrt(1 + 8 * n_pairs)) // 2
    if n * (n - 1) // 2 != n_pairs or n_pairs == 0:
        raise RequestError(
            f"{name}: {n_pairs} numbers are not the pairs of any number of images (3, 6, 10, ...)"
        )
    return n


def pair_indices(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the two images of each pair, each `[n_pairs]`, in the order of an RDM."""
    first, second = np.triu_indices(n, 1)
    return first, second


def condensed_rows(rows: npt.NDArray[np.intp], n: int) -> npt.NDArray[np.intp]:
    """Return where the pairs of some of n images stand in the RDM of all of them.

    Parameters
    ----------
    rows : int array, `[m]`
        No two equal.
    n : int

    Returns
    -------
    int array, `[m * (m - 1) / 2]`
    """
    first, second = pair_indices(len(rows))
    return condensed_places(rows[first], rows[second], n)


def condensed_places(
    first: npt.NDArray[np.intp], second: npt.NDArray[np.intp], n: int
) -> npt.NDArray[np.intp]:
    """Return where pairs of n images stand in their RDM, `[P]`.

    Parameters
    ----------
    first, second : int array, `[P]`
        Never the same image.
    n : int
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    found: npt.NDArray[np.intp] = low * n - low * (low + 1) // 2 + high - low - 1
    return found
