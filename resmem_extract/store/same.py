"""Refusals: two stores that do not belong into one file, each in one line that says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import RequestError, counted
from ..types import ActivationSpec
from .contents import Contents

__all__ = ["check_columns", "check_disjoint_images", "check_same_images", "check_same_making"]

_DECIDES = (
    "model",
    "source",
    "state_dict_sha256",
    "preprocessing",
    "exif_orientation",
    "precision",
)
"""What of the provenance has a part in the numbers beyond rounding."""


def refusal(a: Contents, b: Contents, difference: str) -> RequestError:
    """Return the error that names two files and in what they differ."""
    return RequestError(f"{a.path} and {b.path} cannot be merged: {difference}")


def check_same_making(sources: Sequence[Contents]) -> None:
    """Check that all activations were made in the same way.

    Raises
    ------
    RequestError
        If the network, its weights, preprocessing or precision differ, or a module that two files
        have differs in shape, data type, axes, reduction or call.
    """
    first, *others = sources
    for other in others:
        for key in _DECIDES:
            a, b = first.provenance.get(key), other.provenance.get(key)
            if a != b:
                raise refusal(first, other, "; ".join(_differences(key, a, b)))
    known: dict[str, tuple[Contents, ActivationSpec]] = {}
    for source in sources:
        for module, spec in source.specs.items():
            a, there = known.setdefault(module, (source, spec))
            for key in ("shape", "dtype", "axes", "reduce", "call", "calls"):
                if getattr(there, key) != getattr(spec, key):
                    words = _differences(key, getattr(there, key), getattr(spec, key))
                    raise refusal(a, source, f"{module}: {'; '.join(words)}")


def _differences(key: str, a: Any, b: Any) -> Iterator[str]:
    """Yield in what two values differ, of dictionaries each key that does."""
    name = key.replace("_", " ")
    if isinstance(a, dict) and isinstance(b, dict):
        for part in {**a, **b}:
            if a.get(part) != b.get(part):
                yield f"{name} {part} {_short(a.get(part))} and {_short(b.get(part))}"
    else:
        yield f"{name} {_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def check_disjoint_images(sources: Sequence[Contents]) -> None:
    """Check that no image is there twice.

    Raises
    ------
    RequestError
        If two files share an id.
    """
    owner: dict[str, Contents] = {}
    for source in sources:
        shared = [image_id for image_id in source.ids if image_id in owner]
        if shared:
            words = f"{counted(len(shared), 'image')} in both ({', '.join(shared[:3])})"
            raise refusal(owner[shared[0]], source, words)
        owner.update(dict.fromkeys(source.ids, source))


def check_same_images(a: Contents, b: Contents) -> None:
    """Check that two files have the same images, in whatever order.

    Raises
    ------
    RequestError
        If an id is only in one of them, or an image has other contents.
    """
    hashes = dict(zip(a.ids, a.sha256s, strict=True))
    there = dict(zip(b.ids, b.sha256s, strict=True))
    for one, x, other, y in ((a, hashes, b, there), (b, there, a, hashes)):
        if only := [image_id for image_id in x if image_id not in y]:
            words = f"{counted(len(only), 'image')} only in {one.path} ({', '.join(only[:3])})"
            raise refusal(a, b, f"other modules need the same images, and {words}")
        if len(one.ids) != len(x):
            raise refusal(one, other, f"an image is in {one.path} twice")
    if changed := [image_id for image_id in hashes if hashes[image_id] != there[image_id]]:
        raise refusal(a, b, f"image {changed[0]} has another SHA-256 in each")


def check_columns(sources: Sequence[Contents]) -> None:
    """Check that images of different files can stand in one table.

    Raises
    ------
    RequestError
        If one has a column that another has not, or of another kind.
    """
    first, *others = sources
    for other in others:
        a, b = first.columns, other.columns
        if only := [name for name in {**a, **b} if (name in a) != (name in b)]:
            there = first if only[0] in a else other
            raise refusal(first, other, f"column {only[0]!r} is only in {there.path}")
        for name in a:
            kinds = a[name].dtype.kind, b[name].dtype.kind
            if kinds[0] != kinds[1] and len(a[name]) and len(b[name]):
                words = " and ".join(_KINDS.get(kind, kind) for kind in kinds)
                raise refusal(first, other, f"column {name!r} holds {words}")


_KINDS = {"U": "strings", "i": "whole numbers", "f": "decimals", "b": "truth values"}


def same_values(a: Any, b: Any) -> bool:
    """Tell whether two columns are equal; not-a-number equals itself."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
