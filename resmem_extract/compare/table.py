"""All comparisons of a study: every model with every reference, and every two models."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import RequestError
from ..rdm import RDM
from .bootstrap import bootstrap, bootstrap_pairs
from .ceiling import Ceiling
from .comparators import COMPARATORS
from .joining import common_ids, overlap_note
from .kernel import Kernel
from .permutation import false_discovery_rate, permutation_test, permutation_tests_of_pairs
from .similarity import Side, check_sides, compare, noise_ceiling

__all__ = [
    "Difference",
    "Entity",
    "Inference",
    "Row",
    "SampledRow",
    "Table",
    "compare_all",
    "from_csv",
    "to_csv",
]

_NAN = float("nan")
_FEW = 8


@dataclass(frozen=True)
class Entity:
    """What is compared: a module of a network, or a reference."""

    name: str
    rdms: Mapping[str, RDM]
    """By metric; a reference that is an RDM has it under every metric."""
    kernel: Kernel | None = None
    """Of its features, if they are there and a comparator needs them."""
    source: str = ""
    """Path of the store of a module, which tells two stores of one network apart."""

    def side(self, metric: str, method: str) -> Side:
        """Return what a comparator takes.

        Raises
        ------
        RequestError
            If the comparator needs features, and there is but an RDM.
        """
        if COMPARATORS[method].of == "rdms":
            return self.rdms[metric]
        if self.kernel is None:
            check_sides(method, next(iter(self.rdms.values())))
        assert self.kernel is not None
        return self.kernel


@dataclass(frozen=True)
class Inference:
    """How much is spent on telling how sure the numbers are."""

    bootstrap: int = 0
    """Samples; 0 gives no intervals."""
    permutations: int = 0
    """0 gives no p."""
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One line of ``rsa.csv``; NaN is an empty cell."""

    a: str
    b: str
    metric: str
    """Empty for comparators of features, which need none."""
    compare: str
    n_images: int
    value: float
    ci_low: float = _NAN
    ci_high: float = _NAN
    p: float = _NAN
    p_fdr: float = _NAN
    ceiling_low: float = _NAN
    ceiling_high: float = _NAN


@dataclass(frozen=True)
class Difference:
    """One line of ``differences.csv``: whether one model is nearer to a reference than another."""

    reference: str
    metric: str
    compare: str
    a: str
    b: str
    difference: float
    p: float
    p_fdr: float = _NAN


@dataclass(frozen=True)
class SampledRow:
    """One line of ``pairs.csv``: how far a sample of pairs may be off."""

    a: str
    b: str
    metric: str
    compare: str
    n_images: int
    n_pairs: int
    value: float
    standard_error: float


@dataclass
class Table:
    """All comparisons, and why cells are empty."""

    rows: list[Row] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    sampled: list[SampledRow] = field(default_factory=list)
    """Where a sample of pairs was compared."""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str | None) -> None:
        """Remember something that the user should know, once."""
        if text and text not in self.notes:
            self.notes.append(text)


