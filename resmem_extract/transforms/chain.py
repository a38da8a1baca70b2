"""Steps fitted one after the other, and applied to blocks of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted
from .steps import Step
from .vectors import Vectors

__all__ = ["Chain", "fit"]


@dataclass(frozen=True)
class Chain:
    """Fitted steps. Made by `fit`."""

    steps: tuple[Step, ...]
    estimators: tuple[Any, ...]
    """Of scikit-learn, one a step."""
    size: int
    """Values an image that come out."""
    notes: tuple[str, ...] = ()
    """What the user should know of the fit, a line each."""

    def __call__(self, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `[n, size]`, float32, for `[n, d]`."""
        for estimator in self.estimators:
            block = np.asarray(estimator.transform(block), dtype=np.float32)
        return block


def fit(
    steps: Sequence[Step],
    vectors: Vectors,
    rows: npt.NDArray[np.intp] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Chain:
    """Fit steps, each on what the ones before it make of the same images.

    Means and variances are exact and added up in float64. ``pca`` is scikit-learn's
    `IncrementalPCA`, which is exact where the images have no more dimensions than components are
    kept and an approximation otherwise. ``project`` draws its matrix from `seed` alone.

    Parameters
    ----------
    steps : sequence of Step
    vectors : Vectors
    rows : numpy.ndarray of int, optional
        The images to fit on, ascending; by default all.
    seed : int
        Of random projections.
    progress : callable, optional
        Told of every block how many images were read.

    Raises
    ------
    RequestError
        If a step would leave more values than it gets, or has too few images to be fitted on.
    """
    chosen = np.arange(vectors.n_images) if rows is None else rows
    _check(steps, vectors.size, len(chosen))
    chain = Chain((), (), vectors.size)
    for step in steps:
        estimator = step.make(seed)
        if step.needs_fit:
            for cut in vectors.slices(len(chosen), step.rows_at_a_time):
                block = chain(vectors[chosen[cut]])
                with np.errstate(invalid="ignore"):  # a share of no variance at all
                    estimator.partial_fit(block)
                if progress:
                    progress(len(block))
        else:
            estimator.fit(np.zeros((1, chain.size), np.float32))  # only its width counts
        size = step.number or chain.size
        notes = (*chain.notes, *_notes(step, estimator))
        chain = Chain((*chain.steps, step), (*chain.estimators, estimator), size, notes)
    return chain


def _check(steps: Sequence[Step], size: int, n_images: int) -> None:
    for step in steps:
        if step.number > size:
            raise RequestError(f"step {step}: there are only {size} values an image")
        if step.name == "pca" and step.number > n_images:
            raise RequestError(
                f"step {step}: needs at least {counted(step.number, 'image')} to be fitted on, "
                f"got {n_images}"
            )
        size = step.number or size


def _notes(step: Step, estimator: Any) -> list[str]:
    if step.name == "pca":
        kept = float(estimator.explained_variance_ratio_.sum())
        share = "all" if np.isnan(kept) else f"{kept:.1%}"
        return [f"{step} keeps {share} of the variance of the images it was fitted on"]
    if step.name == "zscore" and (constant := int((estimator.var_ == 0).sum())):
        return [f"zscore: {constant} of {estimator.var_.size} values never vary; they become 0"]
    return []
