"""What determines the contents of a result, as it is kept with the work in progress.

Two parts: the request, which has to be the same when work is continued, and the plan (engine,
batches, threads), which was chosen from the machine when work began and is followed from then on,
because it decides the last bits of the activations.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ..config import ExtractOptions
from ..images import StimulusSet
from ..types import ActivationSpec
from .differences import id_difference, only, spec_differences, value_differences

if TYPE_CHECKING:
    from .plan import Plan

__all__ = [
    "Record",
    "adopt",
    "describe_request",
    "followed_differences",
    "plan_differences",
    "plan_record",
    "request_differences",
]

_FORMAT = 1
_COMPARED = (
    "model",
    "state_dict_sha256",
    "preprocessing",
    "exif_orientation",
    "precision",
    "packages",
    "compression",
    "extends",
)


@dataclass(frozen=True)
class Record:
    """The file ``request.json``."""

    run: str
    """A name of its own, which the result bears too: so both are known to belong together."""
    request: Mapping[str, Any]
    """JSON values."""
    plan: Mapping[str, Any]
    """From `plan_record`."""
    provenance: Mapping[str, Any]
    """What the result will say of itself."""

    @classmethod
    def new(
        cls, request: Mapping[str, Any], plan: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> Record:
        """Return the record of a run that begins."""
        run = secrets.token_hex(8)
        return cls(run, request, plan, {**provenance, "run": run})

    def text(self) -> str:
        """Return the record as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def parse(cls, text: str) -> Record:
        """Return what `text` wrote.

        Raises
        ------
        ValueError
            If it is something else, or of a newer version.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError(f"not of format {_FORMAT}")
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError("other keys than expected") from error


def describe_request(
    provenance: Mapping[str, Any],
    specs: Sequence[ActivationSpec],
    stimuli: StimulusSet,
    asked: ExtractOptions,
    extends: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return all that determines the contents of a result, as JSON values.

    Parameters
    ----------
    provenance : mapping
        Of a run that would begin now.
    specs : sequence of ActivationSpec
    stimuli : StimulusSet
        The images that are to be computed.
    asked : ExtractOptions
    extends : mapping, optional
        What identifies the store whose rows come before.
    """
    packages = provenance["packages"]
    request = {
        **{key: provenance[key] for key in _COMPARED if key in provenance},
        "packages": {name: packages[name] for name in sorted(packages) if name in _MAKING_BITS},
        "compression": asked.compression,
        "extends": extends,
        "modules": [asdict(spec) for spec in specs],
        "columns": {name: _digest(values) for name, values in stimuli.columns.items()},
        "images": list(stimuli.ids),
    }
    as_read: dict[str, Any] = json.loads(json.dumps(request))
    return as_read


_MAKING_BITS = ("resmem-extract", "torch", "numpy", "pillow")


def _digest(values: npt.NDArray[Any]) -> str:
    text = json.dumps([values.dtype.kind, values.tolist()])
    return hashlib.sha256(text.encode()).hexdigest()


def request_differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield, a few words each, in what two requests differ."""
    yield from value_differences(there, asked, _COMPARED)
    here = [_spec(content) for content in asked["modules"]]
    yield from spec_differences({spec.path: spec for spec in map(_spec, there["modules"])}, here)
    if there["images"] != asked["images"]:
        old, new = set(there["images"]), set(asked["images"])
        yield "images: in another order" if old == new else id_difference(old, new)
    elif there["columns"].keys() != asked["columns"].keys():
        yield f"columns: {only(there['columns'])} there, {only(asked['columns'])} asked"
    elif other := [n for n in asked["columns"] if asked["columns"][n] != there["columns"][n]]:
        yield f"other values in the columns {only(other)}"


def _spec(content: Mapping[str, Any]) -> ActivationSpec:
    lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
    return ActivationSpec(**{**content, **lists})


def plan_record(plan: Plan, engine: str, device: str, hardware: str) -> dict[str, Any]:
    """Return what of a run's plan may decide the last bits of activations, as JSON values.

    Parameters
    ----------
    plan : Plan
    engine : str
        `compiled`, `graph`, `hooks` or `reference`.
    device : str
        ``cpu``, or ``cuda:0,cuda:1``, of which the kind counts.
    hardware : str
        Name of the processor or GPU.
    """
    return {
        "engine": engine,
        "device": _kind(device),
        "hardware": hardware,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
    }


def adopt(asked: ExtractOptions, plan: Mapping[str, Any]) -> ExtractOptions:
    """Return what was asked for, with everything that was left open as a plan has it.

    Parameters
    ----------
    asked : ExtractOptions
    plan : mapping
        From `plan_record`, or the provenance of a result.
    """
    kind = _kind(plan["device"])
    compiled = plan["engine"] == "compiled"
    chosen: dict[str, Any] = {"compile": "on" if compiled else "off"}
    if asked.engine == "auto":
        chosen["engine"] = "graph" if compiled else plan["engine"]
    if asked.device == "auto":
        chosen["device"] = kind
    for key in _planned(kind):
        if getattr(asked, key) is None:
            chosen[key] = plan[key]
    return asked.model_copy(update=chosen)


def plan_differences(there: Mapping[str, Any], asked: ExtractOptions) -> Iterator[str]:
    """Yield in what a plan differs from what the user asked for by name."""
    compiled = there["engine"] == "compiled"
    engine = "graph" if compiled else there["engine"]
    if asked.engine not in ("auto", engine):
        yield f"engine: {engine} there, {asked.engine} asked"
    if compiled and asked.compile == "off":
        yield "compile: on there, off asked"
    if asked.device != "auto" and _kind(asked.device) != _kind(there["device"]):
        yield f"device: {there['device']} there, {asked.device} asked"
    for key in _planned(_kind(there["device"])):
        if getattr(asked, key) not in (None, there[key]):
            yield f"{key.replace('_', ' ')}: {there[key]} there, {getattr(asked, key)} asked"


def followed_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the plan that a run has come to differs from the one that it is to follow."""
    yield from value_differences(there, here, ("engine", "device", *_planned(there["device"])))


def _planned(kind: str) -> tuple[str, ...]:
    """Return which numbers of a plan decide bits.

    How many batches are at work side by side does not, so that another machine may use all its
    cores; nor do threads beside a GPU.
    """
    return ("batch_size", "threads") if kind == "cpu" else ("batch_size",)


def _kind(device: str) -> str:
    """Return the kind of one or several devices: ``cuda`` of ``cuda:0,cuda:1``."""
    return device.partition(",")[0].partition(":")[0].strip()
