"""Small stores for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resmem_extract.store import Layout, StoreWriter
from resmem_extract.types import ActivationSpec

AXES = ("image", "channel", "height", "width", "depth")


def make_spec(path: str, shape: tuple[int, ...], **fields: Any) -> ActivationSpec:
    fields.setdefault("requested", path)
    return ActivationSpec(path=path, shape=shape, axes=AXES[: len(shape) + 1], **fields)


def names(n: int) -> list[str]:
    return [f"katze/{i:05d} ä.jpg" for i in range(n)]


def hashes(n: int) -> list[str]:
    return [f"{i:064x}" for i in range(n)]


def write(
    path: Path,
    specs: Sequence[ActivationSpec],
    arrays: Mapping[str, Any],
    *,
    batch: int = 16,
    compression: str | None = None,
    layouts: Mapping[str, Layout] | None = None,
    **finish: Any,
) -> Path:
    n = len(next(iter(arrays.values())))
    with StoreWriter(path, specs, n, compression=compression, layouts=layouts) as writer:
        for start in range(0, n, batch):
            rows = slice(start, start + batch)
            writer.append(
                names(n)[rows], hashes(n)[rows], {key: a[rows] for key, a in arrays.items()}
            )
        writer.finish(**finish)
    return path


LAYER = make_spec(
    "features.layer2.4",
    (40, 5, 3),
    requested="features.5.4",
    index_path="features.5.4",
    links=("features.5.4",),
)
RELU = make_spec("features.layer2.4.relu@2", (7,), index_path="features.5.4.6", call=2, calls=3)
OUTPUT = make_spec("output", (1,), requested="memorability", links=("memorability",))
N = 37
