"""What is there already of a result, whole or half, and what is left to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ExtractOptions
from ..errors import RequestError, StoreError
from ..images import StimulusSet
from ..store import Store, open_store
from ..types import ActivationSpec
from .join import Base
from .making import Job, refuse_other_work
from .plan import choose_plan, choose_workers
from .provenance import provenance
from .repeat import readable, refuse_if_other, store_differences
from .request import Record, adopt, describe_request, plan_differences
from .run import Tell, prepare_capture, refuse_inputs
from .summary import ExtractSummary
from .work import WorkFolder

if TYPE_CHECKING:
    from ..capture import Capture
    from ..models.base import Model

__all__ = ["Wanted", "look"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of one network."""

    model: Model
    modules: Sequence[str]
    out: Path


def look(
    wanted: Wanted, stimuli: StimulusSet, asked: ExtractOptions, tell: Tell, stack: ExitStack
) -> Job | ExtractSummary:
    """See what is there already, and return what is to be done, or a summary if nothing is.

    Parameters
    ----------
    wanted : Wanted
    stimuli : StimulusSet
        The images that the result is to be of.
    asked : ExtractOptions
    tell : callable
    stack : contextlib.ExitStack
        Closes a store that is to be extended.

    Raises
    ------
    RequestError
        If what is there is of another request, or what is asked for is wrong.
    WorkError
        If a store that is to be extended is damaged.
    """
    work = WorkFolder(wanted.out)
    if wanted.model.weights:
        refuse_inputs(wanted.out, [wanted.model.weights.path])
    begun = None if asked.restart else work.read()
    store = _result(wanted.out, begun, asked)
    if store is not None:
        stack.enter_context(store)
        return _look_at_result(wanted, store, begun, stimuli, asked, tell)
    record = _worth_continuing(work, begun, asked)
    if record is not None:
        asked = _following(work, record.plan, asked)
    capture = prepare_capture(wanted.model, wanted.modules, asked, tell)
    return _job(wanted, capture, stimuli, None, record, asked)


def _result(out: Path, begun: Record | None, asked: ExtractOptions) -> Store | None:
    """Return the store under the name of the result, if it may be the result already.

    Raises
    ------
    RequestError
        If something else lies there.
    """
    if not out.exists() or (asked.overwrite and not _is_result_of(out, begun)):
        return None
    try:
        return open_store(out)
    except StoreError as error:
        raise RequestError(f"{error}; --overwrite replaces it") from error


def _is_result_of(out: Path, begun: Record | None) -> bool:
    """Tell whether a run has ended with the result, though its work folder is still there."""
    if begun is None:
        return False
    with suppress(StoreError), open_store(out) as store:
        return bool(store.provenance.get("run") == begun.run)
    return False


def _look_at_result(
    wanted: Wanted,
    store: Store,
    begun: Record | None,
    stimuli: StimulusSet,
    asked: ExtractOptions,
    tell: Tell,
) -> Job | ExtractSummary:
    """Say that a request is complete, or return how its result is to be extended."""
    work = WorkFolder(wanted.out)
    if work.path.exists() and (begun is None or store.provenance.get("run") == begun.run):
        with suppress(RequestError), work.at_work(None, tell):  # unless others are at it
            work.remove()
        begun = None
    store.check(())  # else damaged ids would pass for other images
    left_out = _left_out(store, stimuli, asked)
    known = {*store.image_ids.tolist(), *(image_id for image_id, _ in left_out)}
    new = [row for row, image_id in enumerate(stimuli.ids) if image_id not in known]
    compared, record = stimuli, None
    if asked.extend and new:
        compared = stimuli.take([row for row, name in enumerate(stimuli.ids) if name in known])
        record = _worth_continuing(work, begun, asked)
        asked = _following(work, record.plan if record else store.provenance, asked)
    capture = prepare_capture(wanted.model, wanted.modules, asked, tell)
    specs = _specs(wanted.model, capture, asked)
    origin = provenance(wanted.model, capture, stimuli, choose_plan(capture, asked), asked)
    differences = list(store_differences(store, specs, origin, compared, left_out, asked))
    only_new = new and not asked.extend and len(differences) == 1
    hint = "--extend to add new images, " if only_new else ""
    refuse_if_other(wanted.out, differences, hint)
    if asked.extend and new:
        store.check()  # chunks are copied unread, and what lies beside them gets new checksums
        base = Base(store, left_out)
        return _job(wanted, capture, stimuli.take(new), base, record, asked)
    return ExtractSummary.complete(store, specs)


