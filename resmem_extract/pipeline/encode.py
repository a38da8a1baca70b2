"""Stores and responses joined: which layer predicts what was measured, and how well."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import EncodeOptions, validated
from ..encoding import (
    Banded,
    BandedOptions,
    FeatureOptions,
    Fold,
    Responses,
    Validated,
    banded_models,
    checked_penalties,
    cross_validate,
    linear_models,
    partition_variance,
    place_on,
    pls_models,
    product_measure,
    ridge_models,
)
from ..errors import RequestError, WorkError, given_path
from ..gram import Rows, memory_in_bytes
from ..partial_files import make_folders, removed_on_failure, write_text
from ..store import EncodingWriter, Store, open_store
from ..types import Progress
from .chosen import choose_modules, model_name
from .encode_features import prepared
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
from .provenance import now, typed_command
from .responses import read_responses, responses_of_column

__all__ = ["encode"]

Tell = Callable[[str], None]
_SCORES, _MODEL, _RECORD = "scores.csv", "model.h5", "encode.json"


@dataclass(frozen=True)
class _Entry:
    """One line of the study: a module, or several as bands of one model."""

    model: str
    module: str
    parts: tuple[tuple[Store, str], ...]

    @property
    def name(self) -> str:
        return f"{self.model}:{self.module}"


def encode(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modules: str | Sequence[str] | None = None,
    *,
    responses: str | os.PathLike[str] | Responses | None = None,
    target: str | Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    also: Mapping[str, Any] | None = None,
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
    also : mapping, optional
        JSON values that are kept with the result, and make a request another one if they differ.
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
        If the result cannot be written.

    Examples
    --------
    >>> encode("f.h5", "features.layer*", responses="v1.npz", out="v1/")   # doctest: +SKIP
    """
    asked: EncodeOptions = validated(EncodeOptions, options, "encode")
    given = [stores] if isinstance(stores, (str, os.PathLike)) else list(stores)
    texts = [modules] if isinstance(modules, str) else modules
    columns = [target] if isinstance(target, str) else list(target)
    _check(asked, responses, columns, texts)
    folder = None if out is None else given_path(out, "out")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder for {_SCORES} and the rest")
    notes: list[str] = []

    def note(line: str) -> None:
        if line not in notes:
            notes.append(line)
            if tell:
                tell(line)

    with ExitStack() as stack:
        opened = [stack.enter_context(open_store(path)) for path in given]
        entries = _entries(opened, texts, asked)
        measured = _responses(opened[0], responses, columns, asked)
        study = join(opened, measured, asked, note)
        record = _record(opened, entries, measured, asked) | {"also": dict(also or {})}
        if folder is not None and (folder / _RECORD).exists() and not asked.overwrite:
            _refuse_if_other(folder, record)
            names = study.responses.targets
            nothing = np.full(len(names), np.nan)
            return EncodeResult((), names, (), (), nothing, out=folder, already_complete=True)
        with removed_on_failure(_make(folder)):
            return _run(study, entries, asked, folder, record, note, notes, progress)


def _check(
    asked: EncodeOptions, responses: object, columns: Sequence[str], texts: Sequence[str] | None
) -> None:
    memory_in_bytes(asked.memory)
    if (responses is None) == (not columns):
        raise RequestError("give --responses FILE or --target COLUMN of the images, one of the two")
    if asked.alpha:
        checked_penalties(asked.alpha)
    if asked.pca is not None and asked.method == "banded":
        raise RequestError("--pca goes with one feature space; banded ridge has several")
    if asked.partition and (texts is None or len(texts) != 2):
        n = 0 if texts is None else len(texts)
        raise RequestError(
            f"--partition takes two sets of modules, got {n}: give --module twice, a path or a "
            "pattern"
        )
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


def _entries(
    stores: Sequence[Store], texts: Sequence[str] | None, asked: EncodeOptions
) -> list[_Entry]:
    """Return the models to make: of each module, or of sets of them."""

    def of(pairs: Sequence[tuple[Store, str]]) -> _Entry:
        models = dict.fromkeys(model_name(store) for store, _ in pairs)
        several = len(models) > 1
        modules = [f"{model_name(s)}:{path}" if several else path for s, path in pairs]
        return _Entry("+".join(models), "+".join(modules), tuple(pairs))

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


def _run(
    study: Study,
    entries: Sequence[_Entry],
    asked: EncodeOptions,
    folder: Path | None,
    record: dict[str, Any],
    note: Tell,
    notes: list[str],
    progress: Progress | None,
) -> EncodeResult:
    responses = study.responses
    scores: list[Scored] = []
    predicted: dict[str, npt.NDArray[np.floating]] = {}
    done, total = 0, len(entries) * len(study.folds)

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    keep_all = folder is None or asked.partition
    rois = responses.rois or ("",) * responses.n_targets
    with _writer(folder, study, asked.seed) as writer:
        for entry in entries:
            found, bands = _validate(study, entry, asked, note, step)
            scored = _scored(entry, found, bands)
            scores.append(scored)
            best_yet = scored.mean_r[np.isfinite(scored.mean_r)].max(initial=-np.inf)
            if keep_all or best_yet >= max(_tops(scores)):
                if not keep_all:
                    predicted.clear()  # the figure of predictions is of the best module alone
                predicted[entry.name] = found.predicted
            if writer is not None:
                _add(writer, entry, found, bands)
                if asked.weights:
                    (store, path), *_ = entry.parts
                    rows = prepared(store[path], study.order(store), asked, entry.name, note)
                    write_weights(writer, entry.name, rows, study, asked)
        for scored in scores:
            undefined = int(np.isnan(scored.r).any(axis=0).sum())
            if undefined:
                note(
                    f"{scored.name}: r is undefined in some fold for {undefined} targets, where "
                    "measured or predicted values do not vary; means are over the other folds"
                )
        result = EncodeResult(
            corrected(scores),
            responses.targets,
            tuple(rois),
            study.folds.names,
            study.ceiling,
            responses,
            predicted,
            _partition(study, entries, predicted, asked) if asked.partition else None,
            tuple(notes),
            folder,
        )
        if folder is not None and writer is not None:
            _write(result, folder, {**record, "notes": notes, "finished": now()}, writer)
    return result


