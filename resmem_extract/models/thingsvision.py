"""thingsvision's networks: what its extractors hold, run by our engine.

thingsvision builds each network and says how images are prepared for it, as it does for its own
users. Weights come from our cache wherever thingsvision would fetch one file by torch.hub or from
the Hugging Face hub: there they are verified, and opened only if they are plain tensors. Everything
else it fetches and opens itself, which is no more than `--trust` allows.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from ..downloads import OFFLINE_VARIABLE, is_offline
from ..errors import MissingExtraError, MissingWeightsError, RequestError, WeightsError
from ..types import Preprocessing
from ..weights import LocatedWeights, WeightsFile
from .checkpoint import fill, first_line, read_state_dict
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Callback, ResizeAndCrop

__all__ = ["SOURCE", "import_helpers"]

_US = "thingsvision"

_RELEASED = {
    "Alexnet_ecoset": "https://osf.io/t6h3c/download",
    "VGG16_ecoset": "https://osf.io/z5uf3/download",
    "Resnet50_ecoset": "https://osf.io/gd9kn/download",
    "Inception_ecoset": "https://osf.io/zn24d/download",
    "AlexNet_SalObjSub": "https://osf.io/download/sd3xj/",
}
"""Custom networks that thingsvision always fills from one file, which torch.hub keeps under the
same name; its code has the addresses in no place where they could be read from."""
_CLIP = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14",
         "ViT-L/14@336px")  # fmt: skip
_DREAMSIM = ("open_clip_vitb32", "clip_vitb32", "dino_vitb16", "ensemble")
_HARMONIZED = ("ViT_B16", "ResNet50", "VGG16", "EfficientNetB0", "tiny_ConvNeXT", "tiny_MaxViT",
               "LeViT_small")  # fmt: skip


def import_helpers() -> Any:
    """Return the module of thingsvision that makes extractors.

    Raises
    ------
    MissingExtraError
        If thingsvision is not installed, or cannot be imported.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from thingsvision.core.extraction import helpers
    except (ImportError, AttributeError) as error:  # the latter beside numpy 2
        raise MissingExtraError(
            f"thingsvision cannot be imported ({error}); it needs Python 3.10 or 3.11 and an "
            "environment of its own: pip install 'resmem-extract[thingsvision]'"
        ) from error
    return helpers


class _Source:
    """What the installed thingsvision has."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return all networks, by thingsvision's own sources and names."""
        import_helpers()
        return [*_torchvisions(), *_timms(), *_keras(), *_ssls(), *_customs()]

    def load(self, wanted: Wanted) -> Parts:
        """Return the network of an extractor, and the transform that the extractor gives."""
        helpers = import_helpers()
        origin, _, name = wanted.short.partition("/")
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that arguments which nobody gave are ignored
            extractor = _LOADERS[origin](helpers.get_extractor, name, wanted)
            if extractor.get_backend() == "tf":
                from .keras import keras_parts

                return keras_parts(extractor)
            preprocessing = _preprocessing(extractor)
        return Parts(_image_tower(extractor.model).requires_grad_(False), preprocessing)


SOURCE: Source = _Source()


# What there is.


def _torchvisions() -> Iterator[ModelEntry]:
    from torchvision import models

    from .torchvision import SOURCE as ours

    for entry in ours.entries():
        if hasattr(models, entry.name.partition("/")[2]):  # not those for segmentation
            yield _theirs(entry)


def _timms() -> Iterator[ModelEntry]:
    from .timm import SOURCE as ours

    return (_theirs(entry) for entry in ours.entries())


def _theirs(entry: ModelEntry) -> ModelEntry:
    """Return a network of one of our sources as thingsvision's; the weights are the same files."""
    return replace(entry, name=f"{_US}/{entry.name}", source=_US)


def _keras() -> Iterator[ModelEntry]:
    from tensorflow.keras import applications

    for name, value in vars(applications).items():
        if callable(value) and not name.startswith("_"):
            yield _entry("keras", name, "TensorFlow; fetches its weights itself", fetches=True)


def _ssls() -> Iterator[ModelEntry]:
    from thingsvision.core.extraction.extractors import SSLExtractor

    for name, recipe in SSLExtractor.MODELS.items():
        url = recipe.get("url") or recipe.get("checkpoint_url")
        if url is not None:
            yield _entry("ssl", name, url=url)
        else:
            yield _entry("ssl", name, "by torch.hub; needs --trust", needs_trust=True)


