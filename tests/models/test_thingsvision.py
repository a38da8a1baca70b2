"""Any extractor of thingsvision for our engine; in the environment of `make thingsvision-env`."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance import SourceConformance, deviation
from torch import nn

pytest.importorskip("thingsvision.core.extraction", reason="needs make thingsvision-env")

import torchvision
from thingsvision import get_extractor

from resmem_extract import load_model
from resmem_extract.errors import RequestError, WeightsError
from resmem_extract.models import list_models
from resmem_extract.models.entries import Wanted
from resmem_extract.models.thingsvision import SOURCE
from resmem_extract.weights import LocatedWeights


def stock(source: str, name: str, **options):
    """What thingsvision itself makes, weights random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {"model_parameters": None, "device": "cpu", "pretrained": False, **options}
        return get_extractor(name, source=source, **arguments)


class _Thingsvision(SourceConformance):
    source = "thingsvision"

    def stock(self):
        _, source, name = self.name.partition("@")[0].split("/")
        return stock(source, name)

    def own_transform(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.stock().get_transformations()

    def own_output(self, model, inputs):
        extractor = self.stock()
        extractor.model.load_state_dict(model.network.state_dict())
        return extractor.forward(inputs)


@pytest.mark.slow
class TestTorchvision(_Thingsvision):
    name = "thingsvision/torchvision/squeezenet1_1@random"
    modules = ("features.0", "features.6.expand3x3", "classifier")


class TestTimm(_Thingsvision):
    name = "thingsvision/timm/mobilenetv3_small_050@random3"
    modules = ("conv_stem", "blocks.1.0", "blocks.3")


class TestCornet(_Thingsvision):
    name = "thingsvision/custom/cornet-z@random"
    modules = ("V1.conv", "V2", "IT")


@pytest.mark.slow
class TestSelfSupervised(_Thingsvision):
    name = "thingsvision/ssl/barlowtwins-rn50@random"
    modules = ("conv1", "layer2.0.conv2", "avgpool")

    def stock(self):  # it fetches weights in any case
        network = torchvision.models.resnet50()
        network.fc = nn.Identity()
        return _as_extractor(network.eval())


@pytest.mark.slow
class TestEcoset(_Thingsvision):
    name = "thingsvision/custom/Alexnet_ecoset@random"
    modules = ("features.0", "features.8", "classifier.4")

    def stock(self):
        return _as_extractor(torchvision.models.alexnet(num_classes=565).eval())


def _as_extractor(network: nn.Module):
    from thingsvision import get_extractor_from_model

    return get_extractor_from_model(network, device="cpu", backend="pt")


@pytest.mark.slow
class TestKeras(_Thingsvision):
    name = "thingsvision/keras/MobileNet@random"
    modules = ("conv1", "conv_pw_6_relu", "global_average_pooling2d")
    engine = "hooks"

    def own_transform(self, model):
        from thingsvision.utils.data import ImageDataset

        transforms = self.stock().get_transformations()
        dataset = ImageDataset.__new__(ImageDataset)  # its way of one image, without a folder
        dataset.backend, dataset.transforms = "tf", transforms
        return lambda image: torch.from_numpy(dataset._transform_image(image).numpy())

    def own_output(self, model, inputs):
        extractor = self.stock()
        extractor.model.set_weights([b.numpy() for b in model.network.buffers()])
        name = extractor.model.layers[-1].name
        return torch.from_numpy(extractor.extract_batch(inputs.numpy(), module_name=name))


def test_all_networks_are_listed() -> None:
    from tensorflow.keras import applications
    from thingsvision.core.extraction.extractors import SSLExtractor

    entries = {entry.name: entry for entry in list_models("thingsvision")}
    for name in ("torchvision/alexnet", "timm/convnext_tiny", "keras/VGG16", "custom/cornet-s",
                 "custom/clip/ViT-B/32", "custom/OpenCLIP/ViT-B-32/laion2b_s34b_b79k",
                 "custom/SegmentAnything/vit_b", "custom/Kakaobrain_Align"):  # fmt: skip
        assert f"thingsvision/{name}" in entries
    assert {f"thingsvision/ssl/{name}" for name in SSLExtractor.MODELS} <= set(entries)
    keras = [name for name in entries if name.startswith("thingsvision/keras/")]
    assert all(hasattr(applications, name.rpartition("/")[2]) for name in keras)
    assert len(keras) > 60
    assert not any("segmentation" in entry.description for entry in entries.values())
    vgg = entries["thingsvision/torchvision/vgg11"].weights["IMAGENET1K_V1"]
    assert vgg.url == torchvision.models.VGG11_Weights.DEFAULT.url


def located(state: object, path: Path) -> LocatedWeights:
    """Weights as they lie in the cache after a download."""
    torch.save(state, path)
    return LocatedWeights(path, hashlib.sha256(path.read_bytes()).hexdigest(), "cache")


def load(name: str, file: LocatedWeights):
    (entry,) = (e for e in list_models("thingsvision") if e.name == f"thingsvision/{name}")
    return SOURCE.load(Wanted(entry, "pretrained", next(iter(entry.weights)), file))


@pytest.mark.parametrize(
    ("name", "build", "wrap"),
    [
        ("torchvision/squeezenet1_1", torchvision.models.squeezenet1_1, dict),
        ("custom/cornet-z", lambda: stock("custom", "cornet-z").model,
         lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}}),
        ("custom/Alexnet_ecoset", lambda: torchvision.models.alexnet(num_classes=565), dict),
        ("timm/test_resnet", lambda: stock("timm", "test_resnet").model, dict),
    ],
)  # fmt: skip
def test_published_files_fill_what_thingsvision_builds(tmp_path, name, build, wrap) -> None:
    torch.manual_seed(5)
    source = build().eval()
    hub = torch.hub.get_dir()
    parts = load(name, located(wrap(source.state_dict()), tmp_path / "w.pth"))
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(parts.network(x), source(x))
    assert torch.hub.get_dir() == hub


