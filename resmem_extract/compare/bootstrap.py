"""How sure a similarity is: bootstrap over images, over subjects, and over both."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from ..errors import RequestError, counted
from ..rdm import RDM
from .ceiling import resampled_ceilings
from .comparators import DEFAULT_COMPARATOR
from .joining import common_ids
from .kernel import Kernel
from .kernel_resampling import resampled_cka
from .resampling import resampled
from .similarity import Side, check_sides, compare

__all__ = [
    "MIN_IMAGES_SAMPLED",
    "Bootstrap",
    "Draws",
    "Over",
    "bootstrap",
    "bootstrap_pairs",
]

Floats = npt.NDArray[np.float64]
Over = Literal["images", "subjects", "both"]

MIN_IMAGES_SAMPLED = 6
"""Samples of fewer images hardly ever have enough different ones."""
_MIN_DIFFERENT = 3


@dataclass(frozen=True)
class Draws:
    """Samples with replacement, of images and of subjects."""

    images: npt.NDArray[np.int64]
    """`[D, N]`, positions of images."""
    subjects: npt.NDArray[np.int64]
    """`[D, S]`, positions of subjects."""

    @classmethod
    def of(cls, n_images: int, n_subjects: int, n: int, seed: int) -> Draws:
        """Draw `n` samples."""
        rng = np.random.default_rng(seed)
        return cls(
            rng.integers(0, n_images, (n, n_images)), rng.integers(0, n_subjects, (n, n_subjects))
        )


@dataclass(frozen=True)
class Bootstrap:
    """Similarities in samples of images and subjects, and what follows from their spread."""

    values: Floats
    """Of the data themselves: `[L]` for models and a reference, `[L, L]` for all pairs."""
    over: Over
    samples: Floats
    """`[1, D, ...]`; over both: `[3, D, ...]`, of both, of subjects and of images alone."""
    n_images: int
    n_subjects: int
    ceilings: Floats | None = None
    """Noise ceiling in each sample, `[D, 2]`, if it was asked for."""

    @property
    def dof(self) -> int:
        """Degrees of freedom of intervals and tests: of whatever there are fewer of, less 1."""
        sizes = {"images": (self.n_images,), "subjects": (self.n_subjects,)}
        return min(sizes.get(self.over, (self.n_images, self.n_subjects))) - 1

    def variances(self) -> Floats:
        """Return the variance of each similarity, `[...]`."""
        return self._combined(_variance(self.samples))

    def difference_variances(self) -> Floats:
        """Return the variance of the difference of each two of `[L]` similarities, `[L, L]`."""
        samples = self.samples
        columns = [_variance(samples - one) for one in np.split(samples, samples.shape[2], axis=2)]
        return self._combined(np.stack(columns, axis=1))

    def _combined(self, variances: Floats) -> Floats:
        """Return one variance from those over both, over subjects and over images.

        Resampling n of n understates a variance by (n - 1) / n. A sample of both factors at once
        varies more than new data would, as the noise of each pair of a subject and an image enters
        once too often; what both factors contribute by themselves tells how much.

        References
        ----------
        Schütt et al. (2023), eLife 12:e82566, the corrected two-factor bootstrap.
        """
        images, subjects = self.n_images, self.n_subjects
        of_images, of_subjects = images / (images - 1), subjects / max(subjects - 1, 1)
        if self.over != "both":
            factor = of_images if self.over == "images" else of_subjects
            result: Floats = factor * variances[0]
            return result
        both, by_subject, by_image = variances
        mixed = both - by_subject - by_image
        corrected = of_subjects * by_subject + of_images * by_image
        corrected = corrected - of_subjects * of_images * mixed
        corrected = np.maximum(corrected, of_subjects * by_subject)
        corrected = np.maximum(corrected, of_images * by_image)
        return np.asarray(np.minimum(corrected, both))

    def intervals(self, level: float = 0.95) -> Floats:
        """Return confidence intervals around the values, by Student's t, `[..., 2]`."""
        quantile = scipy.stats.t.ppf((1 + level) / 2, self.dof)
        half = quantile * np.sqrt(self.variances())
        return np.stack([self.values - half, self.values + half], axis=-1)

    def percentile_intervals(self, level: float = 0.95) -> Floats:
        """Return the range of the middle samples, `[..., 2]`, without any correction."""
        cut = (1 - level) / 2
        low, high = np.nanquantile(self.samples[0], [cut, 1 - cut], axis=0)
        return np.stack([low, high], axis=-1)

    def difference_tests(self) -> Floats:
        """Return p of the test that two similarities differ, two-sided, `[L, L]`; 1 with itself."""
        differences = self.values[:, None] - self.values
        spread = np.sqrt(np.maximum(self.difference_variances(), np.finfo(float).eps))
        p = 2 * scipy.stats.t.sf(np.abs(differences) / spread, self.dof)
        np.fill_diagonal(p, 1.0)
        return np.asarray(p)


