"""Stores and responses joined: which layer predicts what was measured, and how well."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..compare import least_p
from ..config import EncodeOptions, validated
from ..encoding import Responses, Validated, checked_penalties, partition_variance
from ..errors import RequestError, WorkError, given_path
from ..gram import memory_in_bytes
from ..store import EncodingWriter, Store, read_encoding
from ..types import Progress
from .chosen import check_chosen, opened_stores
from .encode_features import prepared
from .encode_models import Bands, Entry, entries_of, scored_entry, validate_entry
from .encode_study import Study, join
from .encode_tables import (
    EncodeResult,
    Scored,
    bands_csv,
    best_csv,
    corrected,
    partition_csv,
    scores_csv,
)
from .encode_weights import write_weights
from .new_result import NewResult, draw_figures, new_result
from .provenance import now, typed_command
from .responses import read_responses, responses_of_column
from .result_folder import Figures, describe_stores, result_folder

__all__ = ["encode"]

Tell = Callable[[str], None]
_SCORES, _MODEL, _RECORD = "scores.csv", "model.h5", "encode.json"
_BANDS, _PARTITION, _BEST = "bands.csv", "partition.csv", "best.csv"
_TABLES = (_SCORES, _MODEL, _BANDS, _PARTITION, _BEST)


def encode(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modules: str | Sequence[str] | None = None,
    *,
    responses: str | os.PathLike[str] | Responses | None = None,
    target: str | Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    figures: Figures[EncodeResult] | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> EncodeResult:
    """Predict measured responses from the activations of modules, with cross-validation.

    Parameters
    ----------
    stores : path or sequence of path
    modules : str or sequence of str, optional
        Module paths or patterns, each of any store that has it; by default all modules.
    responses : path or Responses, optional
        What was measured.
    target : str or sequence of str
        Columns of the store's images, in place of `responses`.
    out : path, optional
        A folder for ``scores.csv``, ``best.csv``, ``model.h5`` and ``encode.json``.
    figures : Figures, optional
        What is to be drawn into `out`. Where the result is there, figures that are not are drawn
        from it.
    progress : callable, optional
        Told how many folds of all modules are done.
    tell : callable, optional
        Told what the user should know, one line each.
    **options
        The fields of `resmem_extract.config.EncodeOptions`.

    Returns
    -------
    EncodeResult

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If a store is damaged, or the result cannot be written.

    Examples
    --------
    >>> encode("f.h5", "features.layer*", responses="v1.npz", out="v1/")   # doctest: +SKIP
    """
    asked: EncodeOptions = validated(EncodeOptions, options, "encode")
    given = [stores] if isinstance(stores, (str, os.PathLike)) else list(stores)
    texts = [modules] if isinstance(modules, str) else modules
    columns = [target] if isinstance(target, str) else list(target)
    _check(asked, responses, columns, texts)
    place = result_folder(out, _TABLES, _RECORD, figures)
    notes: list[str] = []

    def note(line: str) -> None:
        if line not in notes:
            notes.append(line)
            if tell:
                tell(line)

    with ExitStack() as stack:
        opened = stack.enter_context(opened_stores(given))
        entries = entries_of(opened, texts, asked)
        measured = _responses(opened[0], responses, columns, asked)
        record = _record(opened, entries, measured, asked)
        study = join(opened, measured, asked, note)
        del measured  # as large as the study's own
        if place and (found := place.find(record, overwrite=asked.overwrite)):
            result = _read(study, entries, asked, place.path, found.record["notes"])
            draw_figures(place, found, result, note)
            return result
        check_chosen(part for entry in entries for part in entry.parts)
        new = stack.enter_context(new_result(place))
        if line := least_p(asked.permutations):
            note(line)
        return _run(study, entries, asked, new, record, note, notes, progress)


def _check(
    asked: EncodeOptions, responses: object, columns: Sequence[str], texts: Sequence[str] | None
) -> None:
    memory_in_bytes(asked.memory)
    if (responses is None) == (not columns):
        raise RequestError("give --responses FILE or --target COLUMN of the images, one of the two")
    if asked.alpha:
        checked_penalties(asked.alpha)
    if asked.pca is not None and (asked.method == "banded" or asked.partition):
        raise RequestError("--pca goes with one feature space; banded ridge has several")
    if asked.partition and asked.method not in ("ridge", "banded"):
        raise RequestError(f"--partition is of ridge regression, not of {asked.method}")
    if asked.partition and (texts is None or len(texts) != 2):
        n = 0 if texts is None else len(texts)
        raise RequestError(
            f"--partition takes two sets of modules, got {n}: give --module twice, a path or a "
            "pattern"
        )
    for name, method, taken in (
        ("alpha", "ridge or banded", asked.method in ("ridge", "banded")),
        ("components", "pls", asked.method == "pls"),
        ("iterations", "banded", asked.method == "banded" or asked.partition),
    ):
        default = EncodeOptions.model_fields[name].default
        if getattr(asked, name) != default and not taken:
            raise RequestError(f"--{name} is of --method {method}, not of {asked.method}")
    if asked.weights and asked.method not in ("ridge",):
        raise RequestError(
            f"--weights are of ridge regression; method {asked.method} has none here"
        )


def _responses(
    store: Store, responses: Any, columns: Sequence[str], asked: EncodeOptions
) -> Responses:
    if isinstance(responses, Responses):
        return responses
    if columns:
        return responses_of_column(store, columns)
    labels = [name for name in (asked.groups, asked.split, asked.subjects) if name is not None]
    path = given_path(responses, "responses")
    return read_responses(path, asked.response_ids, asked.mask, labels)


def _run(
    study: Study,
    entries: Sequence[Entry],
    asked: EncodeOptions,
    new: NewResult | None,
    record: dict[str, Any],
    note: Tell,
    notes: list[str],
    progress: Progress | None,
) -> EncodeResult:
    gathered = _Gathered(keep_all=new is None or asked.partition)
    done, total = 0, len(entries) * len(study.folds)

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    with ExitStack() as stack:
        if new is not None:
            stack.enter_context(new.file(_MODEL))
            writer = stack.enter_context(_writer(new.hidden / _MODEL, study, asked.seed))
        for entry in entries:
            found, bands = validate_entry(study, entry, asked, note, step)
            gathered.add(entry, found, bands)
            if new is not None:
                _add(writer, entry, found, bands)
                if asked.weights:
                    (store, path), *_ = entry.parts
                    rows = prepared(store[path], study.order(store), asked, entry.name, note)
                    write_weights(writer, entry.name, rows, study, asked)
        for scored in gathered.scores:
            undefined = int(np.isnan(scored.r).any(axis=0).sum())
            if undefined:
                note(
                    f"{scored.name}: r is undefined in some fold for {undefined} targets, where "
                    "measured or predicted values do not vary; means are over the other folds"
                )
        about = {"notes": notes, "finished": now()}
        if new is not None:
            writer.finish({**record, **about, "command": typed_command()})
    folder = new.place.path if new else None
    result = _result(study, entries, gathered, asked, notes, folder)
    if new is not None:
        _write_tables(result, new)
        new.finish(result, record, about)
    return result


class _Gathered:
    """Scores of all models, and predictions of the best alone, of which there is a figure."""

    def __init__(self, keep_all: bool) -> None:
        self._keep_all = keep_all
        self.scores: list[Scored] = []
        self.predicted: dict[str, npt.NDArray[np.floating]] = {}

    def add(self, entry: Entry, found: Validated, bands: Bands) -> None:
        scored = scored_entry(entry, found, bands)
        self.scores.append(scored)
        if not self._keep_all:
            if _top(scored) < max(map(_top, self.scores)):
                return
            self.predicted.clear()
        self.predicted[entry.name] = found.predicted


def _result(
    study: Study,
    entries: Sequence[Entry],
    gathered: _Gathered,
    asked: EncodeOptions,
    notes: Sequence[str],
    folder: Path | None,
) -> EncodeResult:
    responses, predicted = study.responses, gathered.predicted
    return EncodeResult(
        corrected(gathered.scores),
        responses.targets,
        tuple(responses.rois or ("",) * responses.n_targets),
        study.folds.names,
        study.ceiling,
        responses,
        predicted,
        _partition(study, entries, predicted, asked) if asked.partition else None,
        tuple(notes),
        folder,
    )


def _read(
    study: Study,
    entries: Sequence[Entry],
    asked: EncodeOptions,
    folder: Path,
    notes: Sequence[str],
) -> EncodeResult:
    """Return a result that is there."""
    gathered = _Gathered(keep_all=asked.partition)
    try:
        for entry in entries:
            there, bands = read_encoding(folder / _MODEL, entry.name, entry.part_names)
            found = Validated(
                there["predicted"], there["r"], there["r2"], there["alpha"], there.get("p")
            )
            gathered.add(entry, found, bands)
    except (OSError, ValueError, KeyError) as error:
        raise WorkError(f"{folder} cannot be read ({error}); --overwrite makes it anew") from error
    result = _result(study, entries, gathered, asked, notes, folder)
    return replace(result, already_complete=True)


def _top(scored: Scored) -> float:
    """Return the highest mean r of a target."""
    return float(scored.mean_r[np.isfinite(scored.mean_r)].max(initial=-np.inf))


def _partition(
    study: Study,
    entries: Sequence[Entry],
    predicted: Mapping[str, npt.NDArray[np.floating]],
    asked: EncodeOptions,
) -> Any:
    a, b, both = (predicted[entry.name] for entry in entries)
    tests = [fold.test for fold in study.folds]
    found = partition_variance(study.responses.values, [a, b, both], tests, seed=asked.seed)
    return entries[0].name, entries[1].name, found


# What is written


def _record(
    stores: Sequence[Store], entries: Sequence[Entry], responses: Responses, asked: EncodeOptions
) -> dict[str, Any]:
    """Return all that the result depends on, as JSON values."""
    return {
        "stores": describe_stores(stores),
        "modules": [entry.name for entry in entries],
        "responses": {
            **responses.describe(),
            "targets": hashlib.sha256("\n".join(responses.targets).encode()).hexdigest(),
            "values": hashlib.sha256(np.ascontiguousarray(responses.values).data).hexdigest(),
        },
        "options": asked.model_dump(
            mode="json", exclude={"overwrite", "memory", "device", "response_ids"}
        ),
    }


def _writer(path: Path, study: Study, seed: int) -> EncodingWriter:
    responses = study.responses
    strings = {
        "image_id": responses.ids,
        "fold_name": study.folds.names,
        "target": responses.targets,
        "roi": responses.rois or [""] * responses.n_targets,
    }
    arrays = {"fold": study.folds.numbers, "measured": responses.values}
    return EncodingWriter(path, seed, strings, arrays)


def _add(writer: EncodingWriter, entry: Entry, found: Validated, bands: Bands) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "predicted": found.predicted,
        "r": found.r,
        "r2": found.r2,
        "alpha": found.penalties,
    }
    if found.p is not None:
        arrays["p"] = found.p
    for name, kept in bands.items():
        arrays |= {f"bands\t{name}\t{what}": values for what, values in kept.items()}
    writer.add(entry.name, arrays)


def _write_tables(result: EncodeResult, new: NewResult) -> None:
    new.write(_SCORES, scores_csv(result))
    if any(scored.bands for scored in result.scores):
        new.write(_BANDS, bands_csv(result))
    if result.partition is not None:
        new.write(_PARTITION, partition_csv(result))
    if len(result.scores) > 1:
        new.write(_BEST, best_csv(result))
