"""Activations of any module of ResMem and other vision networks, from photographs to HDF5.

Names are imported when they are first used, so that ``import resmem_extract`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import compare as rsa
    from . import datasets, encoding
    from .errors import ResmemExtractError
    from .images import StimulusSet, find_images, sample_photographs
    from .models import list_models, load_model
    from .models.base import Model
    from .pipeline.classify import ClassProbabilities, classify
    from .pipeline.cluster import extract_on_ray
    from .pipeline.compare_models import compare_models
    from .pipeline.encode import encode
    from .pipeline.encode_tables import EncodeResult
    from .pipeline.extract import extract, extract_many
    from .pipeline.rsa import RsaResult, compare_stores
    from .pipeline.score import Scores, score
    from .pipeline.summary import ExtractSummary
    from .pipeline.targets import Targets, targets
    from .pipeline.transform import TransformSummary, transform
    from .pipeline.verify import reproduce_store
    from .store import (
        Store,
        export_store,
        merge_activations,
        merge_stores,
        open_store,
        split_activations,
        split_store,
        verify_store,
    )

__all__ = [
    "ClassProbabilities",
    "EncodeResult",
    "ExtractSummary",
    "Model",
    "ResmemExtractError",
    "RsaResult",
    "Scores",
    "StimulusSet",
    "Store",
    "Targets",
    "TransformSummary",
    "__version__",
    "classify",
    "compare_models",
    "compare_stores",
    "datasets",
    "encode",
    "encoding",
    "export_store",
    "extract",
    "extract_many",
    "extract_on_ray",
    "find_images",
    "list_models",
    "load_model",
    "merge_activations",
    "merge_stores",
    "open_store",
    "reproduce_store",
    "rsa",
    "sample_photographs",
    "score",
    "split_activations",
    "split_store",
    "targets",
    "transform",
    "verify_store",
]

_HOME = {
    "ClassProbabilities": "pipeline",
    "EncodeResult": "pipeline.encode_tables",
    "ExtractSummary": "pipeline",
    "Model": "models.base",
    "ResmemExtractError": "errors",
    "RsaResult": "pipeline.rsa",
    "Scores": "pipeline",
    "StimulusSet": "images",
    "Store": "store",
    "Targets": "pipeline",
    "TransformSummary": "pipeline",
    "classify": "pipeline",
    "export_store": "store",
    "compare_models": "pipeline.compare_models",
    "compare_stores": "pipeline.rsa",
    "encode": "pipeline.encode",
    "extract": "pipeline",
    "extract_many": "pipeline",
    "extract_on_ray": "pipeline.cluster",
    "find_images": "images",
    "list_models": "models",
    "load_model": "models",
    "merge_activations": "store",
    "merge_stores": "store",
    "open_store": "store",
    "reproduce_store": "pipeline",
    "sample_photographs": "images",
    "score": "pipeline",
    "split_activations": "store",
    "split_store": "store",
    "targets": "pipeline",
    "transform": "pipeline",
    "verify_store": "store",
}


_MODULES = {"datasets": "datasets", "encoding": "encoding", "rsa": "compare"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