def _customs() -> Iterator[ModelEntry]:
    import open_clip
    from thingsvision.custom_models.sam import MODEL_CONFIG

    from .cornet import SOURCE as our_cornets

    for entry in our_cornets.entries():
        name = entry.name.partition("/")[2].replace("_", "-")
        yield replace(entry, name=f"{_US}/custom/{name}", source=_US)
    for name, url in _RELEASED.items():
        yield _entry("custom", name, url=url)
    for variant, config in MODEL_CONFIG.items():
        yield _entry("custom", f"SegmentAnything/{variant}", url=config["weights"])
    others = [
        *(f"clip/{variant}" for variant in _CLIP),
        *(f"OpenCLIP/{variant}/{data}" for variant, data in open_clip.list_pretrained()),
        "Kakaobrain_Align",
        *(f"DreamSim/{variant}" for variant in _DREAMSIM),
        *(f"Harmonization/{variant}" for variant in _HARMONIZED),
    ]
    for name in others:
        yield _entry("custom", name, "fetches its weights itself; needs --trust", needs_trust=True)


def _entry(origin: str, name: str, about: str = "", *, url: str = "", **marks: Any) -> ModelEntry:
    full = f"{_US}/{origin}/{name}"
    weights = {"released": WeightsFile(full, url=url)} if url else {}
    return ModelEntry(full, _US, weights, about, **marks)


# How each of thingsvision's sources is made to use a file that is here.

_Get = Callable[..., Any]
"""thingsvision's `get_extractor`."""


def _load_torchvision(get: _Get, name: str, wanted: Wanted) -> Any:
    file = wanted.file
    if file is None or file.origin == "explicit":
        return _filled(_get(get, name, "torchvision", pretrained=False), wanted)
    parameters = {"weights": wanted.tag}
    with _in_hub(_basename(wanted), file, wanted.trust):
        return _get(get, name, "torchvision", pretrained=True, parameters=parameters)


def _load_timm(get: _Get, name: str, wanted: Wanted) -> Any:
    full = f"{name}.{wanted.tag}" if wanted.tag else name
    extractor = _get(get, full, "timm", pretrained=False)
    if wanted.file is not None:  # timm would fetch it from the hub: ours knows how to convert it
        from .timm import SOURCE as ours

        entry = replace(wanted.entry, name=f"timm/{name}", source="timm")
        filled = ours.load(replace(wanted, entry=entry)).network
        extractor.model.load_state_dict(filled.state_dict())
    return extractor


def _load_keras(get: _Get, name: str, wanted: Wanted) -> Any:
    from .keras import made_anew

    with made_anew():
        if wanted.init != "pretrained":
            return _get(get, name, "keras", pretrained=False)
        if wanted.file is None:
            _refuse_offline(wanted)
            return _get(get, name, "keras", pretrained=True)
        try:
            parameters = {"weights": str(wanted.file.path)}
            return _get(get, name, "keras", pretrained=True, parameters=parameters)
        except (ValueError, OSError, KeyError) as error:
            raise WeightsError(
                f"{wanted.file.path} does not fill {wanted.entry.name} ({first_line(error)})"
            ) from error


def _load_ssl(get: _Get, name: str, wanted: Wanted) -> Any:
    if wanted.entry.needs_trust:
        return _load_itself(get, name, "ssl", wanted)
    return _load_filled(get, name, "ssl", wanted, f"thingsvision_ssl_v0_{name}.pth")


def _load_custom(get: _Get, name: str, wanted: Wanted) -> Any:
    kind, _, variant = name.partition("/")
    if kind.startswith("cornet"):
        if wanted.file is None or wanted.file.origin == "explicit":
            return _filled(_get(get, kind, "custom", pretrained=False), wanted)
        with _in_hub(_basename(wanted), wanted.file, wanted.trust):
            return _get(get, kind, "custom", pretrained=True)
    parameters = {"variant": variant} if variant else {}
    if not wanted.entry.needs_trust:
        kept_as = name if name in _RELEASED else _basename(wanted)
        return _load_filled(get, kind, "custom", wanted, kept_as, parameters)
    if kind == "clip" and wanted.file is not None:
        parameters = {"variant": str(wanted.file.path)}
    elif kind == "OpenCLIP":
        architecture, _, data = variant.rpartition("/")
        parameters = {"variant": architecture, "dataset": data}
    return _load_itself(get, kind, "custom", wanted, parameters)


_LOADERS: Mapping[str, Callable[[_Get, str, Wanted], Any]] = {
    "torchvision": _load_torchvision,
    "timm": _load_timm,
    "keras": _load_keras,
    "ssl": _load_ssl,
    "custom": _load_custom,
}


