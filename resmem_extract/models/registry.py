"""Names of models, and where each is defined. Importing this imports no network and no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import UnknownModelError, nearest

if TYPE_CHECKING:
    from .base import Model

__all__ = ["MODELS", "ModelEntry", "load_model"]


@dataclass(frozen=True)
class ModelEntry:
    """One line of the listing of models."""

    name: str
    source: str
    loader: str
    """Module and function that return the `Model`, ``package.module:function``."""
    description: str
    licence: str
    """Of the weights."""


_ENTRIES = (
    ModelEntry(
        name="resmem",
        source="resmem",
        loader="resmem_extract.models.resmem:load",
        description="memorability of an image (Needell & Bainbridge 2022)",
        licence="non-commercial",
    ),
)

MODELS: Mapping[str, ModelEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""All models by name; read-only."""


def load_model(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    verify: bool = True,
    pretrained: bool = True,
) -> Model:
    """Return a network with its weights, its own preprocessing and the names of its modules.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    weights : path, optional
        A checkpoint to use in place of the released one.
    verify : bool
        False accepts a checkpoint of one's own, which has another hash than the released one.
    pretrained : bool
        False leaves the network on the meta device, without weights: enough to list modules.

    Raises
    ------
    UnknownModelError
        If there is no model of that name.
    WeightsError
        If its weights are missing or are not what they should be.

    Examples
    --------
    >>> import resmem_extract as rx
    >>> model = rx.load_model("resmem", pretrained=False)
    >>> model.paths.resolve("features.5.4")[0].module
    'features.layer2.4'
    """
    if name not in MODELS:
        close = nearest(name, list(MODELS))
        hint = f": did you mean {close[0]}?" if close else ""
        raise UnknownModelError(f"no model {name!r}{hint}; `resmem-extract models` lists all")
    module, function = MODELS[name].loader.split(":")
    model: Model = getattr(import_module(module), function)(
        weights, verify=verify, pretrained=pretrained
    )
    return model