def _variance(samples: Floats) -> Floats:
    """Return the variance over samples, `[K, ...]`, those without a value left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no sample has one: NaN
        return np.asarray(np.nanvar(samples, axis=1, ddof=1))


def bootstrap(
    models: Sequence[Side],
    reference: Side,
    method: str = DEFAULT_COMPARATOR,
    *,
    over: Over | None = None,
    n: int = 1000,
    seed: int = 0,
    draws: Draws | None = None,
    with_ceiling: bool = False,
) -> Bootstrap:
    """Bootstrap the similarity of models with a reference; all models in the same samples.

    Repeats of an image leave its dissimilarity to itself out, as rsatoolbox does.

    Parameters
    ----------
    models : sequence of RDM, or of Kernel for CKA
    reference : RDM or Kernel
        Of one or several subjects; the similarity is the mean over subjects.
    method : str
        Any comparator but `procrustes`, whose bias depends on the number of different images.
    over : {"images", "subjects", "both"}, optional
        By default both if there are several subjects, else images.
    n : int
        Samples.
    seed : int
    draws : Draws, optional
        The samples themselves, in place of `n` and `seed`; images in the order of
        ``common_ids([models[0], reference, *models])``.
    with_ceiling : bool
        Compute the noise ceiling in each sample too.

    Returns
    -------
    Bootstrap

    Raises
    ------
    RequestError
        If there are too few images or subjects, or the comparator cannot be bootstrapped.
    """
    _check_request(method, [*models, reference], n)
    common = common_ids([models[0], reference, *models])
    values = np.array([compare(model, reference, method).value for model in models])
    sides = [model.subset(common) for model in models]
    target = reference.subset(common)
    n_subjects = target.n_subjects if isinstance(target, RDM) else 1
    over = over or ("both" if n_subjects > 1 else "images")
    _check_sizes(over, len(common), n_subjects, target.name)
    draws = draws or Draws.of(len(common), n_subjects, n, seed)
    images, subjects = _counts(draws.images), _counts(draws.subjects)
    whole = np.ones((1, len(common)), np.int64)
    used = images if over != "subjects" else whole
    in_samples = _in_samples(method, sides, [target], used)
    shares = subjects / n_subjects
    by_image = in_samples.mean(axis=2)
    if over == "images":
        samples = by_image[None]
    elif over == "subjects":
        samples = np.einsum("ls,ds->dl", in_samples[0], shares)[None]
    else:
        plain = _in_samples(method, sides, [target], whole)[0]
        both = np.einsum("dls,ds->dl", in_samples, shares)
        samples = np.stack([both, np.einsum("ls,ds->dl", plain, shares), by_image])
    ceilings = None
    if with_ceiling and isinstance(target, RDM):
        of_subjects = subjects if over != "images" else np.ones_like(subjects)
        of_images = images if over != "subjects" else np.ones_like(images)
        ceilings = resampled_ceilings(method, target.stack, of_images, of_subjects)
    return Bootstrap(values, over, samples, len(common), n_subjects, ceilings)


def bootstrap_pairs(
    sides: Sequence[Side], method: str = DEFAULT_COMPARATOR, *, n: int = 1000, seed: int = 0
) -> Bootstrap:
    """Bootstrap the similarity of each two of several sides over images.

    Parameters
    ----------
    sides : sequence of RDM, or of Kernel for CKA
        Each of one subject, or of none.
    method, n, seed
        As for `bootstrap`.

    Returns
    -------
    Bootstrap
        Of values `[L, L]`.

    Raises
    ------
    RequestError
        If there are too few images, or the comparator cannot be bootstrapped.
    """
    _check_request(method, sides, n)
    common = common_ids(sides)
    _check_sizes("images", len(common), 1, sides[0].name)
    parts = [side.subset(common) for side in sides]
    counts = _counts(Draws.of(len(common), 1, n, seed).images)
    (values,) = _in_samples(method, parts, parts, np.ones((1, len(common)), np.int64))
    samples = _in_samples(method, parts, parts, counts)
    return Bootstrap(values, "images", samples[None], len(common), 1)


def _in_samples(
    method: str, models: Sequence[Side], references: Sequence[Side], counts: npt.NDArray[np.int64]
) -> Floats:
    """Return similarities with each subject of all references, `[D, L, S]`.

    NaN for samples of too few different images.
    """
    same = models is references
    if isinstance(references[0], Kernel):
        left, right = (
            [s.matrix for s in side if isinstance(s, Kernel)] for side in (models, references)
        )
        found = resampled_cka(method, left, left if same else right, counts)
    else:
        stacks, others = (
            [s.stack for s in side if isinstance(s, RDM)] for side in (models, references)
        )
        a = np.concatenate(stacks)
        flat = resampled(method, a, a if same else np.concatenate(others), counts)
        starts = np.cumsum([0, *(len(stack) for stack in stacks[:-1])])
        found = np.add.reduceat(flat, starts, axis=1)
        found /= np.array([len(stack) for stack in stacks])[:, None]
    found[(counts > 0).sum(axis=1) < _MIN_DIFFERENT] = np.nan
    return found


def _check_request(method: str, sides: Sequence[Side], n: int) -> None:
    check_sides(method, *sides)
    if method == "procrustes":
        raise RequestError(
            "procrustes has no bootstrap: the fewer different images, the more alike features seem"
        )
    if n < 2:
        raise RequestError(f"bootstrap of {counted(n, 'sample')}: expected at least 2, say 1000")


def _counts(draws: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how often each of N is in each sample of N, `[D, N]`."""
    size = draws.shape[1]
    rows = np.arange(len(draws))[:, None] * size
    return np.bincount((draws + rows).ravel(), minlength=draws.size).reshape(draws.shape)


def _check_sizes(over: Over, n_images: int, n_subjects: int, name: str) -> None:
    if over not in ("images", "subjects", "both"):
        raise RequestError(f"over {over!r}: expected images, subjects or both")
    if over != "subjects" and n_images < MIN_IMAGES_SAMPLED:
        raise RequestError(
            f"bootstrap over {counted(n_images, 'image')}: expected {MIN_IMAGES_SAMPLED} at least"
        )
    if over != "images" and n_subjects < 2:
        raise RequestError(
            f"bootstrap over subjects: {name} is of {counted(n_subjects, 'subject')}; use "
            "over='images'"
        )
