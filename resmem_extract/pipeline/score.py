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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunOptions, validated
from ..decoding import SkippedImage, hash_images
from ..errors import RequestError, WorkError
from ..images import StimulusSet
from ..models import load_model
from ..types import Progress
from .compiling import compiled_if_worthwhile
from .plan import choose_plan, choose_workers
from .provenance import now, provenance
from .repeat import image_differences, run_differences
from .run import Images, Tell, batches, choose_stimuli, is_file, prepare_capture, runner

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
    weights: str | os.PathLike[str] | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> Scores:
    """Predict the memorability of images.

    Parameters
    ----------
    model : Model or str
        One that declares `memorability`, such as `resmem`.
    images, weights, verify, progress, tell
        As for `extract`.
    out : path, optional
        A CSV file to write, with its provenance beside it as `out` + ``.json``.
    overwrite : bool
        Replace an existing table.
    **options
        The fields of `resmem_extract.config.RunOptions`.

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
    existing = out is not None and is_file(Path(out), "scores.csv") and not overwrite
    if out is not None:
        _check_folder(Path(out))
    if isinstance(model, str):
        model = load_model(model, weights=weights, verify=verify)
    if "memorability" not in model.aliases:
        raise RequestError(f"model {model.name!r} does not predict memorability; use resmem")
    capture = prepare_capture(model, ["memorability"], asked, tell)
    if existing:
        record = provenance(model, capture, stimuli, choose_plan(capture, asked), asked)
        return _same_or_refused(Path(out or ""), record, stimuli, asked)
    capture, plan = compiled_if_worthwhile(model, capture, asked, len(stimuli), tell)
    record = provenance(model, capture, stimuli, plan, asked)

    started = time.perf_counter()
    ids: list[str] = []
    sha256s: list[str] = []
    values: list[float] = []
    skipped: list[SkippedImage] = []
    for batch in batches([runner(model, capture)], stimuli, plan, asked):
        ids += [image.id for image in batch.loaded]
        sha256s += [image.sha256 for image in batch.loaded]
        for activations in batch.activations:
            values += activations["output"][:, 0].tolist()
        skipped += batch.skipped
        if progress:
            progress(len(ids) + len(skipped), len(stimuli))
    if not ids:
        raise WorkError(f"none of the {len(stimuli)} images can be read ({skipped[0].reason})")
    left_out = tuple((image.id, image.reason) for image in skipped)
    record |= {"skipped": [list(pair) for pair in left_out], "images_sha256": _digest(sha256s)}
    seconds = time.perf_counter() - started
    scores = Scores(tuple(ids), tuple(values), left_out, seconds, {**record, "finished": now()})
    if out is not None:
        _write(scores, Path(out))
    return scores


def _write(scores: Scores, out: Path) -> None:
    """Write table and provenance under temporary names and move them, the table last."""
    table = scores.to_csv()
    record = {**scores.provenance, "table_sha256": _digest([table])}
    _write_text(out.with_name(out.name + ".json"), json.dumps(record, indent=2) + "\n")
    _write_text(out, table)


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, suffix=".partial", delete=False
        ) as scratch:
            try:
                scratch.write(text)
                scratch.flush()
                os.fsync(scratch.fileno())
                Path(scratch.name).replace(path)
            finally:
                Path(scratch.name).unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"{path} cannot be written: {error.strerror}") from error


def _check_folder(out: Path) -> None:
    """Raise before the work, not after it, if a table cannot be written there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}") from error


def _same_or_refused(
    out: Path, record: dict[str, Any], stimuli: StimulusSet, asked: RunOptions
) -> Scores:
    """Answer a request whose table exists: with the table if it is the same, else refuse."""
    try:
        table = out.read_text(encoding="utf-8")
        there = json.loads(out.with_name(out.name + ".json").read_text(encoding="utf-8"))
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
    if differences:
        raise RequestError(
            f"{out} exists and is of another request ({'; '.join(differences)}); "
            "use --overwrite to replace it, or another --out"
        )
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
