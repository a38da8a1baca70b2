"""The comparators by name: what each measures, and what it needs of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError, did_you_mean

__all__ = ["COMPARATORS", "DEFAULT_COMPARATOR", "Comparator", "comparator"]


@dataclass(frozen=True)
class Comparator:
    """One way to compare two systems."""

    name: str
    of: Literal["rdms", "features"]
    """RDMs, whatever they are made of, or features, which both sides have to have."""
    description: str
    rsatoolbox: str = ""
    """Its name there."""


_ALL = (
    Comparator("spearman", "rdms", "rank correlation of dissimilarities", "spearman"),
    Comparator("pearson", "rdms", "correlation of dissimilarities", "corr"),
    Comparator("tau-a", "rdms", "rank correlation that predicted ties count against", "tau-a"),
    Comparator("rho-a", "rdms", "the same at the price of Spearman's", "rho-a"),
    Comparator("cosine", "rdms", "cosine of dissimilarities", "cosine"),
    Comparator("cosine-cov", "rdms", "cosine, entries of one image decorrelated", "cosine_cov"),
    Comparator("corr-cov", "rdms", "correlation, decorrelated likewise", "corr_cov"),
    Comparator("cka", "features", "centred kernel alignment, linear, debiased"),
    Comparator("cka-rbf", "features", "the same with Gaussian kernels"),
    Comparator("procrustes", "features", "what remains alike after the best rotation"),
)

COMPARATORS: Mapping[str, Comparator] = {entry.name: entry for entry in _ALL}
DEFAULT_COMPARATOR = "spearman"


def comparator(name: str) -> Comparator:
    """Return a comparator by name.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    if name not in COMPARATORS:
        expected = f"expected one of {', '.join(COMPARATORS)}"
        hint = did_you_mean(name, list(COMPARATORS), expected)
        raise RequestError(f"comparator {name!r} is not known; {hint}")
    return COMPARATORS[name]
