"""Predicted memorability of images, as a table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunOptions, validated
from ..decoding import SkippedImage, hash_images
from ..errors import RequestError, WorkError, given_path
from ..images import StimulusSet
from ..partial_files import make_folders, remove_stale, removed_on_failure, write_text
from ..types import Progress
from .networks import Network, ready_networks
from .plan import choose_plan, choose_workers
from .provenance import now, provenance
from .repeat import image_differences, refuse_if_other, run_differences
from .run import (
    Images,
    Tell,
    as_model,
    batches,
    check_any_read,
    choose_stimuli,
    place_of,
    prepare_capture,
    refuse_inputs,
)

if TYPE_CHECKING:
    from ..models.base import Model

__all__ = ["Scores", "score"]


@dataclass(frozen=True)
class Scores:
    """Predicted memorability, one value an image."""

    image_ids: tuple[str, ...]
    memorability: tuple[float, ...]
    """Between 0 and 1."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Id and reason of each image left out."""
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    already_complete: bool = False
    """Whether the table was there already, from the very same request."""

    def to_csv(self) -> str:
        """Return the table `image_id,memorability`; eight decimals, as float32 has seven."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image_id", "memorability"))
        pairs = zip(self.image_ids, self.memorability, strict=True)
        writer.writerows((image_id, f"{value:.8f}") for image_id, value in pairs)
        return text.getvalue()


def score(
    model: Model | str,
    images: Images = None,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> Scores:
    """Predict the memorability of images.

    Parameters
    ----------
    model : Model or str
        One that declares `memorability`, such as `resmem`.
    images, progress, tell
        As for `extract`.
    out : path, optional
        A CSV file to write, with its provenance beside it as `out` + ``.json``.
    overwrite : bool
        Replace an existing table.
    **options
        The fields of `resmem_extract.config.RunOptions`, those of `load_model` among them.

    Returns
    -------
    Scores

    Raises
    ------
    RequestError
        If the model does not predict memorability, or `out` exists and is of another request.
    WorkError
        If an image cannot be read.
    """
    asked: RunOptions = validated(RunOptions, options, "score")
    tell = tell or (lambda _line: None)
    stimuli = choose_stimuli(images, asked, tell)
    with ExitStack() as stack:
        place = None
        if out is not None:
            if asked.weights is not None:
                refuse_inputs(given_path(out, "out"), [asked.weights])
            place = place_of(out, "scores.csv", stimuli)
            place_of(_record_of(place), "scores.csv", stimuli)
            stack.enter_context(removed_on_failure(_make_folders(place)))
        existing = place is not None and place.exists() and not overwrite
        model = as_model(model, asked)
        if place is not None and model.weights:
            refuse_inputs(place, [model.weights.path])
        return _score(model, stimuli, place, existing, asked, progress, tell)


def _score(
    model: Model,
    stimuli: StimulusSet,
    out: Path | None,
    existing: bool,
    asked: RunOptions,
    progress: Progress | None,
    tell: Tell,
) -> Scores:
    """Do what `score` says, where the result is to lie being settled."""
    if "memorability" not in model.aliases:
        raise RequestError(f"model {model.name!r} does not predict memorability; use resmem")
    capture = prepare_capture(model, ["memorability"], asked, tell)
    if out is not None and existing:
        record = provenance(model, capture, stimuli, choose_plan(capture, asked), asked)
        return _same_or_refused(out, record, stimuli, asked)
    ids: list[str] = []
    sha256s: list[str] = []
    values: list[float] = []
    skipped: list[SkippedImage] = []
    network = Network(model, capture, ("memorability",))
    with ready_networks([network], asked, len(stimuli), tell) as ready:
        record = provenance(model, capture, stimuli, ready.plan, asked)
        record |= {"engine": ready.engines[0], "device": ready.device}
        started = time.perf_counter()
        for batch in batches(ready.runners, stimuli, ready.plan, asked):
            ids += [image.id for image in batch.loaded]
            sha256s += [image.sha256 for image in batch.loaded]
            for activations in batch.activations:
                values += activations["output"][:, 0].tolist()
            skipped += batch.skipped
            if progress:
                progress(len(ids) + len(skipped), len(stimuli))
    left_out = tuple((image.id, image.reason) for image in skipped)
    check_any_read(stimuli, left_out)
    record |= {"skipped": [list(pair) for pair in left_out], "images_sha256": _digest(sha256s)}
    seconds = time.perf_counter() - started
    scores = Scores(tuple(ids), tuple(values), left_out, seconds, {**record, "finished": now()})
    if out is not None:
        _write(scores, out)
    return scores


def _write(scores: Scores, out: Path) -> None:
    """Write table and provenance under temporary names and move them, the table last."""
    table = scores.to_csv()
    record = {**scores.provenance, "table_sha256": _digest([table])}
    try:
        write_text(_record_of(out), json.dumps(record, indent=2) + "\n")
        write_text(out, table)
    except OSError as error:
        raise WorkError(f"{out} cannot be written: {error.strerror}") from error


def _record_of(out: Path) -> Path:
    """Return where the provenance of a table lies."""
    return Path(os.path.realpath(out.with_name(out.name + ".json")))


def _make_folders(out: Path) -> list[Path]:
    """Make the folder of a table, return what was not there before, and see that it can be used.

    Raises
    ------
    RequestError
        Before the work, not after it, if a table cannot be written there.
    """
    try:
        made = make_folders(out)
        for path in (out, _record_of(out)):
            remove_stale(path)
        with removed_on_failure(made), tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}") from error
    return made


def _same_or_refused(
    out: Path, record: dict[str, Any], stimuli: StimulusSet, asked: RunOptions
) -> Scores:
    """Answer a request whose table exists: with the table if it is the same, else refuse."""
    try:
        table = out.read_text(encoding="utf-8")
        there = json.loads(_record_of(out).read_text(encoding="utf-8"))
        skipped = tuple((str(image_id), str(reason)) for image_id, reason in there["skipped"])
        if there["table_sha256"] != _digest([table]):
            raise ValueError("the table was changed")
        pairs = [(image_id, float(value)) for image_id, value in _rows(table)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{out} exists and is not, with its .json, what `score` wrote; "
            "use --overwrite to replace it, or another --out"
        ) from error
    ids = [image_id for image_id, _ in pairs]
    differences = [
        *run_differences(there, record, asked),
        *image_differences(stimuli, ids, None, skipped, asked),
    ]
    if not differences:
        names = set(ids)
        kept = stimuli.take([row for row, name in enumerate(stimuli.ids) if name in names])
        if there.get("images_sha256") != _digest(hash_images(kept, choose_workers(asked))):
            differences = ["images: the same ids, but other contents"]
    refuse_if_other(out, differences)
    return Scores(
        tuple(ids),
        tuple(value for _, value in pairs),
        skipped,
        provenance=there,
        already_complete=True,
    )


def _rows(table: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table, newline="")))[1:]


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
