"""Responses joined to the images of stores: what is predicted from what, and in which folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..config import EncodeOptions
from ..encoding import (
    Chance,
    Folds,
    Responses,
    ceiling_of_ncsnr,
    crossed_folds,
    given_folds,
    group_folds,
    kfolds,
    ncsnr,
    split_half,
    standardised,
)
from ..errors import RequestError, counted, nearest
from ..store import Store

__all__ = ["Study", "join"]

Floats = npt.NDArray[np.float64]
Tell = Callable[[str], None]
_FOLDS = 5


@dataclass(frozen=True)
class Study:
    """What all modules are held against."""

    ids: tuple[str, ...]
    """Of the `N` images, sorted: the order of files has no influence on anything."""
    responses: Responses
    """`n` rows of those images."""
    images: npt.NDArray[np.intp]
    """Image of each row of the responses, `[n]`."""
    folds: Folds
    chance: Chance | None
    ceiling: Floats
    """Of r, `[t]`; NaN where there is none."""

    def order(self, store: Store) -> npt.NDArray[np.intp]:
        """Return which row of a store is of each image, `[N]`."""
        return np.array([store.row_of(image_id) for image_id in self.ids], dtype=np.intp)


def join(stores: Sequence[Store], responses: Responses, asked: EncodeOptions, tell: Tell) -> Study:
    """Join responses to the images that all stores have, and deal them out to folds.

    Raises
    ------
    RequestError
        If they do not go together, or cannot be dealt out as asked.
    """
    _check_columns(asked)
    shared = set(stores[0].image_ids.tolist())
    for store in stores[1:]:
        shared &= set(store.image_ids.tolist())
    _check_same_images(stores, shared)
    joined = responses.of_images(sorted(shared), skip_missing=asked.missing == "skip")
    left_out = len(set(responses.ids)) - len(set(joined.ids))
    if left_out:
        tell(f"{responses.name}: {counted(left_out, 'image')} without activations left out")
    without = len(shared) - len(set(joined.ids))
    if without:
        tell(f"{counted(without, 'image')} of the store without responses left out")
    joined = _with_columns(joined, stores[0], asked)
    ceiling = _ceiling(joined, asked, tell)
    if asked.repeats == "average" and asked.subjects is None:
        joined = _averaged(joined, asked)
    ids = tuple(dict.fromkeys(joined.ids))
    place = {image_id: k for k, image_id in enumerate(ids)}
    images = np.array([place[image_id] for image_id in joined.ids], dtype=np.intp)
    folds = _folds(joined, asked)
    if asked.subjects is not None and asked.folds is None and joined.repeated:
        tell(
            "the subject left out saw images that models are made of: r tells how subjects agree "
            "as well as what modules hold; --folds 5 holds images out too"
        )
    constant = [joined.targets[k] for k in np.flatnonzero(np.ptp(joined.values, axis=0) == 0)]
    if constant:
        raise RequestError(
            f"{responses.name}: {counted(len(constant), 'target')} with one value for all images "
            f"({', '.join(constant[:3])}); nothing can be predicted, leave them out"
        )
    return Study(ids, joined, images, folds, _chance(joined, images, folds, asked), ceiling)


def _check_columns(asked: EncodeOptions) -> None:
    given = [name for name in ("groups", "split", "subjects") if getattr(asked, name) is not None]
    if len(given) > 1:
        raise RequestError(f"--{given[0]} and --{given[1]} both say what the folds are; give one")
    if asked.split is not None and asked.folds is not None:
        raise RequestError(f"--folds {asked.folds} goes with no --split, which gives the folds")


def _check_same_images(stores: Sequence[Store], shared: set[str]) -> None:
    if not shared:
        raise RequestError(
            f"{stores[0].path} and the other stores have no image in common; extract the same ones"
        )
    first = stores[0]
    hashes = dict(zip(first.image_ids.tolist(), first.sha256.tolist(), strict=True))
    for store in stores[1:]:
        for image_id, sha256 in zip(store.image_ids.tolist(), store.sha256.tolist(), strict=True):
            if image_id in shared and hashes[image_id] != sha256:
                raise RequestError(
                    f"{store.path} and {first.path} have other images under the same ids, first "
                    f"{image_id!r}"
                )


def _with_columns(responses: Responses, store: Store, asked: EncodeOptions) -> Responses:
    """Add the columns of the images that folds are made of, unless the responses have them."""
    wanted = asked.groups or asked.split or asked.subjects
    if wanted is None or wanted in responses.labels:
        return responses
    if wanted not in store.columns:
        known = [*responses.labels, *store.columns]
        close = nearest(wanted, known) or known
        raise RequestError(
            f"no column {wanted!r} of the responses or of the images"
            + (f"; there is {', '.join(close)}" if close else "; the images have none")
        )
    of_image = dict(zip(store.image_ids.tolist(), store.columns[wanted].tolist(), strict=True))
    column = np.array([str(of_image[image_id]) for image_id in responses.ids])
    return replace(responses, labels={**responses.labels, wanted: column})


def _averaged(responses: Responses, asked: EncodeOptions) -> Responses:
    averaged = responses.averaged()
    wanted = asked.groups or asked.split
    if wanted is not None and wanted not in averaged.labels:
        raise RequestError(
            f"the repeats of some image differ in {wanted!r}, and would be averaged; give "
            "--repeats keep"
        )
    return averaged


def _ceiling(responses: Responses, asked: EncodeOptions, tell: Tell) -> Floats:
    nothing = np.full(responses.n_targets, np.nan)
    if responses.ceiling is not None:
        return responses.ceiling
    counts = np.unique(responses.ids, return_counts=True)[1]
    kept = asked.repeats == "keep" or asked.subjects is not None
    repeats = 1.0 if kept else 1 / float((1 / counts).mean())
    if responses.ncsnr is not None:
        return ceiling_of_ncsnr(responses.ncsnr, repeats)
    if asked.ceiling == "none":
        return nothing
    images = np.unique(responses.ids, return_inverse=True)[1]
    values = responses.values
    if asked.subjects is not None:
        values = _on_one_scale(values, responses.labels[asked.subjects])
    if (counts > 1).sum() < 3:
        tell("no noise ceiling: images were measured once; give repeats, or ncsnr")
        return nothing
    if (counts == 1).any():
        tell(
            f"the noise ceiling is that of the {counted(int((counts > 1).sum()), 'image')} "
            "measured repeatedly"
        )
    if asked.ceiling == "ncsnr" or kept:
        return ceiling_of_ncsnr(ncsnr(values, images), repeats)
    return split_half(values, images, seed=asked.seed)


def _on_one_scale(values: npt.NDArray[np.floating], subjects: npt.NDArray[np.str_]) -> Floats:
    """Return each subject's responses as z-scores: r within one sees no level and no scale."""
    wide = values.astype(np.float64)
    scaled = np.empty_like(wide)
    for subject in np.unique(subjects):
        own = np.flatnonzero(subjects == subject)
        mean, deviation = standardised(wide, own, "zscore")
        scaled[own] = (wide[own] - mean) / deviation
    return scaled


