"""Stores and references joined: who is like whom, and how sure is that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..compare import COMPARATORS, RDM, comparator, least_p
from ..compare.build import read_once
from ..compare.metrics import check_metric
from ..compare.sampled import check_sampled
from ..compare.sampled_table import compare_all_sampled
from ..compare.table import (
    Difference,
    Entity,
    Inference,
    Row,
    SampledRow,
    Table,
    compare_all,
    from_csv,
    to_csv,
)
from ..config import RsaOptions, validated
from ..errors import RequestError, WorkError, counted
from ..gram import memory_in_bytes
from ..store import Store, read_rdms, write_rdms
from ..types import Progress
from .chosen import check_chosen, choose_modules, model_name, opened_stores
from .id_lists import read_id_list
from .new_result import NewResult, draw_figures, new_result
from .provenance import now
from .references import Reference, file_and_key, read_references
from .result_folder import Figures, describe_stores, result_folder
from .rsa_sampled import sampled_entities

__all__ = ["RsaResult", "compare_stores"]

Tell = Callable[[str], None]
_TABLE, _RECORD = "rsa.csv", "rsa.json"
_RDMS, _DIFFERENCES, _PAIRS = "rdms.h5", "differences.csv", "pairs.csv"
_TABLES = (_TABLE, _RDMS, _PAIRS, _DIFFERENCES)


@dataclass(frozen=True)
class RsaResult:
    """What `compare_stores` found."""

    table: Table
    models: tuple[Entity, ...]
    """The modules, in the order of stores."""
    references: tuple[Entity, ...]
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of the images of the first store, by name of the column and id."""
    out: Path | None = None
    already_complete: bool = False
    """Whether the result was there already, from the very same request, and was read from there."""


