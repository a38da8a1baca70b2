"""Where all pairs of images are too many: a random sample of them, and how far that may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError
from ..gram import Rows, column_blocks, memory_in_bytes, not_finite, working_precision
from ..rdm import RDM, condensed_places
from .build import is_flat, refuse_flat, refuse_one_unit
from .comparators import DEFAULT_COMPARATOR, comparator
from .joining import MIN_IMAGES
from .metrics import check_metric
from .vectors import similarities

__all__ = ["MIN_PAIRS", "PairSample", "SampledSimilarity", "check_sampled", "sampled_similarity"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_GROUPS = 50
MIN_PAIRS = 100 * _GROUPS
"""Fewer tell little of how far they are off."""


@dataclass(frozen=True)
class SampledSimilarity:
    """How alike two sides are, judged by a sample of pairs."""

    value: float
    """The mean over subjects where there are several; NaN where undefined."""
    standard_error: float
    """Of the value, as an estimate of what all pairs of these images would give."""
    n_images: int
    n_pairs: int

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, eq=False)
class PairSample:
    """Pairs of different images, drawn with replacement, each pair as likely as any other.

    Examples
    --------
    >>> pairs = PairSample.draw(store.image_ids, 1_000_000)           # doctest: +SKIP
    >>> a = pairs.dissimilarities(store["features.avgpool"])          # doctest: +SKIP
    >>> b = pairs.dissimilarities(store["features.layer2.4"])         # doctest: +SKIP
    >>> sampled_similarity(a, b, "spearman", len(pairs.ids))          # doctest: +SKIP
    """

    ids: tuple[str, ...]
    """Of all images that could be drawn."""
    first: Indices
    """`[P]`, positions in `ids`."""
    second: Indices
    """`[P]`, never the same image as the first."""

    @classmethod
    def draw(cls, ids: Sequence[str], n: int, seed: int = 0) -> PairSample:
        """Draw `n` pairs.

        Raises
        ------
        RequestError
            If there are too few images, too few pairs are asked for, or as many as there are.
        """
        names = tuple(str(image_id) for image_id in ids)
        total = len(names) * (len(names) - 1) // 2
        if len(names) < MIN_IMAGES:
            raise RequestError(f"pairs of {len(names)} images: expected {MIN_IMAGES} at least")
        if n >= total or total <= MIN_PAIRS:
            raise RequestError(
                f"a sample of {n} pairs: {len(names)} images have {total}; compare them all, by "
                "rx.rsa.rdm or without --pairs"
            )
        if n < MIN_PAIRS:
            raise RequestError(
                f"a sample of {n} pairs: expected {MIN_PAIRS} at least, and fewer than the {total} "
                f"of these {len(names)} images"
            )
        rng = np.random.default_rng(seed)
        first = rng.integers(0, len(names), n)
        second = rng.integers(0, len(names) - 1, n)
        second += second >= first
        return cls(names, first.astype(np.intp), second.astype(np.intp))

    def of_rdm(self, rdm: RDM) -> Floats:
        """Return what an RDM has for these pairs, `[n_subjects, P]`.

        Raises
        ------
        RequestError
            If it lacks an image.
        """
        rows = _rows_of(self.ids, rdm.ids, rdm.name)
        return rdm.stack[:, condensed_places(rows[self.first], rows[self.second], rdm.n_images)]

    def dissimilarities(
        self,
        rows: Rows,
        metric: str = "correlation",
        *,
        ids: Sequence[str] | None = None,
        name: str | None = None,
        memory: int | str = "2GB",
    ) -> Floats:
        """Compute the dissimilarities of these pairs alone, in float64, in ``O(P p)``.

        Parameters
        ----------
        rows, metric, ids, name, memory
            As for `rdm`; read once, by columns, and only the images that were drawn.

        Returns
        -------
        array, `[P]`

        Raises
        ------
        RequestError
            As `rdm`, and if an image is missing.
        """
        check_metric(metric)
        name = str(getattr(rows, "module", "features") if name is None else name)
        working_precision(rows.shape, rows.dtype, "auto", name)
        own_ids = getattr(rows, "image_ids", None) if ids is None else ids
        n_features = math.prod(rows.shape[1:])
        if metric == "correlation" and n_features == 1:
            refuse_one_unit(name)
        places = _rows_of(self.ids, own_ids, name)
        drawn = np.unique(places[np.concatenate([self.first, self.second])])
        sums = _PairSums(
            metric,
            np.searchsorted(drawn, places[self.first]),
            np.searchsorted(drawn, places[self.second]),
        )
        whole = len(drawn) == rows.shape[0]
        chosen = slice(None) if whole else drawn
        usable = memory_in_bytes(memory) // 2
        # As they are read, and in float64.
        room = usable // (len(drawn) * (rows.dtype.itemsize + 8))
        if room < 1:
            raise RequestError(
                f"{name}: one number of each of {len(drawn)} images does not fit into {memory}; "
                "give more --memory, or fewer --pairs"
            )
        with np.errstate(invalid="ignore", over="ignore"):  # reported by name instead
            for key in column_blocks(rows.shape, room, getattr(rows, "chunks", None)):
                block = np.asarray(rows[(chosen, *key[1:])]).reshape(len(drawn), -1)
                if not np.isfinite(block).all():
                    labels = None if own_ids is None else [str(own_ids[row]) for row in drawn]
                    raise RequestError(not_finite(block, name, labels))
                sums.add(block.astype(np.float64), usable)
        if metric in ("correlation", "cosine"):
            flat = np.flatnonzero(sums.flat(rows.dtype))
            if len(flat):
                label = [str(k) if own_ids is None else str(own_ids[k]) for k in drawn[flat]]
                refuse_flat(name, label, metric)
        return sums.result(n_features)


class _PairSums:
    """What has been added up of each pair over the columns read so far."""

    def __init__(self, metric: str, first: Indices, second: Indices) -> None:
        # Neighbours in memory are read together.
        order = np.argsort(first, kind="stable")
        self._order, self._first, self._second = order, first[order], second[order]
        self._metric = metric
        self._pairs = np.zeros(len(first))
        self._shift: Floats | None = None
        self._sums = self._squares = self._low = self._high = np.zeros(0)

    def add(self, columns: Floats, room: int) -> None:
        """Add a block `[N, k]`, with at most `room` bytes more."""
        if self._shift is None:
            # An offset would eat the digits; a correlation does not see it.
            centred = self._metric == "correlation"
            self._shift = columns.mean(axis=1, keepdims=True) if centred else np.zeros((1, 1))
            self._sums, self._squares = (np.zeros(len(columns)) for _ in range(2))
            self._low, self._high = columns.min(axis=1), columns.max(axis=1)
        np.minimum(self._low, columns.min(axis=1), out=self._low)
        np.maximum(self._high, columns.max(axis=1), out=self._high)
        columns -= self._shift
        self._sums += columns.sum(axis=1)
        self._squares += np.einsum("nk,nk->n", columns, columns)
        step = max(room // (16 * columns.shape[1]), 1)
        step = min(step, max(_CACHED // (16 * columns.shape[1]), 1))
        for start in range(0, len(self._pairs), step):
            part = slice(start, start + step)
            left, right = columns[self._first[part]], columns[self._second[part]]
            if self._metric in ("euclidean", "sqeuclidean"):
                left -= right
                right = left
            self._pairs[part] += np.einsum("pk,pk->p", left, right)

    def flat(self, dtype: np.dtype[Any]) -> npt.NDArray[np.bool_]:
        """Tell which patterns have no direction, `[N]`."""
        return is_flat(self._low, self._high, dtype, but_for_offset=self._metric == "correlation")

    def result(self, n_features: int) -> Floats:
        """Return the dissimilarities, in the order of the sample."""
        values, i, j = self._pairs, self._first, self._second
        if self._metric in ("correlation", "cosine"):
            products, squares = values, self._squares
            if self._metric == "correlation":
                products = products - self._sums[i] * self._sums[j] / n_features
                squares = squares - self._sums**2 / n_features
            lengths = np.sqrt(squares)
            values = np.clip(1 - products / (lengths[i] * lengths[j]), 0.0, 2.0)
        elif self._metric == "euclidean":
            values = np.sqrt(values)
        found = np.empty_like(values)
        found[self._order] = values
        return found


_CACHED = 2**22
"""Bytes of pairs multiplied at a time: few enough to stay near the processor."""


def check_sampled(method: str) -> None:
    """Raise if a comparator cannot be told from a sample of pairs.

    Raises
    ------
    RequestError
    """
    if comparator(method).of == "features" or method.endswith("-cov"):
        raise RequestError(
            f"{method} needs all pairs of images; with --pairs, compare by "
            f"{DEFAULT_COMPARATOR}, pearson, tau-a, rho-a or cosine"
        )


def sampled_similarity(
    a: Floats, b: Floats, method: str = DEFAULT_COMPARATOR, n_images: int = 0
) -> SampledSimilarity:
    """Return how alike two sides are, and how far a sample of pairs may be off.

    Pairs are drawn independently, so that the sample can be cut into groups that are samples
    themselves: the standard error is the standard deviation of the similarity over 50 groups,
    divided by the square root of 50 (the method of random groups; Wolter, 2007, Introduction to
    variance estimation, chapter 2). It says nothing of what other images would give.

    Parameters
    ----------
    a, b : array, `[P]` or `[subjects, P]`
        Dissimilarities of the same pairs.
    method : str
        A comparator of RDMs, none of the whitened ones.
    n_images : int
        Kept with the result.

    Raises
    ------
    RequestError
        If the comparator needs all pairs.
    """
    check_sampled(method)
    left, right = np.atleast_2d(a), np.atleast_2d(b)
    groups = [
        float(np.mean(similarities(method, *parts)))
        for parts in zip(
            np.array_split(left, _GROUPS, axis=1),
            np.array_split(right, _GROUPS, axis=1),
            strict=True,
        )
    ]
    return SampledSimilarity(
        float(np.mean(similarities(method, left, right))),
        float(np.std(groups, ddof=1) / math.sqrt(_GROUPS)),
        n_images,
        left.shape[1],
    )


def _rows_of(ids: Sequence[str], own: Sequence[str] | None, name: str) -> Indices:
    if own is None:
        raise RequestError(
            f"{name} has no ids of images, and positions prove nothing; give ids "
            "(rx.rsa.rdm(..., ids=[...]), or --reference-ids FILE)"
        )
    if len(own) == len(ids) and all(map(str.__eq__, map(str, own), ids)):
        return np.arange(len(ids))
    row_of = {str(image_id): row for row, image_id in enumerate(own)}
    missing = next((image_id for image_id in ids if image_id not in row_of), None)
    if missing is not None:
        raise RequestError(f"{name} has no image {missing!r}")
    return np.array([row_of[image_id] for image_id in ids], dtype=np.intp)