def _folds(responses: Responses, asked: EncodeOptions) -> Folds:
    options = {"inner": asked.inner, "seed": asked.seed}
    if asked.subjects is not None:
        subjects = responses.labels[asked.subjects].tolist()
        if asked.folds is not None:
            return crossed_folds(subjects, responses.ids, asked.folds, **options)
        return group_folds(subjects, None, **options)
    if asked.split is not None:
        return given_folds(responses.labels[asked.split].tolist(), responses.ids, **options)
    if asked.groups is not None:
        groups = responses.labels[asked.groups]
        n = len(np.unique(groups))
        return group_folds(groups.tolist(), asked.folds or min(_FOLDS, n), **options)
    return kfolds(responses.ids, asked.folds or _FOLDS, **options)


def _chance(
    responses: Responses, images: npt.NDArray[np.intp], folds: Folds, asked: EncodeOptions
) -> Chance | None:
    """Say what changes places under the null: images, each with all of its measurements."""
    if not asked.permutations:
        return None
    column = asked.subjects or ""
    labels = responses.labels.get(column, np.zeros(len(images), dtype="U1"))
    order = np.lexsort((labels, images))
    counts = np.bincount(images)
    if (counts != counts[0]).any():
        raise RequestError(
            "permutations exchange images with all of their measurements, and images have from "
            f"{counts.min()} to {counts.max()}; average repeats, or leave --permutations out"
        )
    units = order.reshape(len(counts), counts[0])
    if (labels[units] != labels[units[:1]]).any():
        raise RequestError("permutations of images need all subjects to have seen the same images")
    if asked.groups is None:
        return Chance(asked.permutations, units, seed=asked.seed)
    within = folds.blocks[units[:, 0]]
    if np.bincount(within).max() < 2:
        raise RequestError(
            f"permutations exchange images within each {asked.groups}, and every image is one of "
            "its own; leave --permutations out"
        )
    return Chance(asked.permutations, units, within, asked.seed)
