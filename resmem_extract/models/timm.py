"""Every network of timm, with its weights and its transforms."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

import timm
import timm.data
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from ..errors import WeightsError
from ..types import Preprocessing
from ..weights import LocatedWeights, WeightsFile
from .checkpoint import fill_from, first_line, on_meta, read_state_dict
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import Callback, Interpolation, ResizeAndCrop

__all__ = ["SOURCE", "timm_preprocessing"]


class _Source:
    """What the installed timm has."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return all networks; what they are is the module of timm that defines them."""
        return [
            _entry(name, module)
            for module in timm.list_modules()
            for name in timm.list_models(module=module)
        ]

    def load(self, wanted: Wanted) -> Parts:
        """Return a network as `timm.create_model` does, out of a file that is here."""
        name = f"{wanted.short}.{wanted.tag}" if wanted.tag else wanted.short
        network: nn.Module | None
        if wanted.file is not None:
            network = _filled(name, wanted.file, wanted.trust)
        elif wanted.init == "none":
            network = on_meta(lambda: timm.create_model(name)) or timm.create_model(name)
        else:
            network = timm.create_model(name)
        return Parts(network.eval(), timm_preprocessing(network))


SOURCE: Source = _Source()


def timm_preprocessing(network: nn.Module) -> Preprocessing:
    """Return the transform with which a network of timm was tested.

    The two usual ones are done here, on bytes; any other is timm's own.
    """
    config: dict[str, Any] = timm.data.resolve_model_data_config(network)
    *_, height, width = config["input_size"]
    size = math.floor(height / config["crop_pct"])
    known = config["interpolation"] in get_args(Interpolation)
    if not known or height != width or config["crop_mode"] not in ("center", "squash"):
        return Callback(timm.data.create_transform(**config), "timm.data.create_transform")
    return ResizeAndCrop(
        resize=(size, size) if config["crop_mode"] == "squash" else size,
        crop=height,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _entry(name: str, module: str) -> ModelEntry:
    full = f"timm/{name}"
    configs = get_arch_pretrained_cfgs(name)
    default = timm.get_pretrained_cfg(name)
    ordered = sorted(configs.values(), key=lambda config: config.tag != default.tag)
    weights = {
        config.tag or "default": _weights_file(f"{full}@{config.tag or 'default'}", config)
        for config in ordered
        if config.has_weights
    }
    return ModelEntry(full, "timm", weights, module)


def _weights_file(name: str, config: Any) -> WeightsFile:
    """Return the record of a checkpoint: on the hub if it is there, as timm prefers."""
    licence = config.license or ""
    if config.hf_hub_id:
        member = config.hf_hub_filename or "model.safetensors"
        return WeightsFile(name, repository=config.hf_hub_id, member=member, licence=licence)
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", config.url or "")
    return WeightsFile(
        name, sha256=digits[1] if digits else "", url=config.url or "", licence=licence
    )


def _filled(name: str, file: LocatedWeights, trust: bool) -> nn.Module:
    """Return a network with the weights of a file.

    A user's own file usually has the network's own names; all others are converted by timm.
    """
    if file.path.suffix == ".npz":
        return _converted(name, {"file": str(file.path), "custom_load": True}, file)
    state = read_state_dict(file.path, trust=trust)
    if file.origin != "explicit":
        return _converted(name, {"state_dict": state}, file)
    network: nn.Module = timm.create_model(name)
    try:
        fill_from(network, state, file.path)
    except WeightsError as misfit:
        try:
            return _converted(name, {"state_dict": state}, file)
        except WeightsError:
            raise misfit from None
    return network


def _converted(name: str, overlay: dict[str, Any], file: LocatedWeights) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"{file.path} holds the weights of another network than timm/{name} "
            f"({first_line(error)})"
        ) from error
    network.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr, operator]
    return network.requires_grad_(False)
