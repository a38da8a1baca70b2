"""Activations of any module of ResMem and other vision networks, from photographs to HDF5.

Names are imported when they are first used, so that ``import resmem_extract`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import compare as rsa
    from .errors import ResmemExtractError
    from .images import StimulusSet, find_images, sample_photographs
    from .models import MODELS, load_model
    from .models.base import Model
    from .pipeline.extract import ExtractSummary, extract, extract_many
    from .pipeline.score import Scores, score
    from .store import Store, open_store

__all__ = [
    "MODELS",
    "ExtractSummary",
    "Model",
    "ResmemExtractError",
    "Scores",
    "StimulusSet",
    "Store",
    "__version__",
    "extract",
    "extract_many",
    "find_images",
    "load_model",
    "open_store",
    "rsa",
    "sample_photographs",
    "score",
]

_HOME = {
    "MODELS": "models",
    "ExtractSummary": "pipeline",
    "Model": "models.base",
    "ResmemExtractError": "errors",
    "Scores": "pipeline",
    "StimulusSet": "images",
    "Store": "store",
    "extract": "pipeline",
    "extract_many": "pipeline",
    "find_images": "images",
    "load_model": "models",
    "open_store": "store",
    "sample_photographs": "images",
    "score": "pipeline",
}


_MODULES = {"rsa": "compare"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
