"""What a transformation makes of which stores, and what is recorded of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TransformOptions
from ..errors import RequestError, counted
from ..store import FeatureArray, Store
from ..transforms import Step, Vectors, parse_steps
from ..types import ActivationSpec
from .id_lists import read_id_list
from .provenance import now, typed_command

__all__ = ["Job", "Target", "plan_transform", "transform_record"]


@dataclass(frozen=True)
class Target:
    """One module of the new store, and what it is made of."""

    spec: ActivationSpec
    vectors: Vectors


@dataclass(frozen=True)
class Job:
    """What is made, of which images."""

    steps: tuple[Step, ...]
    targets: tuple[Target, ...]
    read: tuple[tuple[str, ...], ...]
    """Which modules of each store."""
    ids: list[str]
    fit_rows: npt.NDArray[np.intp]
    """Ascending."""
    seed: int


def plan_transform(
    stores: Sequence[Store],
    modules: str | Sequence[str] | None,
    asked: TransformOptions,
) -> Job:
    """Find what is asked for in open stores.

    Raises
    ------
    RequestError
        If there is no such module, image or step, or the stores do not go together.
    """
    steps = parse_steps(asked.steps)
    arrays = _chosen(stores, [modules] if isinstance(modules, str) else modules)
    if len(stores) > 1 and not asked.join:
        raise RequestError("several stores make one only if they are joined; use --join")
    orders = [_order(store, stores[0]) for store in stores]
    ids = stores[0].image_ids.tolist()
    if asked.join:
        parts = {name: array for found in arrays for name, array in found.items()}
        rows = [order for found, order in zip(arrays, orders, strict=True) for _ in found]
        vectors = Vectors([*parts.values()], rows, ids=ids)
        targets = [Target(_joined_spec(parts, steps), vectors)]
    else:
        alone = arrays[0].values()
        targets = [Target(_spec(array.spec, steps), Vectors([array], ids=ids)) for array in alone]
    read = tuple(tuple(array.module for array in found.values()) for found in arrays)
    return Job(steps, tuple(targets), read, ids, _fit_rows(stores[0], asked), asked.seed)


def _chosen(
    stores: Sequence[Store], modules: Sequence[str] | None
) -> list[dict[str, FeatureArray]]:
    """Return, for each store, the activations that are asked for, by their name in the result."""
    names = [str(store.provenance.get("model", i)) for i, store in enumerate(stores)]
    if len(set(names)) < len(names):
        raise RequestError(f"the stores are of {', '.join(names)}; give each network once")
    found: list[dict[str, FeatureArray]] = []
    for name, store in zip(names, stores, strict=True):
        others = tuple(f"{other}:" for other in names if other != name)
        prefix = f"{name}:" if len(stores) > 1 else ""
        texts = [text for text in modules or store.modules if not text.startswith(others)]
        chosen: dict[str, FeatureArray] = {}
        for text in texts:
            wanted = text.removeprefix(f"{name}:")
            matching = store.match(wanted) if "*" in wanted else [store[wanted]]
            chosen |= {prefix + array.module: array for array in matching}
        found.append(chosen)
    return found


def _order(store: Store, first: Store) -> npt.NDArray[np.intp] | None:
    """Return which row of a store belongs to each image of the first one; None for the same."""
    ids, wanted = store.image_ids.tolist(), first.image_ids.tolist()
    if missing := sorted(set(wanted) ^ set(ids)):
        raise RequestError(
            f"{store.path} and {first.path} are not of the same images: "
            f"{counted(len(missing), 'image')} only in one of them, first {missing[0]!r}"
        )
    order = np.array([store.row_of(image_id) for image_id in wanted], dtype=np.intp)
    if len(other := np.flatnonzero(store.sha256[order] != first.sha256)):
        raise RequestError(
            f"{store.path} and {first.path} have other images under the same ids: "
            f"{counted(len(other), 'image')}, first {wanted[other[0]]!r}"
        )
    return None if ids == wanted else order


def _fit_rows(store: Store, asked: TransformOptions) -> npt.NDArray[np.intp]:
    if asked.fit_on is None:
        return np.arange(len(store))
    ids = read_id_list(asked.fit_on) if isinstance(asked.fit_on, Path) else asked.fit_on
    if not ids:
        raise RequestError("no image to fit on; give at least one id")
    return np.unique(np.array([store.row_of(image_id) for image_id in ids], dtype=np.intp))


def _spec(spec: ActivationSpec, steps: Sequence[Step]) -> ActivationSpec:
    """Return what the new store says of a module: a vector where a step changes its size."""
    reduce = {**spec.reduce, "steps": [str(step) for step in steps]}
    sizes = [step.number for step in steps if step.number]
    if not sizes:
        return replace(spec, dtype="float32", reduce=reduce)
    axes = ("image", "unit")
    return replace(spec, shape=(sizes[-1],), axes=axes, dtype="float32", reduce=reduce)


def _joined_spec(parts: Mapping[str, FeatureArray], steps: Sequence[Step]) -> ActivationSpec:
    name = "+".join(parts)
    described = [
        {"module": module, "shape": list(array.spec.shape), **array.spec.reduce}
        for module, array in parts.items()
    ]
    size = sum(math.prod(array.spec.shape) for array in parts.values())
    whole = ActivationSpec(name, name, (size,), ("image", "unit"), reduce={"joined": described})
    return _spec(whole, steps)


def transform_record(stores: Sequence[Store], job: Job, asked: TransformOptions) -> dict[str, Any]:
    """Return the provenance of the new store: that of the activations, and what was done."""
    sources = [store.provenance for store in stores]
    fitted = [job.ids[row] for row in job.fit_rows]
    models = "+".join(str(source.get("model")) for source in sources)
    record: dict[str, Any] = sources[0] if len(stores) == 1 else {"model": models}
    done = {
        "steps": asked.steps,
        "join": asked.join,
        "seed": asked.seed,
        "fit_images": len(fitted),
        "fit_ids_sha256": hashlib.sha256("\n".join(fitted).encode()).hexdigest(),
        "from": [
            {"file": store.path.name, "provenance": source}
            for store, source in zip(stores, sources, strict=True)
        ],
    }
    packages = {
        **record.get("packages", {}),
        "scikit-learn": metadata.version("scikit-learn"),
    }
    return {
        **record,
        "packages": packages,
        "transform": done,
        "command": typed_command(),
        "started": now(),
    }
