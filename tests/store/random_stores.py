"""Stores of random shapes, data types, chunks and columns, and what it means that two are equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from hypothesis import strategies as st
from store_data import make_spec, write

from resmem_extract.store import COMPRESSIONS, Layout
from resmem_extract.types import ActivationSpec

PROVENANCE = {
    "model": "resmem",
    "source": "resmem",
    "state_dict_sha256": "8e" * 32,
    "preprocessing": {"resize": [256, 256], "crop": 227, "mean": 0.1},
    "exif_orientation": False,
    "precision": "float32",
    "engine": "graph",
    "batch_size": 16,
    "command": "extract --images Bücher",
}


@dataclass(frozen=True)
class RandomStore:
    n: int
    specs: tuple[ActivationSpec, ...]
    compressions: tuple[str | None, ...]
    target_bytes: int
    columns: dict[str, Any]
    skipped: list[tuple[str, str]] | None
    seed: int

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return {
            spec.path: rng.standard_normal((self.n, *spec.shape)).astype(spec.dtype)
            for spec in self.specs
        }

    def write(self, path: Path) -> Path:
        from resmem_extract.store import choose_layouts

        with mock.patch("resmem_extract.store.chunks.TARGET_BYTES", self.target_bytes):
            layouts = choose_layouts(self.specs, self.n)
        mixed = {
            path: Layout(layout.chunks, compression)
            for (path, layout), compression in zip(layouts.items(), self.compressions, strict=True)
        }
        provenance = {**PROVENANCE, "seed": self.seed}
        write(
            path, self.specs, self.arrays, layouts=mixed,
            columns=self.columns, skipped=self.skipped, provenance=provenance,
        )  # fmt: skip
        return path


@st.composite
def random_stores(draw: st.DrawFn, max_images: int = 24) -> RandomStore:
    n = draw(st.integers(1, max_images))
    shapes = st.lists(st.integers(1, 7), max_size=3).map(tuple)
    paths = ("conv1", "features.layer2.4", "relu@1", "a/b")
    specs = tuple(
        make_spec(
            path, draw(shapes), dtype=draw(st.sampled_from(["float32", "float16"])),
            links=(f"alias.{path}",) if draw(st.booleans()) else (),
            reduce={"pool": draw(st.sampled_from(["none", "avg"])), "flatten": False},
        )
        for path in draw(st.permutations(paths))[: draw(st.integers(1, 3))]
    )  # fmt: skip
    numbers = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    classes = draw(numbers)
    columns: dict[str, Any] = {"label": [f"{'ä' * k}/{k}" for k in classes]}
    if draw(st.booleans()):
        columns |= {"score": [k / 3 if k else float("nan") for k in draw(numbers)]}
    if draw(st.booleans()):
        columns |= {"row.1": draw(numbers), "seen": [k > 1 for k in draw(numbers)]}
    skipped = draw(st.sampled_from([None, [], [("x.jpg", "truncated ü"), ("y.jpg", "gone")]]))
    return RandomStore(
        n=n,
        specs=specs,
        compressions=tuple(draw(st.sampled_from([None, *COMPRESSIONS])) for _ in specs),
        target_bytes=draw(st.sampled_from([16, 64, 1024, 2**20])),
        columns=columns,
        skipped=skipped,
        seed=draw(st.integers(0, 99)),
    )


def everything(path: Path, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return all that plain h5py finds in a file, comparable with ==, in the order found."""
    found: dict[str, Any] = {}
    with h5py.File(path) as f:
        pending: list[Any] = [f]
        while pending:
            group = pending.pop()
            found[group.name] = (list(group), sorted(group.attrs.items()))
            for key in group:
                link = group.get(key, getlink=True)
                if isinstance(link, h5py.SoftLink):
                    found[f"{group.name}/{key}"] = ("link", link.path)
                elif isinstance(group[key], h5py.Group):
                    pending.append(group[key])
                else:
                    found[group[key].name] = _dataset(group[key])
    return {name: value for name, value in found.items() if name not in leave_out}


def _dataset(dataset: h5py.Dataset) -> Any:
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    values = dataset[()]
    data = values if isinstance(values, bytes) else values.tobytes()
    return (
        dataset.shape, dataset.dtype.str, dataset.chunks, filters, dataset.maxshape, data,
        sorted((name, str(value)) for name, value in dataset.attrs.items()),
    )  # fmt: skip


def contents(path: Path) -> Any:
    """Return what our own reader finds in a file, comparable with ==."""
    from resmem_extract.store import open_store

    with open_store(path) as store:
        return (
            store.modules, dict(store.specs), store.image_ids.tolist(), store.sha256.tolist(),
            {name: values.tolist() for name, values in store.columns.items()}, store.skipped,
            {module: store[module][:].tobytes() for module in store.modules}, store.provenance,
        )  # fmt: skip


def provenance(path: Path) -> dict[str, Any]:
    with h5py.File(path) as f:
        return json.loads(f["provenance"][()])
