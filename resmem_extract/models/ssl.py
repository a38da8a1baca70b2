"""Networks trained without labels: SimCLR, MoCo, Barlow Twins, VICReg, DINO, DINOv2, MAE.

Their published checkpoints go into torchvision's ResNet-50 and timm's vision transformers, under
the names by which thingsvision knows them. Two have a definition that only torch.hub can run,
which is code from elsewhere and has to be allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError
from ..types import Preprocessing
from ..weights import WeightsFile
from .checkpoint import State, fill_from, first_line, on_meta, read_state_dict
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, ResizeAndCrop
from .transforms import NAMED

__all__ = ["SOURCE"]

_META = "https://dl.fbaipublicfiles.com"
_BILINEAR: Preprocessing = NAMED["imagenet"]
_BICUBIC: Preprocessing = ResizeAndCrop(256, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class _Recipe:
    """How one published network is put together."""

    about: str
    licence: str
    url: str = ""
    sha256: str = ""
    prefix: str = ""
    """Of the names in the checkpoint that are the network's; all others are left out."""
    timm: str = ""
    """Name of the definition in timm; empty for torchvision's ResNet-50."""
    timm_tag: str = ""
    """Of weights that timm has on the hub, in place of `url`."""
    timm_options: tuple[tuple[str, Any], ...] = ()
    hub: tuple[str, str] | None = None
    """Repository and function of torch.hub."""
    preprocessing: Preprocessing | None = _BILINEAR
    """As the authors test; None for timm's."""


_RECIPES: Mapping[str, _Recipe] = {
    "simclr-rn50": _Recipe(
        "SimCLR (Chen et al. 2020) by VISSL, 800 epochs",
        "mit",
        f"{_META}/vissl/model_zoo/simclr_rn50_800ep_simclr_8node_resnet_16_07_20.7e8feed1/"
        "model_final_checkpoint_phase799.torch",
        prefix="_feature_blocks.",
    ),
    "mocov2-rn50": _Recipe(
        "MoCo v2 (Chen et al. 2020), 800 epochs",
        "cc-by-nc-4.0",
        f"{_META}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        prefix="module.encoder_q.",
    ),
    "mocov3-rn50": _Recipe(
        "MoCo v3 (Chen et al. 2021), 1000 epochs",
        "cc-by-nc-4.0",
        f"{_META}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        prefix="module.base_encoder.",
    ),
    "mocov3-vit-small-p16": _Recipe(
        "MoCo v3 (Chen et al. 2021), 300 epochs",
        "cc-by-nc-4.0",
        f"{_META}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
        prefix="module.base_encoder.",
        timm="vit_small_patch16_224",
        timm_options=(("num_heads", 12), ("num_classes", 0)),
    ),
    "mocov3-vit-base-p16": _Recipe(
        "MoCo v3 (Chen et al. 2021), 300 epochs",
        "cc-by-nc-4.0",
        f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        prefix="module.base_encoder.",
        timm="vit_base_patch16_224",
        timm_options=(("num_classes", 0),),
    ),
    "barlowtwins-rn50": _Recipe(
        "Barlow Twins (Zbontar et al. 2021), 1000 epochs",
        "mit",
        f"{_META}/barlowtwins/ljng/resnet50.pth",
    ),
    "vicreg-rn50": _Recipe(
        "VICReg (Bardes et al. 2022), 1000 epochs",
        "cc-by-nc-4.0",
        f"{_META}/vicreg/resnet50.pth",
        sha256="c843e76524",
    ),
    "vicreg-rn50x2": _Recipe(
        "VICReg (Bardes et al. 2022), twice as wide",
        "cc-by-nc-4.0",
        hub=("facebookresearch/vicreg:main", "resnet50x2"),
    ),
    "vicreg-rn200x2": _Recipe(
        "VICReg (Bardes et al. 2022), 200 layers, twice as wide",
        "cc-by-nc-4.0",
        hub=("facebookresearch/vicreg:main", "resnet200x2"),
    ),
    "dino-rn50": _Recipe(
        "DINO (Caron et al. 2021)",
        "apache-2.0",
        f"{_META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        preprocessing=_BICUBIC,
    ),
    **{
        f"dino-vit-{size}-p{patch}": _Recipe(
            "DINO (Caron et al. 2021)",
            "apache-2.0",
            timm=f"vit_{size}_patch{patch}_224",
            timm_tag="dino",
            preprocessing=_BICUBIC,
        )
        for size in ("small", "base")
        for patch in (16, 8)
    },
    **{
        f"dinov2-vit-{size}-p14": _Recipe(
            "DINOv2 (Oquab et al. 2023), 518 pixels",
            "apache-2.0",
            timm=f"vit_{size}_patch14_dinov2",
            timm_tag="lvd142m",
            preprocessing=None,
        )
        for size in ("small", "base", "large", "giant")
    },
    **{
        f"mae-vit-{size}-p{patch}": _Recipe(
            "masked autoencoder (He et al. 2021)",
            "cc-by-nc-4.0",
            timm=f"vit_{size}_patch{patch}_224",
            timm_tag="mae",
            preprocessing=_BICUBIC,
        )
        for size, patch in (("base", 16), ("large", 16), ("huge", 14))
    },
}


