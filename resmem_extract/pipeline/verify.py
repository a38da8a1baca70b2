"""Whether a store's activations can be made again here, and how far they deviate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions, validated
from ..errors import RequestError, counted, given_path
from ..images import StimulusSet, find_named
from ..store import Store, open_store
from ..types import Progress, Reduction
from .networks import Network, ready_networks
from .plan import cores
from .provenance import provenance
from .repeat import run_differences
from .run import Batch, Images, Tell, as_model, batches, prepare_capture

if TYPE_CHECKING:
    from ..models.base import Model
    from ..models.transforms import TransformChoice

__all__ = ["ModuleDeviation", "Reproduction", "reproduce_store"]


@dataclass(frozen=True)
class ModuleDeviation:
    """How far the activations of one module are from what is stored."""

    path: str
    deviation: float
    """max|a - b| / max|b| over the sample, a stored, b made here."""
    bound: float
    """How far it may be, by precision and data type."""
    identical: bool
    """Whether all values are the same bit for bit."""

    @property
    def within(self) -> bool:
        """Whether the deviation is within its bound; not if anything is not a number."""
        return self.deviation <= self.bound


@dataclass(frozen=True)
class Reproduction:
    """What came of making a sample of a store's rows again."""

    sample: tuple[str, ...]
    """Ids of the images that were looked at."""
    missing: tuple[str, ...]
    """Of these, those that the images given do not hold."""
    changed: tuple[str, ...]
    """Those whose file has another SHA-256 than was recorded."""
    unreadable: tuple[tuple[str, str], ...]
    """Id and reason of those that cannot be read."""
    differences: tuple[str, ...]
    """What is not as recorded and has a part in the numbers; with any, nothing was computed."""
    notes: tuple[str, ...]
    """What is not as recorded and may change last bits: versions, device, engine."""
    modules: tuple[ModuleDeviation, ...]

    @property
    def reproducible(self) -> bool:
        """Whether all images are there as they were, and all modules within their bounds."""
        failed = self.missing or self.changed or self.unreadable or self.differences
        return not failed and all(module.within for module in self.modules)

    def describe(self) -> dict[str, Any]:
        """Return this record as JSON values."""
        return {
            "reproducible": self.reproducible,
            "sample": list(self.sample),
            "missing": list(self.missing),
            "changed": list(self.changed),
            "unreadable": [{"id": i, "reason": reason} for i, reason in self.unreadable],
            "differences": list(self.differences),
            "notes": list(self.notes),
            "modules": [{**vars(module), "within": module.within} for module in self.modules],
        }