def _left_out(
    store: Store, stimuli: StimulusSet, asked: ExtractOptions
) -> tuple[tuple[str, str], ...]:
    """Return which images a store leaves out; to extend it, not those that can be read now."""
    if not asked.extend:
        return store.skipped
    names = {image_id for image_id, _ in store.skipped}
    back = set(readable(stimuli, names, choose_workers(asked)))
    return tuple(pair for pair in store.skipped if pair[0] not in back)


def _worth_continuing(
    work: WorkFolder, begun: Record | None, asked: ExtractOptions
) -> Record | None:
    """Return the work in progress if any of it is done, or if other shards may be at it."""
    return begun if begun is not None and (asked.shard or work.parts()) else None


def _following(work: WorkFolder, plan: Mapping[str, Any], asked: ExtractOptions) -> ExtractOptions:
    """Return what is asked for, by the plan of what is to be continued.

    Raises
    ------
    RequestError
        If something else is asked for by name.
    """
    refuse_other_work(work, plan_differences(plan, asked))
    return adopt(asked, plan)


def _job(
    wanted: Wanted,
    capture: Capture,
    stimuli: StimulusSet,
    base: Base | None,
    record: Record | None,
    asked: ExtractOptions,
) -> Job:
    model, specs = wanted.model, _specs(wanted.model, capture, asked)
    origin = provenance(model, capture, stimuli, choose_plan(capture, asked), asked)
    return Job(
        model=model,
        modules=tuple(wanted.modules),
        capture=capture,
        specs=specs,
        stimuli=stimuli,
        base=base,
        work=WorkFolder(wanted.out),
        record=record,
        request=describe_request(origin, specs, stimuli, asked, _identity(base)),
        asked=asked,
    )


def _identity(base: Base | None) -> dict[str, Any] | None:
    """Return what tells a store that is extended from others, as JSON values."""
    if base is None:
        return None
    text = json.dumps([base.store.image_ids.tolist(), base.store.sha256.tolist()])
    return {"images": len(base.store), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _specs(model: Model, capture: Capture, asked: ExtractOptions) -> list[ActivationSpec]:
    from ..capture import has_tokens, reduced_shape

    if asked.tokens != "all":
        shapes = [one.shape for one in capture.captured]
        path = capture.captured[0].path
        if not any(map(has_tokens, shapes)):
            raise RequestError(
                f"--tokens {asked.tokens}: {path} of {model.name} has no tokens, nor has any other "
                "module that is asked for; leave it out, or ask for --pool avg"
            )
        if asked.pool != "none" and max(map(len, shapes)) < 3:  # it is of maps beside tokens
            raise RequestError(
                f"--pool {asked.pool}: after --tokens {asked.tokens} {path} is a vector, as is any "
                "other module that is asked for; leave one of the two out"
            )
    specs = []
    reduction = model.adapt(asked.reduction)
    for captured in capture.captured:
        shape, axes = reduced_shape(captured.shape, reduction, is_attention=captured.is_attention)
        specs.append(
            ActivationSpec(
                path=captured.path,
                requested=captured.requested,
                shape=shape,
                axes=("image", *axes),
                dtype=asked.dtype,
                index_path=captured.index_path,
                call=captured.target.call,
                calls=captured.calls,
                links=captured.links,
                names=model.paths.declared(captured.target.module),
                reduce=asked.reduction.describe(),
            )
        )
    return specs
