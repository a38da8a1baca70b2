"""All that a store holds beside its activations, read at once and held against its checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ResmemExtractError, WorkError, reason_of
from ..types import ActivationSpec
from .checked import compute_checksums
from .checksums import check_metadata
from .handle import UNREADABLE
from .layout import Layout, layout_of
from .reader import Store, open_store

__all__ = ["Contents", "read_contents"]


@dataclass(frozen=True)
class Contents:
    """What is known of a store without reading its activations."""

    path: Path
    specs: Mapping[str, ActivationSpec]
    """By canonical path, in the order of writing."""
    layouts: Mapping[str, Layout]
    ids: tuple[str, ...]
    sha256s: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[Any]]
    """Further columns, `row` among them where the store is a part."""
    skipped: tuple[tuple[str, str], ...] | None
    """Id and reason of images left out; None where leaving out was not allowed."""
    provenance: Mapping[str, Any]
    digest: str
    """SHA-256 over all checksums: equal digests are equal contents, chunk for chunk."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Canonical paths."""
        return tuple(self.specs)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's activations, all modules together."""
        return sum(spec.nbytes_per_image for spec in self.specs.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all activations, as they are in memory."""
        return len(self.ids) * self.row_bytes


def read_contents(path: Path) -> Contents:
    """Read what a store holds beside its activations.

    Raises
    ------
    StoreError
        If there is no complete store of that name.
    WorkError
        If it is not what was written.
    """
    with open_store(path) as store:
        try:
            return _read(store)
        except ResmemExtractError:
            raise
        except UNREADABLE as error:
            raise WorkError(
                f"{path} cannot be read: {reason_of(error)}; see: resmem-extract verify {path}"
            ) from error


def _read(store: Store) -> Contents:
    file = store.handle.file
    found = check_metadata(file)
    return Contents(
        path=store.path,
        specs=store.specs,
        layouts={
            module: layout_of(store.handle.stored(module).dataset) for module in store.modules
        },
        ids=tuple(store.image_ids.tolist()),
        sha256s=tuple(store.sha256.tolist()),
        columns=dict(store.columns),
        skipped=store.skipped if "skipped" in file else None,
        provenance=store.provenance,
        digest=_digest(store, found),
    )


def _digest(store: Store, metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 over all checksums; without any, activations are read to make them."""
    sha256 = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for module in sorted(store.modules):
        stored = store.handle.stored(module)
        values = stored.checksums
        if values is None:
            values = compute_checksums(stored.dataset)
        sha256.update(np.ascontiguousarray(values, "<u8").tobytes())
    return sha256.hexdigest()
