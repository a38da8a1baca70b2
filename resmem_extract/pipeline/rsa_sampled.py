"""Stores and references on one sample of pairs, where all pairs do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..compare.joining import common_ids, overlap_note
from ..compare.sampled import PairSample
from ..compare.sampled_table import SampledEntity
from ..config import RsaOptions
from ..store import FeatureArray
from ..types import Progress
from .references import Reference

__all__ = ["sampled_entities"]


class _Side(NamedTuple):
    name: str
    ids: tuple[str, ...] | None


def sampled_entities(
    modules: Sequence[tuple[str, FeatureArray]],
    references: Sequence[Reference],
    asked: RsaOptions,
    n_pairs: int,
    progress: Progress | None,
    tell: Callable[[str], None],
) -> tuple[PairSample, list[SampledEntity], list[SampledEntity]]:
    """Draw pairs of the images that all sides have, and compute what each side has for them.

    Parameters
    ----------
    modules : sequence of (name, FeatureArray)
        Each is read once for every metric.
    references : sequence of Reference
    asked : RsaOptions
    n_pairs : int
    progress, tell
        As for `compare_stores`.

    Returns
    -------
    PairSample
    list of SampledEntity
        Of the modules.
    list of SampledEntity
        Of the references.

    Raises
    ------
    RequestError
    """
    sides = [_Side(name, tuple(array.image_ids)) for name, array in modules]
    sides += [
        _Side(reference.name, reference.ids if reference.rdm is None else reference.rdm.ids)
        for reference in references
    ]
    common = common_ids(sides)
    notes = [overlap_note(sides[0], side, common) for side in sides]
    for note in dict.fromkeys(filter(None, notes)):
        tell(note)
    pairs = PairSample.draw(common, n_pairs, asked.seed)
    total, done = sum(array.nbytes for _, array in modules), 0
    made = []
    for name, array in modules:
        values = {
            metric: pairs.dissimilarities(array, metric, name=name, memory=asked.memory)
            for metric in asked.metric
        }
        made.append(SampledEntity(name, values))
        done += array.nbytes
        if progress:
            progress(done, total)
    return pairs, made, [_of_reference(reference, pairs, asked) for reference in references]


def _of_reference(reference: Reference, pairs: PairSample, asked: RsaOptions) -> SampledEntity:
    if reference.rdm is not None:
        given = pairs.of_rdm(reference.rdm)
        return SampledEntity(reference.name, dict.fromkeys(asked.metric, given))
    assert reference.patterns is not None
    stack = reference.patterns if reference.patterns.ndim == 3 else reference.patterns[None]
    return SampledEntity(
        reference.name,
        {
            metric: np.stack(
                [
                    pairs.dissimilarities(
                        patterns,
                        metric,
                        ids=reference.ids,
                        name=reference.name,
                        memory=asked.memory,
                    )
                    for patterns in stack
                ]
            )
            for metric in asked.metric
        },
    )