def compare_stores(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modules: str | Sequence[str] | None = None,
    *,
    references: Sequence[str | RDM] = (),
    out: str | os.PathLike[str] | None = None,
    figures: Figures[RsaResult] | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> RsaResult:
    """Compare modules of feature stores with references and with each other.

    Parameters
    ----------
    stores : path or sequence of path
    modules : str or sequence of str, optional
        Module paths or patterns, each of any store that has it, ``resmem:fc`` of that network
        alone; by default all modules.
    references : sequence of str or RDM
        Files, ``it.npz`` or ``it.npz:human_IT``, or RDMs.
    out : path, optional
        A folder for ``rsa.csv``, ``rdms.h5`` and, with a bootstrap, ``differences.csv``; with
        `pairs`, ``pairs.csv`` in place of ``rdms.h5``.
    figures : Figures, optional
        What is to be drawn into `out`. Where the result is there, figures that are not are drawn
        from it.
    progress : callable, optional
        Told how many bytes of activations are read.
    tell : callable, optional
        Told what the user should know, one line each.
    **options
        The fields of `resmem_extract.config.RsaOptions`.

    Returns
    -------
    RsaResult

    Raises
    ------
    RequestError
        If the request is wrong; nothing has been written.
    WorkError
        If a store is damaged, or the result cannot be written.
    """
    asked: RsaOptions = validated(RsaOptions, options, "rsa")
    tell = tell or (lambda _line: None)
    _check(asked)
    place = result_folder(out, _TABLES, _RECORD, figures)
    with ExitStack() as stack:
        given_stores = [stores] if isinstance(stores, (str, os.PathLike)) else stores
        opened = stack.enter_context(opened_stores(given_stores))
        chosen = choose_modules(opened, [modules] if isinstance(modules, str) else modules)
        given = _references(references, asked)
        _check_names(chosen, given)
        _check_comparators(asked, given)
        record = _record(opened, chosen, given, asked)
        columns = _columns(opened[0])
        if place and (found := place.find(record, overwrite=asked.overwrite)):
            result = _read(place.path, found.record, chosen, _against(given, asked), columns)
            draw_figures(place, found, result, tell)
            return result
        check_chosen(chosen)
        new = stack.enter_context(new_result(place))
        for line in _foreseen(chosen, given, asked):
            tell(line)
        if asked.pairs is not None:
            arrays = [(f"{model_name(store)}:{path}", store[path]) for store, path in chosen]
            pairs, left, right = sampled_entities(arrays, given, asked, asked.pairs, progress, tell)
            table = compare_all_sampled(left, right, asked.metric, asked.compare, pairs)
            files = [str(store.path) for store, _ in chosen]
            made = [Entity(x.name, {}, None, file) for x, file in zip(left, files, strict=True)]
            against = _against(given, asked)
        else:
            made = _models(chosen, asked, progress)
            against = _against(given, asked)
            inference = Inference(asked.bootstrap, asked.permutations, asked.seed)
            if asked.bootstrap or asked.permutations:  # which may take minutes, in silence
                tell(
                    f"comparing {counted(len(made), 'module')} with "
                    f"{counted(len(against), 'reference')} and with each other: "
                    f"{asked.bootstrap} bootstrap samples, {asked.permutations} permutations"
                )
            table = compare_all(made, against, asked.metric, asked.compare, inference)
        for note in table.notes:
            tell(note)
        folder = place.path if place else None
        result = RsaResult(table, tuple(made), against, columns, folder)
        if new is not None:
            _write(result, new, record)
    return result


def _check(asked: RsaOptions) -> None:
    for metric in asked.metric:
        check_metric(metric)
    for name in asked.compare:
        comparator(name)
        if asked.pairs is not None:
            check_sampled(name)
    if "metric" in asked.model_fields_set and all(
        COMPARATORS[name].of == "features" for name in asked.compare
    ):
        raise RequestError(
            f"--metric {asked.metric[0]}: {asked.compare[0]} compares features, not "
            "dissimilarities; leave --metric out, or use --compare spearman"
        )
    memory_in_bytes(asked.memory)
    if asked.bootstrap == 1:
        raise RequestError("--bootstrap 1: one sample has no interval; give 1000")
    if asked.pairs is not None and (asked.bootstrap or asked.permutations):
        raise RequestError(
            "--pairs and --bootstrap or --permutations: intervals and p need all pairs of images; "
            "leave one out"
        )


def _check_comparators(asked: RsaOptions, references: Sequence[Reference]) -> None:
    """Raise before anything is read if features are needed where there is but an RDM."""
    for name in asked.compare:
        if COMPARATORS[name].of == "features":
            for reference in references:
                if reference.patterns is None or reference.patterns.ndim == 3:
                    what = "an RDM" if reference.patterns is None else "of several subjects"
                    raise RequestError(
                        f"{name} compares features, and {reference.name} is {what}; use --compare "
                        "spearman, or leave the reference out"
                    )


def _check_names(chosen: Sequence[tuple[Store, str]], references: Sequence[Reference]) -> None:
    """Raise if a reference, such as an RDM saved by an earlier call, is called as a module is."""
    modules = {f"{model_name(store)}:{path}" for store, path in chosen}
    for reference in references:
        if reference.name in modules:
            raise RequestError(
                f"{reference.name} is both a module of a store and a reference; give "
                "--reference FILE:KEY for those that are no modules, or leave the store out"
            )


def _foreseen(
    chosen: Sequence[tuple[Store, str]], references: Sequence[Reference], asked: RsaOptions
) -> Iterator[str]:
    """Yield what the user may not expect of the result."""
    if len(chosen) == 1 and not references:
        yield "nothing to compare: one module, and no --reference; its RDM is written"
    yield from filter(None, (reference.note for reference in references))
    if line := least_p(asked.permutations):
        yield line


# What is read


def _references(references: Sequence[str | RDM], asked: RsaOptions) -> list[Reference]:
    ids = None if asked.reference_ids is None else read_id_list(asked.reference_ids)
    found: list[Reference] = []
    files: list[str] = []  # for each reference, how it is called where its key is not enough
    for reference in references:
        if isinstance(reference, RDM):
            digest = hashlib.sha256(reference.dissimilarities.tobytes()).hexdigest()
            found.append(Reference(reference.name, reference, sha256=digest))
            files.append(reference.name)
        else:
            own = read_references(os.fspath(reference), ids)
            found += own
            files += [_long_name(os.fspath(reference), one.name) for one in own]
    names = [reference.name for reference in found]
    found = [
        one if names.count(one.name) == 1 else one.called(name)
        for one, name in zip(found, files, strict=True)
    ]
    names = [reference.name for reference in found]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"two references are named {name!r}; give each once, or rename one")
    return found


