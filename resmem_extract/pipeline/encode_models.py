"""The models of a study: of which modules, by which method, how good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import EncodeOptions
from ..encoding import (
    Banded,
    BandedOptions,
    FeatureOptions,
    Fold,
    Heard,
    Validated,
    banded_models,
    checked_penalties,
    cross_validate,
    linear_models,
    place_on,
    pls_models,
    product_measure,
    ridge_models,
)
from ..errors import RequestError
from ..gram import Rows
from ..store import Store
from .chosen import choose_modules, model_name
from .encode_features import prepared
from .encode_study import Study
from .encode_tables import Scored

__all__ = ["Bands", "Entry", "entries_of", "scored_entry", "validate_entry"]

Tell = Callable[[str], None]
Bands = dict[str, dict[str, npt.NDArray[np.float64]]]
"""By name of a band: its `r2` and `weight`, `[k, t]`."""


@dataclass(frozen=True)
class Entry:
    """One line of the study: a module, or several as bands of one model."""

    model: str
    module: str
    parts: tuple[tuple[Store, str], ...]

    @property
    def name(self) -> str:
        """``resmem:features.layer2.4``."""
        return f"{self.model}:{self.module}"

    @property
    def part_names(self) -> list[str]:
        """The same of each part."""
        return [f"{model_name(store)}:{path}" for store, path in self.parts]


def entries_of(
    stores: Sequence[Store], texts: Sequence[str] | None, asked: EncodeOptions
) -> list[Entry]:
    """Return the models to make: of each module, of all as bands, or of two sets and both.

    Raises
    ------
    RequestError
        If there is no such module, or two sets overlap.
    """

    def of(pairs: Sequence[tuple[Store, str]]) -> Entry:
        models = dict.fromkeys(model_name(store) for store, _ in pairs)
        several = len(models) > 1
        modules = [f"{model_name(s)}:{path}" if several else path for s, path in pairs]
        return Entry("+".join(models), "+".join(modules), tuple(pairs))

    chosen = choose_modules(stores, texts)
    if asked.partition:
        assert texts is not None
        a, b = (choose_modules(stores, [text]) for text in texts)
        if both := {path for _, path in a} & {path for _, path in b}:
            raise RequestError(f"--partition: {min(both)} is in both sets")
        return [of(a), of(b), of([*a, *b])]
    if asked.method == "banded":
        return [of(chosen)]
    return [of([pair]) for pair in chosen]


def validate_entry(
    study: Study, entry: Entry, asked: EncodeOptions, note: Tell, step: Callable[[], None]
) -> tuple[Validated, Bands]:
    """Cross-validate one model; what its bands contribute comes beside it."""
    images, targets = study.images, study.responses.values
    folds = list(study.folds)
    options = FeatureOptions(asked.scale, asked.pca, memory=asked.memory)
    penalties = checked_penalties(asked.alpha) if asked.alpha else None
    names = entry.part_names
    features: list[Rows] = [
        prepared(store[path], study.order(store), asked, name, note)
        for (store, path), name in zip(entry.parts, names, strict=True)
    ]
    about: dict[str, Any] = {"ids": study.ids}
    bands: Bands = {}
    if len(features) > 1 or asked.method == "banded" or asked.partition:
        search = BandedOptions(asked.iterations, penalties, asked.seed, asked.device)
        heard = _listener(bands, names)
        models = banded_models(
            features, images, folds, options, search, heard, names=names, **about
        )
        return cross_validate(models, targets, study.chance, progress=step), bands
    about["name"] = entry.name
    (rows,) = features
    if asked.method == "pls":
        models = pls_models(rows, images, folds, options, asked.components, **about)
        return cross_validate(models, targets, study.chance, alone=False, progress=step), bands
    place = place_on(asked.device)
    if asked.method == "linear":
        models = linear_models(rows, images, folds, options, place, **about)
    else:
        models = ridge_models(rows, images, folds, options, place, penalties, **about)
    return cross_validate(models, targets, study.chance, progress=step), bands


def _listener(bands: Bands, names: Sequence[str]) -> Heard:
    """Return what keeps the share of each band, the first time that a fold is predicted."""
    heard: set[str] = set()

    def listen(fold: Fold, targets: npt.NDArray[np.floating], found: Banded) -> None:
        if fold.name in heard:  # a permutation
            return
        heard.add(fold.name)
        shares = product_measure(targets[fold.test], found.bands, found.means)
        for k, name in enumerate(names):
            kept = bands.setdefault(name, {})
            for what, values in (("r2", shares[k]), ("weight", found.weights[k])):
                before = kept.get(what, np.empty((0, len(values))))
                kept[what] = np.vstack([before, values])

    return listen


def scored_entry(entry: Entry, found: Validated, bands: Bands) -> Scored:
    """Return the scores of a model, p not corrected yet."""
    nothing = np.full(found.r.shape[1], np.nan)
    return Scored(
        entry.model,
        entry.module,
        found.r,
        found.r2,
        found.penalties,
        nothing if found.p is None else found.p,
        nothing,
        {name: kept["r2"] for name, kept in bands.items()},
        "+".join(dict.fromkeys(str(store.path) for store, _ in entry.parts)),
    )