def _tops(scores: Sequence[Scored]) -> list[float]:
    return [float(s.mean_r[np.isfinite(s.mean_r)].max(initial=-np.inf)) for s in scores]


Bands = dict[str, dict[str, npt.NDArray[np.float64]]]


def _validate(
    study: Study, entry: _Entry, asked: EncodeOptions, note: Tell, step: Callable[[], None]
) -> tuple[Validated, Bands]:
    """Cross-validate one model; what its bands contribute comes beside it."""
    images, targets = study.images, study.responses.values
    folds = list(study.folds)
    options = FeatureOptions(asked.scale, asked.pca, memory=asked.memory)
    penalties = checked_penalties(asked.alpha) if asked.alpha else None
    names = [f"{model_name(store)}:{path}" for store, path in entry.parts]
    features: list[Rows] = [
        prepared(store[path], study.order(store), asked, name, note)
        for (store, path), name in zip(entry.parts, names, strict=True)
    ]
    about: dict[str, Any] = {"ids": study.ids}
    bands: Bands = {}
    if len(features) > 1 or asked.method == "banded":
        search = BandedOptions(asked.iterations, penalties, asked.seed, asked.device)
        heard = _listener(bands, names, study)
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


def _listener(bands: Bands, names: Sequence[str], study: Study) -> Callable[[Fold, Banded], None]:
    """Return what keeps the share of each band, the first time that a fold is predicted."""
    heard: set[str] = set()

    def listen(fold: Fold, found: Banded) -> None:
        if fold.name in heard:  # a permutation
            return
        heard.add(fold.name)
        measured = study.responses.values[fold.test]
        shares = product_measure(measured, found.bands, found.means)
        for k, name in enumerate(names):
            kept = bands.setdefault(name, {})
            for what, values in (("r2", shares[k]), ("weight", found.weights[k])):
                before = kept.get(what, np.empty((0, len(values))))
                kept[what] = np.vstack([before, values])

    return listen


def _scored(entry: _Entry, found: Validated, bands: Bands) -> Scored:
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
    )


def _partition(
    study: Study,
    entries: Sequence[_Entry],
    predicted: Mapping[str, npt.NDArray[np.floating]],
    asked: EncodeOptions,
) -> Any:
    a, b, both = (predicted[entry.name] for entry in entries)
    tests = [fold.test for fold in study.folds]
    found = partition_variance(study.responses.values, [a, b, both], tests, seed=asked.seed)
    return entries[0].name, entries[1].name, found


# What is written


def _record(
    stores: Sequence[Store], entries: Sequence[_Entry], responses: Responses, asked: EncodeOptions
) -> dict[str, Any]:
    """Return all that the result depends on, as JSON values."""
    return {
        "stores": [
            {
                "provenance": store.provenance,
                "images": hashlib.sha256("\n".join(store.sha256.tolist()).encode()).hexdigest(),
            }
            for store in stores
        ],
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


def _refuse_if_other(folder: Path, record: dict[str, Any]) -> None:
    try:
        there = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        whole = (folder / _SCORES).exists() and (folder / _MODEL).exists()
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / _RECORD} cannot be read: {error}") from error
    differences = [key for key in record if there.get(key) != record[key]]
    if differences or not whole:
        what = f"other {', '.join(differences)}" if differences else "files are missing"
        raise RequestError(
            f"{folder} holds the result of another request ({what}); use --overwrite to replace "
            "it, or another --out"
        )


def _make(folder: Path | None) -> list[Path]:
    """Make the folder of the result; return what was not there before."""
    if folder is None:
        return []
    try:
        return make_folders(folder / _SCORES)
    except OSError as error:
        raise WorkError(f"{folder} cannot be made: {error.strerror or error}") from error


def _writer(folder: Path | None, study: Study, seed: int) -> Any:
    if folder is None:
        return nullcontext(None)
    responses = study.responses
    strings = {
        "image_id": responses.ids,
        "fold_name": study.folds.names,
        "target": responses.targets,
        "roi": responses.rois or [""] * responses.n_targets,
    }
    arrays = {"fold": study.folds.numbers, "measured": responses.values}
    try:
        return EncodingWriter(folder / _MODEL, seed, strings, arrays)
    except OSError as error:
        raise WorkError(f"{folder / _MODEL} cannot be written: {error}") from error


def _add(writer: EncodingWriter, entry: _Entry, found: Validated, bands: Bands) -> None:
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


def _write(
    result: EncodeResult, folder: Path, record: dict[str, Any], writer: EncodingWriter
) -> None:
    """Write everything under temporary names and move it, the scores last."""
    try:
        writer.finish({**record, "command": typed_command()})
        if any(scored.bands for scored in result.scores):
            write_text(folder / "bands.csv", bands_csv(result))
        if result.partition is not None:
            write_text(folder / "partition.csv", partition_csv(result))
        if len(result.scores) > 1:
            write_text(folder / "best.csv", best_csv(result))
        write_text(folder / _RECORD, json.dumps(record, indent=2) + "\n")
        write_text(folder / _SCORES, scores_csv(result))
    except OSError as error:
        raise WorkError(f"{folder} cannot be written: {error.strerror or error}") from error