def test_weights_of_torchvision_bring_their_transform(tmp_path, photographs) -> None:
    build = torchvision.models.shufflenet_v2_x0_5
    parts = load("torchvision/shufflenet_v2_x0_5",
                 located(build().state_dict(), tmp_path / "w.pth"))  # fmt: skip
    transform = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    ours = parts.preprocessing
    for image in photographs:
        assert torch.equal(ours.batch(np.stack([ours.image(image)]))[0], transform(image))


def test_checkpoints_of_vissl(tmp_path) -> None:
    torch.manual_seed(6)
    source = torchvision.models.resnet50()
    source.fc = nn.Identity()
    trunk = {f"_feature_blocks.{n}": t for n, t in source.state_dict().items()}
    state = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk}}}}
    torch.save(state, tmp_path / "w.torch")
    model = load_model("thingsvision/ssl/simclr-rn50", weights=tmp_path / "w.torch")
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(model.network(x), source.eval()(x))
    assert model.weights.sha256 == hashlib.sha256((tmp_path / "w.torch").read_bytes()).hexdigest()


class Evil:
    """A pickle that would make a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["ssl/simclr-rn50", "custom/cornet-z", "torchvision/vgg11"])
def test_tampered_checkpoints_never_reach_thingsvision(tmp_path, name: str) -> None:
    file = located({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no file of tensors alone"):
        load(name, file)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network(tmp_path) -> None:
    file = located(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds the weights of another network than"):
        load("custom/Alexnet_ecoset", file)


@pytest.mark.slow
def test_weights_of_keras(tmp_path) -> None:
    source = stock("keras", "MobileNet").model
    source.save_weights(tmp_path / "w.weights.h5")
    model = load_model("thingsvision/keras/MobileNet", weights=tmp_path / "w.weights.h5")
    x = model.noise()(2)
    with torch.inference_mode():
        assert deviation(model.network(x).numpy(), source.predict(x.numpy())) <= 1e-6
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="does not fill thingsvision/keras/MobileNet"):
        load_model("thingsvision/keras/MobileNet", weights=tmp_path / "bad.h5")


def test_what_runs_code_from_elsewhere_has_to_be_allowed() -> None:
    for name in ("ssl/dinov2-vit-small-p14", "custom/clip/ViT-B/32"):
        with pytest.raises(RequestError, match="allow it with --trust"):
            load_model(f"thingsvision/{name}")
    with pytest.raises(RequestError, match="with its released weights alone"):
        load_model("thingsvision/custom/clip/RN50@random", trust=True)


@pytest.mark.parametrize("name", ["keras/MobileNet", "custom/OpenCLIP/RN50/cc12m"])
def test_offline(monkeypatch, name: str) -> None:
    monkeypatch.setenv("RESMEM_EXTRACT_OFFLINE", "1")
    with pytest.raises(WeightsError, match="itself, and RESMEM_EXTRACT_OFFLINE"):
        load_model(f"thingsvision/{name}", trust=True)


def test_openais_clip_from_a_file(tmp_path) -> None:
    from clip.model import CLIP

    torch.manual_seed(0)
    source = CLIP(64, 64, 2, 64, 16, 77, 49408, 64, 1, 2).eval().float()
    torch.save(source.state_dict(), tmp_path / "clip.pt")
    model = load_model(
        "thingsvision/custom/clip/ViT-B/32", weights=tmp_path / "clip.pt", trust=True
    )
    assert "visual.transformer.resblocks.1" in model.paths.names
    x = model.noise()(2)
    assert x.shape == (2, 3, 64, 64)
    with torch.inference_mode():
        encoded = source.encode_image(x).numpy()
    assert deviation(model.capture("output")(x)["output"], encoded) <= 1e-3  # it keeps half