def compare_all(
    models: Sequence[Entity],
    references: Sequence[Entity],
    metrics: Sequence[str],
    methods: Sequence[str],
    inference: Inference,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Compare every model with every reference, and every two models.

    P is corrected for the number of tests within each reference, metric and comparator; all pairs
    of models together count as one more reference.

    Parameters
    ----------
    models, references : sequence of Entity
    metrics, methods : sequence of str
    inference : Inference
    progress : callable, optional
        Told how many of all metrics and comparators are done.

    Returns
    -------
    Table

    Raises
    ------
    RequestError
        If a comparator needs features that a side has not, or too few images are in common.
    """
    table = Table()
    if not inference.bootstrap:
        table.note("no confidence intervals: --bootstrap 1000 gives them")
    if not inference.permutations:
        table.note("no p: --permutations 1000 gives them")
    cases = list(_cases(metrics, methods))
    for done, case in enumerate(cases):
        if progress:
            progress(done, len(cases))
        for reference in references:
            _with_reference(table, models, reference, case, inference)
        if len(models) > 1:
            _with_each_other(table, models, case, inference)
    if progress:
        progress(len(cases), len(cases))
    return table


class _Case(NamedTuple):
    metric: str
    compare: str


def _cases(metrics: Sequence[str], methods: Sequence[str]) -> Iterator[_Case]:
    for method in methods:
        if COMPARATORS[method].of == "features":
            yield _Case("", method)
        else:
            yield from (_Case(metric, method) for metric in metrics)


def _with_reference(
    table: Table, models: Sequence[Entity], reference: Entity, case: _Case, inference: Inference
) -> None:
    """Compare models with a reference, those of the same images together."""
    method = case.compare
    target = reference.side(*case)
    rows: list[Row] = []
    differences: list[Difference] = []
    for group in _of_same_images(models, case):
        names = [model.name for model in group]
        sides = [model.side(*case) for model in group]
        common = common_ids([sides[0], target])
        table.note(overlap_note(sides[0], target, common))
        table.note(_few(len(common)))
        sampled = _attempt(
            table, bootstrap, (sides, target, method), inference.bootstrap, inference
        )
        tested = _attempt(
            table, permutation_test, (sides, target, method), inference.permutations, inference
        )
        nothing = np.full((len(group), 2), _NAN)
        intervals = nothing if sampled is None else sampled.intervals()
        p = nothing[:, 0] if tested is None else tested.p()
        ceiling = _ceiling(table, target.subset(common), method)
        values = [_value(table, side, target, method) for side in sides]
        for k, (name, value) in enumerate(zip(names, values, strict=True)):
            row = Row(name, reference.name, *case, len(common), value, *intervals[k].tolist())
            low, high = ceiling
            rows.append(replace(row, p=float(p[k]), ceiling_low=low, ceiling_high=high))
        if sampled is not None:
            tests = sampled.difference_tests()
            for i, j in itertools.combinations(range(len(group)), 2):
                difference = values[i] - values[j]
                differences.append(
                    Difference(
                        reference.name, *case, names[i], names[j], difference, float(tests[i, j])
                    )
                )
    table.rows += _corrected(rows)
    table.differences += _corrected(differences)


def _with_each_other(
    table: Table, models: Sequence[Entity], case: _Case, inference: Inference
) -> None:
    """Compare every two models."""
    method = case.compare
    rows: list[Row] = []
    groups = _of_same_images(models, case)
    for g, h in itertools.combinations_with_replacement(range(len(groups)), 2):
        together = groups[g] if g == h else [*groups[g], *groups[h]]
        if len(together) < 2:
            continue
        sides = [model.side(*case) for model in together]
        common = common_ids(sides)
        table.note(overlap_note(sides[0], sides[-1], common))
        table.note(_few(len(common)))
        sampled = _attempt(table, bootstrap_pairs, (sides, method), inference.bootstrap, inference)
        tested = _attempt(
            table, permutation_tests_of_pairs, (sides, method), inference.permutations, inference
        )
        nothing = np.full((len(sides), len(sides), 2), _NAN)
        intervals = nothing if sampled is None else sampled.intervals()
        p = nothing[..., 0] if tested is None else tested.p()
        for i, j in itertools.combinations(range(len(together)), 2):
            if g != h and (i >= len(groups[g]) or j < len(groups[g])):
                continue
            value = _value(table, sides[i], sides[j], method)
            names = together[i].name, together[j].name
            row = Row(*names, *case, len(common), value, *intervals[i, j].tolist())
            rows.append(replace(row, p=float(p[i, j])))
    table.rows += _corrected(rows)


def _few(n: int) -> str | None:
    """Return what to tell the user if a number is of hardly any pairs of images."""
    if n >= _FEW:
        return None
    return f"{n} images have {n * (n - 1) // 2} pairs: too few for a value to mean much"


def _of_same_images(models: Sequence[Entity], case: _Case) -> list[list[Entity]]:
    """Return the models, those of the same images together, in the order of the first."""
    groups: dict[tuple[str, ...] | None, list[Entity]] = {}
    for model in models:
        groups.setdefault(model.side(*case).ids, []).append(model)
    return list(groups.values())


def _value(table: Table, a: Side, b: Side, method: str) -> float:
    similarity = compare(a, b, method)
    if math.isnan(similarity.value):
        table.note(similarity.note)
    return similarity.value


_Result = TypeVar("_Result")


def _attempt(
    table: Table,
    run: Callable[..., _Result],
    arguments: tuple[Any, ...],
    n: int,
    inference: Inference,
) -> _Result | None:
    """Return what inference gives; None, with a note of the reason, where there can be none."""
    if not n:
        return None
    try:
        return run(*arguments, n=n, seed=inference.seed)
    except RequestError as error:
        table.note(str(error))
        return None


def _ceiling(table: Table, target: Side, method: str) -> Ceiling:
    if not isinstance(target, RDM):
        table.note(f"no noise ceiling for {method}: features of one subject, or of a network")
        return Ceiling(_NAN, _NAN)
    if target.n_subjects < 2:
        table.note(
            f"no noise ceiling for {target.name}: one subject tells nothing of how subjects differ"
        )
    return noise_ceiling(target, method)


_Tested = TypeVar("_Tested", Row, Difference)


def _corrected(tested: list[_Tested]) -> list[_Tested]:
    """Return the lines with p corrected for their number."""
    p = false_discovery_rate(np.array([line.p for line in tested], dtype=np.float64))
    return [replace(line, p_fdr=float(value)) for line, value in zip(tested, p, strict=True)]


_Line = TypeVar("_Line", Row, Difference, SampledRow)


def to_csv(lines: Sequence[_Line], kind: type[_Line]) -> str:
    """Return a table as CSV; seven digits, and nothing in the cell of what is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(kind)])
    for line in lines:
        writer.writerow(
            [
                ("" if math.isnan(cell) else f"{cell:.7g}") if isinstance(cell, float) else cell
                for cell in astuple(line)
            ]
        )
    return text.getvalue()


_PARSED: dict[Any, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": lambda cell: float(cell or "nan"),
}


def from_csv(text: str, kind: type[_Line]) -> list[_Line]:
    """Return the lines of a table that `to_csv` wrote."""
    parsed = {column.name: _PARSED[column.type] for column in fields(kind)}
    return [
        kind(**{name: parsed[name](cell) for name, cell in line.items()})
        for line in csv.DictReader(io.StringIO(text))
    ]