class _Source:
    """The networks of `_RECIPES`."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return all networks."""
        return [_entry(name, recipe) for name, recipe in _RECIPES.items()]

    def load(self, wanted: Wanted) -> Parts:
        """Return a network without its head, filled as asked."""
        recipe = _RECIPES[wanted.short]
        if recipe.hub is not None:
            network = _from_hub(*recipe.hub, pretrained=wanted.init == "pretrained")
        else:
            network = (
                on_meta(lambda: _define(recipe)) if wanted.init == "none" else None
            ) or _define(recipe)
        if wanted.file is not None:
            state = read_state_dict(wanted.file.path, trust=wanted.trust)
            fill_from(network, _backbone(state, recipe.prefix), wanted.file.path)
        if recipe.preprocessing is None:
            from .timm import timm_preprocessing

            return Parts(network.eval(), timm_preprocessing(network))
        return Parts(network.eval(), recipe.preprocessing)


SOURCE: Source = _Source()


def _entry(name: str, recipe: _Recipe) -> ModelEntry:
    full = f"ssl/{name}"
    if recipe.hub is not None:
        return ModelEntry(full, "ssl", {}, f"{recipe.about}; needs --trust", needs_trust=True)
    if recipe.timm_tag:
        file = WeightsFile(
            full,
            repository=f"timm/{recipe.timm}.{recipe.timm_tag}",
            member="model.safetensors",
            licence=recipe.licence,
        )
    else:
        file = WeightsFile(full, recipe.sha256, url=recipe.url, licence=recipe.licence)
    return ModelEntry(full, "ssl", {"released": file}, recipe.about)


def _define(recipe: _Recipe) -> nn.Module:
    network: nn.Module
    if recipe.timm:
        import timm

        tag = f".{recipe.timm_tag}" if recipe.timm_tag else ""
        network = timm.create_model(recipe.timm + tag, **dict(recipe.timm_options))
        return network
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = nn.Identity()
    return network


def _backbone(state: Mapping[str, torch.Tensor], prefix: str) -> Mapping[str, torch.Tensor]:
    """Return the part of a checkpoint that is the network, without the heads of its training."""
    if not any(name.startswith(prefix) for name in state):
        return state  # a file of one's own, under the network's own names
    kept = ((name.removeprefix(prefix), t) for name, t in state.items() if name.startswith(prefix))
    heads = ("fc.", "head.")
    return State((name, t) for name, t in kept if not (prefix and name.startswith(heads)))


def _from_hub(repository: str, function: str, *, pretrained: bool) -> nn.Module:
    """Run code of a GitHub repository, which the user has allowed."""
    try:
        network: nn.Module = torch.hub.load(
            repository, function, pretrained=pretrained, trust_repo=True, skip_validation=True,
            verbose=False,
        )  # type: ignore[no-untyped-call]  # fmt: skip
    except Exception as error:  # code from elsewhere may fail in any way
        raise WeightsError(
            f"torch.hub cannot load {function} of {repository} ({first_line(error)}); run "
            f"torch.hub.load({repository!r}, {function!r}) where there is internet, and bring "
            f"{torch.hub.get_dir()}"
        ) from error
    return network
