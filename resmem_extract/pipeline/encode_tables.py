"""What ``encode`` found, and the tables of it: scores, best modules, bands, partitions."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compare import false_discovery_rate
from ..encoding import Grid, Partition, Responses, mean_over_folds

__all__ = ["EncodeResult", "Scored", "best_csv", "corrected", "partition_csv", "scores_csv"]

Floats = npt.NDArray[np.float64]

SCORES = (
    *("model", "module", "target", "roi", "split", "r", "r2", "ceiling", "r_normalised"),
    *("p", "p_fdr", "alpha"),
)
_BEST = ("target", "roi", "model", "module", "r", "r2", "ceiling", "r_normalised", "p_fdr")
_PARTITION = ("target", "roi", "part", "r2", "ci_low", "ci_high")


@dataclass(frozen=True)
class Scored:
    """The scores of one module, or of several bands at once; `k` folds, `t` targets."""

    model: str
    module: str
    r: Floats
    """`[k, t]`."""
    r2: Floats
    """`[k, t]`."""
    alpha: Floats
    """`[k, t]`."""
    p: Floats
    """`[t]`; NaN without permutations."""
    p_fdr: Floats
    """`[t]`, corrected for all targets of all modules."""
    bands: dict[str, Floats] = field(default_factory=dict)
    """R2 that each band contributes, `[k, t]`."""
    source: str = ""
    """Path of the store, or stores."""

    @property
    def name(self) -> str:
        """``resmem:features.layer2.4``."""
        return f"{self.model}:{self.module}"

    @property
    def mean_r(self) -> Floats:
        """Mean over folds, `[t]`."""
        return mean_over_folds(self.r)

    @property
    def mean_r2(self) -> Floats:
        """Mean over folds, `[t]`."""
        return mean_over_folds(self.r2)


@dataclass(frozen=True)
class EncodeResult:
    """What `encode` found."""

    scores: tuple[Scored, ...]
    """In the order of stores and modules."""
    targets: tuple[str, ...]
    rois: tuple[str, ...]
    folds: tuple[str, ...]
    """Names."""
    ceiling: Floats
    """Of r, `[t]`."""
    responses: Responses | None = None
    """As they were predicted: joined, averaged."""
    predicted: dict[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    """By module, `[n, t]`; where nothing was written, or a figure needs it."""
    partition: tuple[str, str, Partition] | None = None
    """Names of two sets of modules, and what each explains."""
    notes: tuple[str, ...] = ()
    out: Path | None = None
    already_complete: bool = False
    """Whether the result was there already, from the very same request."""

    @property
    def names(self) -> tuple[str, ...]:
        """``network:module``, in the order of `scores`."""
        return tuple(scored.name for scored in self.scores)

    @property
    def sources(self) -> dict[str, str]:
        """The path of the store of each module, by name."""
        return {scored.name: scored.source for scored in self.scores}

    @property
    def measured(self) -> npt.NDArray[np.floating]:
        """What was predicted, `[n, t]`."""
        if self.responses is None:
            return np.empty((0, len(self.targets)))
        return self.responses.values

    @property
    def grid(self) -> Grid | None:
        """Where targets lie, if that is known."""
        return None if self.responses is None else self.responses.grid

    @property
    def table(self) -> Floats:
        """Mean r of each module with each target, `[modules, t]`."""
        return np.stack([scored.mean_r for scored in self.scores])

    @property
    def best(self) -> npt.NDArray[np.intp]:
        """Which module predicts each target best, `[t]`; -1 where r is undefined for all."""
        table = self.table
        defined = np.isfinite(table).any(axis=0)
        best = np.where(np.isfinite(table), table, -np.inf).argmax(axis=0)
        return np.where(defined, best, -1)

    def normalised(self, r: Floats) -> Floats:
        """Return r in units of the noise ceiling."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.ceiling > 0, r / self.ceiling, np.nan)