def reproduce_store(
    file: str | os.PathLike[str],
    images: Images,
    *,
    sample: int = 16,
    seed: int = 0,
    model: Model | str | None = None,
    weights: str | os.PathLike[str] | None = None,
    transform: TransformChoice = None,
    device: str | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Reproduction:
    """Make a sample of a store's rows again, as its provenance says they were made.

    The recorded network, preprocessing, precision, reduction, engine and batch size are used. The
    sample is rounded up to whole batches, as the size of a batch changes last bits.

    Parameters
    ----------
    file : path
        A store.
    images : path, list of paths, StimulusSet, ...
        Its images, as `extract` takes them; ids are looked up, so there may be others.
    sample : int
        How many rows, drawn by `seed` without replacement.
    seed : int
    model : Model or str, optional
        In place of the recorded name, for a network of one's own.
    weights : path, optional
        The checkpoint, if it was not the released one; held against the recorded hash.
    transform : str or callable, optional
        How images were prepared, if that was a function without a name that can be imported.
    device : str, optional
        In place of the recorded one.
    progress : callable, optional
        Called with the numbers of images done and of all.
    tell : callable, optional
        Called with what the user should know, one line each.

    Returns
    -------
    Reproduction

    Raises
    ------
    RequestError
        If the file names no network, or the images cannot be found.
    """
    if sample < 1:
        raise RequestError(f"sample {sample}: expected at least 1")
    tell = tell or (lambda _line: None)
    with open_store(given_path(file, "file")) as store:
        recorded = store.provenance
        name = model or recorded.get("model")
        if not name:
            raise RequestError(f"{file} does not say which network made it; give model")
        ids, missing, stimuli = _choose(store, images, sample, seed)
        if transform is None and isinstance(name, str):
            from ..models.transforms import recorded_transform

            transform = recorded_transform(recorded.get("preprocessing", {}))
        asked = _options(recorded, weights, transform, device, tell)
        run = _Run(store, as_model(name, asked), stimuli, asked, progress, tell)
        run.all_modules()
        return Reproduction(
            sample=ids,
            missing=missing,
            changed=tuple(run.changed),
            unreadable=tuple(run.unreadable.items()),
            differences=tuple(run.differences),
            notes=tuple(run.notes),
            modules=tuple(run.deviations()),
        )


def _choose(
    store: Store, images: Images, sample: int, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...], StimulusSet]:
    """Return ids of the sample, those of them that are not there, and the images that are."""
    batch = int(store.provenance.get("batch_size", 1))
    n = min(-(-sample // batch) * batch, len(store))
    rows = np.sort(np.random.default_rng(seed).choice(len(store), n, replace=False))
    ids = tuple(store.image_ids[rows].tolist())
    if images is None:
        raise RequestError("images: expected the images that the store was made of")
    stimuli = find_named(images, ids)
    row_of = {image_id: row for row, image_id in enumerate(stimuli.ids)}
    missing = tuple(image_id for image_id in ids if image_id not in row_of)
    if len(missing) == len(ids):
        raise RequestError(
            f"the images given hold none of {counted(len(ids), 'image')} drawn from {store.path}, "
            f"such as {ids[0]!r}; give the images that it was made of"
        )
    return ids, missing, stimuli.take([row_of[i] for i in ids if i in row_of])


def _options(
    recorded: Mapping[str, Any],
    weights: str | os.PathLike[str] | None,
    transform: TransformChoice,
    device: str | None,
    tell: Tell,
) -> ExtractOptions:
    """Return how the run was made, as far as it can be repeated on this machine."""
    from ..capture import pick_device

    engine = recorded.get("engine", "auto")
    chosen = device or str(recorded.get("device", "auto")).partition(",")[0]
    if device is None:
        try:
            pick_device(chosen)
        except RequestError:
            tell(f"made on {chosen}, which is not here")
            chosen = "auto"
    options = {
        "weights": weights,
        "verify": weights is None,
        "transform": transform,
        "batch_size": recorded.get("batch_size"),
        "streams": 1,
        "threads": min(int(recorded.get("threads", 1)), cores()),
        "precision": recorded.get("precision", "float32"),
        "exif_orientation": recorded.get("exif_orientation", False),
        "engine": "auto" if engine == "compiled" else engine,
        "compile": "on" if engine == "compiled" else "off",
        "device": chosen,
        "on_error": "skip",
    }
    asked: ExtractOptions = validated(ExtractOptions, options, "provenance")
    return asked


class _Run:
    """One sample going through the network, once for each way of reduction."""

    def __init__(
        self,
        store: Store,
        model: Model,
        stimuli: StimulusSet,
        asked: ExtractOptions,
        progress: Progress | None,
        tell: Tell,
    ) -> None:
        self._store, self._model, self._stimuli = store, model, stimuli
        self._asked, self._progress, self._tell = asked, progress, tell
        self._sha256 = dict(zip(store.image_ids.tolist(), store.sha256.tolist(), strict=True))
        self._largest: dict[str, list[float]] = {}  # max|a - b|, max|b|
        self._identical: dict[str, bool] = {}
        self._compiled = False
        self.changed: dict[str, None] = {}
        self.unreadable: dict[str, str] = {}
        self.differences: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def all_modules(self) -> None:
        """Make the activations of all modules again, unless something decisive differs."""
        groups: dict[Reduction, list[str]] = {}
        for module, spec in self._store.specs.items():
            groups.setdefault(Reduction(**spec.reduce), []).append(module)
        for number, (reduction, modules) in enumerate(groups.items()):
            if not self.differences:
                self._some_modules(reduction, modules, number, len(groups))

    def _some_modules(
        self, reduction: Reduction, modules: Sequence[str], number: int, n_groups: int
    ) -> None:
        capture = prepare_capture(self._model, modules, self._asked, self._tell)
        network = Network(self._model, capture, tuple(modules))
        n = len(self._stimuli)
        with ready_networks([network], self._asked, n, self._tell, reduction) as ready:
            here = provenance(self._model, capture, self._stimuli, ready.plan, self._asked)
            here |= {"engine": ready.engines[0], "device": ready.device}
            self._compare_records(here)
            if self.differences:
                return
            done = number * n
            for batch in batches(ready.runners, self._stimuli, ready.plan, self._asked):
                self._compare(batch)
                done += len(batch.loaded) + len(batch.skipped)
                if self._progress:
                    self._progress(done, n * n_groups)

    def _compare_records(self, here: Mapping[str, Any]) -> None:
        there = self._store.provenance
        decisive = self._asked.model_copy(
            update={"engine": "auto", "device": "auto", "batch_size": None}
        )
        for words in run_differences(there, here, decisive):
            self.differences[words.replace(" asked", " here")] = None
        for key in ("engine", "device", "batch_size", "threads"):
            if there.get(key) != here[key]:
                words = f"{key.replace('_', ' ')}: {there.get(key)} there, {here[key]} here"
                self.notes[words] = None
        for package, version in here["packages"].items():
            old = there.get("packages", {}).get(package)
            if old != version:
                self.notes[f"{package}: {old} there, {version} here"] = None
        self._compiled = here["engine"] == "compiled"

    def _compare(self, batch: Batch) -> None:
        """Hold what was made of one batch against what is stored."""
        for skipped in batch.skipped:
            self.unreadable[skipped.id] = skipped.reason
        kept = []
        for place, image in enumerate(batch.loaded):
            if image.sha256 == self._sha256[image.id]:
                kept.append(place)
            else:
                self.changed[image.id] = None
        if not kept:
            return
        ids = [batch.loaded[place].id for place in kept]
        for module, made in batch.activations[0].items():
            stored = self._store[module].rows(ids)
            self._measure(module, stored, made[kept].astype(stored.dtype))

    def _measure(self, module: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> None:
        identical = np.array_equal(a, b, equal_nan=True)
        self._identical[module] = identical and self._identical.get(module, True)
        difference = 0.0 if identical else float(np.abs(a.astype("f4") - b.astype("f4")).max())
        largest = self._largest.setdefault(module, [0.0, 0.0])
        # np.maximum keeps what is not a number, and so does the quotient.
        largest[0] = float(np.maximum(largest[0], difference))
        largest[1] = float(np.fmax(largest[1], np.abs(b.astype("f4")).max()))

    def deviations(self) -> Iterator[ModuleDeviation]:
        """Yield what was measured, in the order of the store."""
        from ..capture import BOUNDS, COMPILED_TOLERANCE

        bound = BOUNDS[self._asked.precision]
        if self._compiled:
            bound = max(bound, COMPILED_TOLERANCE)
        for module, spec in self._store.specs.items():
            if module in self._largest:
                difference, largest = self._largest[module]
                yield ModuleDeviation(
                    path=module,
                    deviation=_quotient(difference, largest),
                    bound=bound + (_STEP if spec.dtype == "float16" else 0.0),
                    identical=self._identical[module],
                )


def _quotient(difference: float, largest: float) -> float:
    if not difference:
        return 0.0
    return difference / largest if largest else float("inf")


_STEP = 2.0**-10
"""The distance between neighbouring numbers of float16, relative to them."""
