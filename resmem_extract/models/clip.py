"""CLIP and its relatives by open_clip: the image tower, whose `output` is `encode_image`.

OpenAI trained with QuickGELU, an approximation of GELU; most others did not. Under the wrong one a
network runs all the same and gives other features, so a mismatch is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME
from open_clip.factory import load_checkpoint
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from ..errors import WeightsError
from ..types import Preprocessing
from ..weights import WeightsFile
from .checkpoint import first_line, on_meta
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import Callback, ResizeAndCrop

__all__ = ["SOURCE", "ImageTower"]


class ImageTower(nn.Module):
    """The part of a CLIP network that sees images; its modules keep their names, ``visual...``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.visual: nn.Module = network.visual  # type: ignore[assignment]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what `encode_image` does, `[n, dimensions]`, without normalisation."""
        encoded = self.visual(images)
        # CoCa's tower returns tokens beside the embedding
        features: torch.Tensor = encoded[0] if isinstance(encoded, tuple) else encoded
        return features


class _Source:
    """What the installed open_clip has."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return all networks whose whole definition is in open_clip and timm."""
        return [
            _entry(name)
            for name in open_clip.list_models()
            if "hf_model_name" not in _config(name).get("text_cfg", {})
        ]

    def load(self, wanted: Wanted) -> Parts:
        """Return the image tower of a network."""
        name = wanted.short
        tag = wanted.tag or next(iter(wanted.entry.weights), "")
        preprocessing = {
            key: value for key, value in get_pretrained_cfg(name, tag).items() if key in _PREPARE
        }

        def build() -> nn.Module:
            with _without_advice():
                network: nn.Module = open_clip.create_model(
                    name, pretrained_text=False, force_preprocess_cfg=preprocessing
                )
            return network

        network = (on_meta(build) if wanted.init == "none" else None) or build()
        if wanted.file is not None:
            try:
                load_checkpoint(network, str(wanted.file.path), weights_only=not wanted.trust)
            except _UNFIT as error:
                raise WeightsError(
                    f"{wanted.file.path} holds no weights of {wanted.entry.name}, or more than "
                    f"tensors ({first_line(error)})"
                ) from error
        chosen = open_clip.get_model_preprocess_cfg(network)
        return Parts(ImageTower(network).eval().requires_grad_(False), _preprocessing(chosen))


SOURCE: Source = _Source()

_UNFIT = (RuntimeError, LookupError, ValueError, AttributeError, UnpicklingError)
_PREPARE = ("mean", "std", "interpolation", "resize_mode")


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep open_clip from warning that a network is random, whose weights may follow.

    It warns by the root logger, whatever is asked to be quiet.
    """
    root = logging.getLogger()

    def is_other(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)


def _config(name: str) -> dict[str, Any]:
    return open_clip.get_model_config(name) or {}


def _entry(name: str) -> ModelEntry:
    """Return a network with the checkpoints that were trained with the activation it has.

    The first is OpenAI's, where there is one, else the last of LAION's 2 billion images.
    """
    has = bool(_config(name).get("quick_gelu", False))
    fitting, refused = [], {}
    for tag in list_pretrained_tags_by_model(name):
        if bool(get_pretrained_cfg(name, tag).get("quick_gelu", False)) == has:
            fitting.append(tag)
        else:
            theirs, other = ("GELU", name.removesuffix("-quickgelu")) if has else (
                "QuickGELU", f"{name}-quickgelu"
            )  # fmt: skip
            refused[tag] = f"it was trained with {theirs}; write clip/{other}@{tag}"
    laion2b = [tag for tag in reversed(fitting) if tag.startswith("laion2b")]
    ordered = dict.fromkeys([*(["openai"] if "openai" in fitting else []), *laion2b, *fitting])
    weights = {tag: _weights_file(name, tag) for tag in ordered}
    return ModelEntry(f"clip/{name}", "clip", weights, "image tower", refused=refused)


def _weights_file(name: str, tag: str) -> WeightsFile:
    """Return the record of a checkpoint: on the hub if it is there, as open_clip prefers."""
    config = get_pretrained_cfg(name, tag)
    full = f"clip/{name}@{tag}"
    if config.get("hf_hub"):
        repository, _, member = config["hf_hub"].rpartition("/")
        return WeightsFile(full, repository=repository, member=member or HF_SAFE_WEIGHTS_NAME)
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", config["url"])
    return WeightsFile(full, sha256=digits[1] if digits else "", url=config["url"])


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Return what open_clip's `image_transform` makes of a configuration."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    squash = config["resize_mode"] == "squash"
    if config["resize_mode"] == "longest" or (height != width and not squash):
        own = open_clip.image_transform_v2(open_clip.PreprocessCfg(**config), is_train=False)
        return Callback(own, "open_clip.image_transform_v2")
    return ResizeAndCrop(
        resize=(height, width) if squash else height,
        crop=(height, width) if height != width else height,
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