def corrected(scores: Sequence[Scored]) -> tuple[Scored, ...]:
    """Return scores with p corrected for the number of all tests."""
    p = false_discovery_rate(np.concatenate([scored.p for scored in scores]))
    parts = np.split(p, len(scores))
    return tuple(replace(s, p_fdr=part) for s, part in zip(scores, parts, strict=True))


def scores_csv(result: EncodeResult) -> str:
    """Return ``scores.csv``: a line a module, target and fold, and one, `all`, of the means."""
    return _csv(SCORES, _score_lines(result))


def _score_lines(result: EncodeResult) -> Iterable[Sequence[Any]]:
    nan = math.nan
    for scored in result.scores:
        mean_r, mean_r2 = scored.mean_r, scored.mean_r2
        with np.errstate(divide="ignore", invalid="ignore"):
            alpha = np.exp(np.log(scored.alpha).mean(axis=0))
        normalised = result.normalised(scored.r)
        of_mean = result.normalised(mean_r)
        for t, target in enumerate(result.targets):
            who = (scored.model, scored.module, target, result.rois[t])
            ceiling = float(result.ceiling[t])
            for k, fold in enumerate(result.folds):
                numbers = (scored.r[k, t], scored.r2[k, t], ceiling, normalised[k, t])
                yield *who, fold, *map(float, numbers), nan, nan, float(scored.alpha[k, t])
            means = (mean_r[t], mean_r2[t], ceiling, of_mean[t])
            yield *who, "all", *map(float, (*means, scored.p[t], scored.p_fdr[t], alpha[t]))


def best_csv(result: EncodeResult) -> str:
    """Return ``best.csv``: the module that predicts each target best."""

    def lines() -> Iterable[Sequence[Any]]:
        for t, k in enumerate(result.best.tolist()):
            if k < 0:
                yield result.targets[t], result.rois[t], *[""] * (len(_BEST) - 2)
                continue
            scored = result.scores[k]
            r = scored.mean_r[t]
            numbers = (r, scored.mean_r2[t], result.ceiling[t], result.normalised(scored.mean_r)[t])
            who = (result.targets[t], result.rois[t], scored.model, scored.module)
            yield *who, *map(float, numbers), float(scored.p_fdr[t])

    return _csv(_BEST, lines())


def partition_csv(result: EncodeResult) -> str:
    """Return ``partition.csv``: unique and shared variance of two sets of modules."""
    assert result.partition is not None
    a, b, found = result.partition

    def lines() -> Iterable[Sequence[Any]]:
        nothing = np.full((len(result.targets), 2), np.nan)
        parts = (
            (a, found.r2_a, nothing),
            (b, found.r2_b, nothing),
            ("both", found.r2_both, nothing),
            (f"unique to {a}", found.unique_a, found.intervals["unique_a"]),
            (f"unique to {b}", found.unique_b, found.intervals["unique_b"]),
            ("shared", found.shared, found.intervals["shared"]),
        )
        for t, target in enumerate(result.targets):
            for name, values, interval in parts:
                numbers = map(float, (values[t], *interval[t]))
                yield target, result.rois[t], name, *numbers

    return _csv(_PARTITION, lines())


def bands_csv(result: EncodeResult) -> str:
    """Return ``bands.csv``: R2 that each band contributes to the whole prediction."""

    def lines() -> Iterable[Sequence[Any]]:
        for scored in result.scores:
            for band, shares in scored.bands.items():
                means = mean_over_folds(shares)
                for t, target in enumerate(result.targets):
                    yield scored.module, band, target, result.rois[t], float(means[t])

    return _csv(("module", "band", "target", "roi", "r2"), lines())


def _csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return a table; seven digits, and nothing in the cell of what is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow(
            [
                ("" if math.isnan(cell) else f"{cell:.7g}") if isinstance(cell, float) else cell
                for cell in line
            ]
        )
    return text.getvalue()
