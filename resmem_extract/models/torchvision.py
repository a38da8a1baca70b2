"""torchvision's networks for image classification and semantic segmentation, with its weights.

Detection, video, optical flow and quantized networks are left out: their input or their output is
no batch of photographs or of activations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision import models
from torchvision.transforms import _presets as presets

from ..types import Preprocessing
from ..weights import WeightsFile
from .checkpoint import make
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import Callback, ResizeAndCrop

__all__ = ["SOURCE", "weights_preprocessing"]

_WITH_AUXILIARIES = ("googlenet", "inception_v3")
"""Trained with classifiers beside the last one, on input that they scale themselves."""


class _Source:
    """What the installed torchvision has."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return all networks, those for segmentation last."""
        return [_entry(name) for name in _names()]

    def load(self, wanted: Wanted) -> Parts:
        """Return a network as torchvision's own function for it would with these weights."""
        name = wanted.short
        choices = models.get_model_weights(name)
        weights = choices[wanted.tag] if wanted.tag else choices.DEFAULT
        network: nn.Module = make(partial(_build, name, weights, wanted.init == "random"), wanted)
        if name == "googlenet":  # what it was trained with is left out when it is used
            network.aux_logits, network.aux1, network.aux2 = False, None, None  # type: ignore[assignment]
        return Parts(network, weights_preprocessing(weights))


SOURCE: Source = _Source()


def _names() -> list[str]:
    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def _entry(name: str) -> ModelEntry:
    choices = models.get_model_weights(name)
    ordered = [choices.DEFAULT, *(w for w in choices if w is not choices.DEFAULT)]
    what = "semantic segmentation" if _is_segmentation(name) else "image classification"
    full = f"torchvision/{name}"
    return ModelEntry(full, "torchvision", {w.name: _weights_file(full, w) for w in ordered}, what)


def _weights_file(name: str, weights: Any) -> WeightsFile:
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", weights.url)
    return WeightsFile(
        name=f"{name}@{weights.name}",
        sha256=digits[1] if digits else "",
        licence="CC-BY-NC-4.0" if "SWAG" in weights.name else "BSD-3-Clause",
        url=weights.url,
    )


def _is_segmentation(name: str) -> bool:
    return name in models.list_models(module=models.segmentation)


def _build(name: str, weights: Any, initialise: bool) -> nn.Module:
    """Return a network of the structure that its weights were trained in."""
    options: dict[str, Any] = {}
    if _is_segmentation(name):
        options = {"weights_backbone": None, "num_classes": len(weights.meta["categories"])}
        if not name.startswith("lraspp"):
            options["aux_loss"] = True
    elif name.startswith("vit_"):
        options = {"image_size": weights.meta["min_size"][0]}
    elif name in _WITH_AUXILIARIES:
        options = {"aux_logits": True, "transform_input": True, "init_weights": initialise}
    built: nn.Module = models.get_model(name, weights=None, **options)
    return built


def weights_preprocessing(weights: Any) -> Preprocessing:
    """Return the transform of the weights.

    Networks for segmentation keep the shape of a photograph, and activations of photographs of
    different shapes fit no array: the centre is cut out as a square of the height that they take.
    """
    transform = weights.transforms()
    if isinstance(transform, presets.ImageClassification):
        crop = _side(transform.crop_size)
    elif isinstance(transform, presets.SemanticSegmentation):
        crop = _side(transform.resize_size)
    else:
        return Callback(transform, str(weights))
    return ResizeAndCrop(
        resize=_side(transform.resize_size),
        crop=crop,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _side(size: Sequence[int]) -> int:
    (side,) = size
    return side
