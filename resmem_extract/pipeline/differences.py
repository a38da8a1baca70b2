"""In what two requests differ, a few words each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from ..types import ActivationSpec

__all__ = ["id_difference", "only", "spec_differences", "value_differences"]


def value_differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], keys: Iterable[str]
) -> Iterator[str]:
    """Yield what differs under some keys of two records of JSON values."""
    for key in keys:
        old, new = there.get(key), asked[key]
        if old == new:
            continue
        name = key.replace("_", " ")
        if isinstance(old, dict) and isinstance(new, dict):
            for part in sorted({*old, *new}):
                if old.get(part) != new.get(part):
                    pair = _short(old.get(part)), _short(new.get(part))
                    yield f"{name}, {part}: {pair[0]} there, {pair[1]} asked"
        else:
            yield f"{name}: {_short(old)} there, {_short(new)} asked"


def spec_differences(
    there: Mapping[str, ActivationSpec], asked: Iterable[ActivationSpec]
) -> Iterator[str]:
    """Yield in what modules, their names, reductions, shapes and dtypes differ.

    Names that are there and were not asked for are no difference.
    """
    here = {spec.path: spec for spec in asked}
    if there.keys() != here.keys():
        yield (
            f"modules: {only(there.keys() - here.keys())} only there, "
            f"{only(here.keys() - there.keys())} only asked"
        )
    ways: dict[str, None] = {}  # of reduction, the same for all modules
    for path, new in here.items():
        if path not in there:
            continue
        old = there[path]
        for key in {**old.reduce, **new.reduce}:
            if old.reduce.get(key) != new.reduce.get(key):
                ways[f"{key}: {old.reduce.get(key)} there, {new.reduce.get(key)} asked"] = None
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            yield f"{path}: {old.dtype} {old.shape} there, {new.dtype} {new.shape} asked"
        elif names := set(new.links) - set(old.links):
            yield f"{path}: is not named {only(names)} there"
    yield from ways


def id_difference(there: Set[str], asked: Set[str]) -> str:
    """Return in what two sets of images differ that are not equal."""
    return (
        f"images: {len(there)} there, {len(asked)} asked; only there: {_first(there - asked)}, "
        f"only asked: {_first(asked - there)}"
    )


def only(names: Iterable[str]) -> str:
    """Return names as one text."""
    return ", ".join(sorted(names)) or "nothing"


def _first(names: Set[str]) -> str:
    return min(names, default="none") + (", ..." if len(names) > 1 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