def _load_filled(
    get: _Get,
    name: str,
    origin: str,
    wanted: Wanted,
    kept_as: str,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """Return an extractor of those that thingsvision always fills from a file of torch.hub."""
    if wanted.file is not None:
        with _in_hub(kept_as, wanted.file, wanted.trust):
            try:
                return _get(get, name, origin, pretrained=True, parameters=parameters)
            except (RuntimeError, KeyError) as error:
                raise WeightsError(
                    f"{wanted.file.path} holds the weights of another network than "
                    f"{wanted.entry.name} ({first_line(error)})"
                ) from error
    with _in_hub(kept_as, None), _unfilled():
        return _get(get, name, origin, pretrained=True, parameters=parameters)


def _load_itself(
    get: _Get,
    name: str,
    origin: str,
    wanted: Wanted,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """Return an extractor that fetches what it needs; the user has allowed it by `--trust`."""
    if wanted.init == "random":
        raise RequestError(
            f"thingsvision makes {wanted.entry.name} with its released weights alone; ask for "
            "another network @random"
        )
    if wanted.file is None:
        _refuse_offline(wanted)
    elif name != "clip":
        raise RequestError(f"thingsvision takes no file of weights for {wanted.entry.name}")
    try:
        return _get(get, name, origin, pretrained=True, parameters=parameters)
    except Exception as error:  # code from elsewhere may fail in any way
        raise WeightsError(
            f"thingsvision cannot load {wanted.entry.name} ({first_line(error)})"
        ) from error


def _get(
    get: _Get,
    name: str,
    origin: str,
    *,
    pretrained: bool,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    return get(
        model_name=name,
        source=origin,
        device="cpu",
        pretrained=pretrained,
        model_parameters=dict(parameters) if parameters else None,
    )


def _filled(extractor: Any, wanted: Wanted) -> Any:
    if wanted.file is not None:
        fill(extractor.model, wanted.file.path, trust=wanted.trust)
    return extractor


def _refuse_offline(wanted: Wanted) -> None:
    if is_offline():
        raise MissingWeightsError(
            f"thingsvision fetches the weights of {wanted.entry.name} itself, and "
            f"{OFFLINE_VARIABLE} or HF_HUB_OFFLINE is set; unset it, or give --weights FILE"
        )


def _basename(wanted: Wanted) -> str:
    """Return the name under which torch.hub keeps what an address gives."""
    record = wanted.entry.weights[wanted.tag or next(iter(wanted.entry.weights))]
    return PurePosixPath(urlsplit(record.url).path).name


@contextlib.contextmanager
def _in_hub(name: str, file: LocatedWeights | None, trust: bool = False) -> Iterator[None]:
    """Let torch.hub find a file, or a checkpoint of nothing, as if it had fetched it before.

    torch.hub unpickles whatever a file holds; so the file is first read as one of plain tensors.
    """
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "checkpoints", name)
        place.parent.mkdir()
        if file is None:
            torch.save({"model": {}, "state_dict": {}}, place)
        else:
            read_state_dict(file.path, trust=trust)
            place.symlink_to(file.path.absolute())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


@contextlib.contextmanager
def _unfilled() -> Iterator[None]:
    """Leave networks as their constructors make them, whatever they are filled with."""
    before = nn.Module.load_state_dict
    nn.Module.load_state_dict = lambda *_arguments, **_options: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.load_state_dict = before  # type: ignore[method-assign]


# What comes out.


def _image_tower(network: nn.Module) -> nn.Module:
    """Return the part that sees images, whose output thingsvision takes, of CLIP networks."""
    if not hasattr(network, "encode_image"):
        return network
    from .clip import ImageTower

    return ImageTower(network).eval()


def _preprocessing(extractor: Any) -> Preprocessing:
    """Return what `extractor.get_transformations()` does; the usual ones are done here, on bytes.

    Where neither the network nor its weights have a transform, thingsvision has the usual one.
    """
    kind = type(extractor).__name__
    if kind == "TimmExtractor":
        from .timm import timm_preprocessing

        return timm_preprocessing(extractor.model)
    if kind == "TorchvisionExtractor" and extractor.weights is not None:
        from .torchvision import weights_preprocessing

        return weights_preprocessing(extractor.weights)
    if extractor.preprocess is None:
        return ResizeAndCrop(256, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    return Callback(extractor.get_transformations(), "thingsvision.get_transformations")
