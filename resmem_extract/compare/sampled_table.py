"""All comparisons of a study by one sample of pairs of images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .ceiling import ceiling
from .sampled import PairSample, sampled_similarity
from .table import Row, SampledRow, Table

__all__ = ["SampledEntity", "compare_all_sampled"]


@dataclass(frozen=True)
class SampledEntity:
    """What is compared: the dissimilarities that a module, or a reference, has for some pairs."""

    name: str
    values: Mapping[str, npt.NDArray[np.float64]]
    """By metric, `[P]` or `[subjects, P]`."""


def compare_all_sampled(
    models: Sequence[SampledEntity],
    references: Sequence[SampledEntity],
    metrics: Sequence[str],
    methods: Sequence[str],
    pairs: PairSample,
) -> Table:
    """Compare every model with every reference, and every two models, as `compare_all` does.

    Parameters
    ----------
    models, references : sequence of SampledEntity
        All of the same pairs.
    metrics, methods : sequence of str
    pairs : PairSample

    Returns
    -------
    Table
        Without intervals and p, and with standard errors in `sampled`.
    """
    table = Table()
    table.note(
        f"compared on {len(pairs.first)} pairs of {len(pairs.ids)} images: no confidence "
        "intervals and no p; pairs.csv has standard errors"
    )
    n = len(pairs.ids)
    for method, metric in itertools.product(methods, metrics):
        cases = [(model, reference) for reference in references for model in models]
        cases += itertools.combinations(models, 2)
        ceilings = {
            reference.name: ceiling(method, np.atleast_2d(reference.values[metric]))
            for reference in references
        }
        for a, b in cases:
            found = sampled_similarity(a.values[metric], b.values[metric], method, n)
            low, high = ceilings.get(b.name, (float("nan"),) * 2)
            names = a.name, b.name, metric, method, n
            table.rows.append(Row(*names, found.value, ceiling_low=low, ceiling_high=high))
            table.sampled.append(
                SampledRow(*names, found.n_pairs, found.value, found.standard_error)
            )
    return table