def _long_name(text: str, key: str) -> str:
    """Return ``human.rdm`` for the reference `rdm` of ``human.npz``."""
    path, _ = file_and_key(text)
    return f"{path.stem}.{key}"


def _models(
    chosen: Sequence[tuple[Store, str]],
    asked: RsaOptions,
    progress: Progress | None,
) -> list[Entity]:
    """Read each module once, for all metrics and comparators."""
    needs = {COMPARATORS[name].of for name in asked.compare}
    metrics = asked.metric if "rdms" in needs else []
    made = []
    total, done = sum(store[path].nbytes for store, path in chosen), 0
    for store, path in chosen:
        name = f"{model_name(store)}:{path}"
        rows = store[path]
        rdms, linear = read_once(
            rows,
            metrics,
            with_kernel="features" in needs,
            name=name,
            memory=asked.memory,
            device=asked.device,
        )
        made.append(Entity(name, rdms, linear, str(store.path)))
        done += rows.nbytes
        if progress:
            progress(done, total)
    return made


def _against(references: Sequence[Reference], asked: RsaOptions) -> tuple[Entity, ...]:
    """Return references as modules are compared with them; of a sample of pairs, names alone."""
    needs = set() if asked.pairs is not None else {COMPARATORS[name].of for name in asked.compare}
    metrics = asked.metric if "rdms" in needs else []
    return tuple(
        Entity(
            reference.name,
            {metric: reference.rdm_of(metric, asked.memory) for metric in metrics},
            reference.kernel(asked.memory) if "features" in needs else None,
        )
        for reference in references
    )


def _columns(store: Store) -> dict[str, dict[str, str]]:
    ids = store.image_ids.tolist()
    return {
        name: dict(zip(ids, map(str, store.columns[name].tolist()), strict=True))
        for name in store.columns
    }


# What is written


def _record(
    stores: Sequence[Store],
    chosen: Sequence[tuple[Store, str]],
    references: Sequence[Reference],
    asked: RsaOptions,
) -> dict[str, Any]:
    """Return all that the result depends on, as JSON values."""
    return {
        "stores": describe_stores(stores),
        "modules": [f"{model_name(store)}:{path}" for store, path in chosen],
        "references": [[reference.name, reference.sha256] for reference in references],
        "options": asked.model_dump(
            mode="json", exclude={"overwrite", "memory", "device", "reference_ids"}
        ),
    }


def _write(result: RsaResult, new: NewResult, record: dict[str, Any]) -> None:
    table = result.table
    rdms = [rdm for entity in (*result.models, *result.references) for rdm in _distinct(entity)]
    if rdms:
        with new.file(_RDMS) as path:
            write_rdms(path, rdms)
    new.write(_TABLE, to_csv(table.rows, Row))
    if table.sampled:
        new.write(_PAIRS, to_csv(table.sampled, SampledRow))
    if table.differences:
        new.write(_DIFFERENCES, to_csv(table.differences, Difference))
    new.finish(result, record, {"notes": table.notes, "finished": now()})


def _read(
    folder: Path,
    record: Mapping[str, Any],
    chosen: Sequence[tuple[Store, str]],
    references: tuple[Entity, ...],
    columns: dict[str, dict[str, str]],
) -> RsaResult:
    """Return a result that is there, with seven digits of each number."""

    def lines(name: str, kind: type[Any]) -> list[Any]:
        there = name in record["files"]
        return from_csv((folder / name).read_text(encoding="utf-8"), kind) if there else []

    try:
        rdms = read_rdms(folder / _RDMS) if _RDMS in record["files"] else []
        rows, differences = lines(_TABLE, Row), lines(_DIFFERENCES, Difference)
        table = Table(rows, differences, lines(_PAIRS, SampledRow), record["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkError(f"{folder} cannot be read ({error}); --overwrite makes it anew") from error
    models = []
    for (store, _), name in zip(chosen, record["modules"], strict=True):
        own = {rdm.metric: rdm for rdm in rdms if rdm.name == name}
        models.append(Entity(name, own, None, str(store.path)))
    return RsaResult(table, tuple(models), references, columns, folder, already_complete=True)


def _distinct(entity: Entity) -> list[RDM]:
    """Return the RDMs of an entity; a reference has the same one under every metric."""
    return list({id(rdm): rdm for rdm in entity.rdms.values()}.values())
