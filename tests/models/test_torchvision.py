from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from conformance import SourceConformance
from PIL import Image
from torchvision import models
from torchvision.models import _api

from resmem_extract import load_model
from resmem_extract.errors import MissingWeightsError
from resmem_extract.models import list_models

HARD = {
    "googlenet@IMAGENET1K_V1",
    "inception_v3@IMAGENET1K_V1",
    "fcn_resnet50@COCO_WITH_VOC_LABELS_V1",
    "lraspp_mobilenet_v3_large@COCO_WITH_VOC_LABELS_V1",
    "vit_b_16@IMAGENET1K_SWAG_E2E_V1",
    "mobilenet_v2@IMAGENET1K_V1",
    "regnet_y_400mf@IMAGENET1K_V2",
}
"""Networks whose structure depends on their weights, and some that do not."""


@cache
def every_tag() -> list[str]:
    return [
        f"{entry.name.removeprefix('torchvision/')}@{tag}"
        for entry in list_models("torchvision")
        for tag in entry.weights
    ]


def weights_of(text: str):
    name, tag = text.split("@")
    return name, models.get_model_weights(name)[tag]


class TestClassification(SourceConformance):
    source = "torchvision"
    name = "torchvision/mobilenet_v3_small@random"
    modules = ("features.0.1", "features.5.block", "features.12", "classifier.2")

    def own_transform(self, model):
        return models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms()

    def own_output(self, model, inputs):
        own = models.mobilenet_v3_small()
        own.load_state_dict(model.network.state_dict())
        return own.eval()(inputs)


class TestTransformer(SourceConformance):
    source = "torchvision"
    name = "torchvision/swin_t@random1"
    modules = ("features.0", "features.1.0.attn", "features.3.1", "norm")


class TestSegmentation(SourceConformance):
    source = "torchvision"
    name = "torchvision/lraspp_mobilenet_v3_large@random"
    modules = ("backbone.4", "classifier.cbr", "classifier.high_classifier")

    def own_transform(self, model):
        from torchvision.transforms import CenterCrop, Compose

        own = models.get_model_weights("lraspp_mobilenet_v3_large").DEFAULT.transforms()
        return Compose([own, CenterCrop(520)])

    def own_output(self, model, inputs):
        return None  # a dict; its parts are captured and compared


def test_every_classification_and_segmentation_network_is_listed() -> None:
    names = [entry.name for entry in list_models("torchvision")]
    everything = set(models.list_models())
    elsewhere = {
        name
        for part in (models.detection, models.video, models.optical_flow, models.quantization)
        for name in models.list_models(module=part)
    }
    assert {f"torchvision/{name}" for name in everything - elsewhere} == set(names)
    assert len(names) == len(set(names)) >= 80


def test_default_weights_come_first() -> None:
    entries = {entry.name: entry for entry in list_models("torchvision")}
    for name, entry in entries.items():
        choices = models.get_model_weights(name.removeprefix("torchvision/"))
        assert next(iter(entry.weights)) == choices.DEFAULT.name
        assert sorted(entry.weights) == sorted(w.name for w in choices)
    swag = entries["torchvision/vit_b_16"].weights["IMAGENET1K_SWAG_E2E_V1"]
    assert (swag.licence, swag.sha256) == ("CC-BY-NC-4.0", "9ac1b537")
    assert swag.filename == "vit_b_16_swag-9ac1b537.pth"


def assert_same_structure(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with what torchvision itself builds for these weights, strictly loading ours."""
    name, weights = weights_of(text)
    ours = load_model(f"torchvision/{text}", structure_only=True).network
    state = ours.to("meta").state_dict()
    asked = []
    monkeypatch.setattr(
        _api, "load_state_dict_from_url", lambda url, *_, **__: asked.append(url) or with_aux(state)
    )

    def with_aux(state):
        if name == "googlenet":  # its file has them; they are dropped after loading
            with torch.device("meta"):
                full = models.googlenet(weights=None, init_weights=False)
            return full.state_dict()
        return state

    try:
        with torch.device("meta"):
            theirs = models.get_model(name, weights=weights)
    except (NotImplementedError, RuntimeError):  # RegNet reads numbers while it is built
        asked.clear()
        state = ours.to_empty(device="cpu").state_dict()
        with torch.device("cpu"):
            theirs = models.get_model(name, weights=weights)
    assert asked == [weights.url]
    assert [n for n, _ in theirs.named_modules()] == [n for n, _ in ours.named_modules()]
    for attribute in ("transform_input", "aux_logits", "image_size"):
        assert getattr(theirs, attribute, None) == getattr(ours, attribute, None)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta:UserWarning")
@pytest.mark.parametrize("text", sorted(HARD))
def test_structure_is_torchvisions_for_the_weights(text: str, monkeypatch) -> None:
    assert_same_structure(text, monkeypatch)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta:UserWarning")
def test_structure_is_torchvisions_for_all_weights(monkeypatch) -> None:
    seen = set()
    for text in every_tag():
        name, weights = weights_of(text)
        structure = (name, *weights.meta["min_size"], len(weights.meta["categories"] or ()))
        if structure not in seen and "128gf" not in text:  # 2.5 GB
            assert_same_structure(text, monkeypatch)
        seen.add(structure)


def sizes() -> list[tuple[int, int]]:
    """Width and height: smaller and larger than what networks take, odd, square, thin."""
    return [(640, 427), (427, 640), (227, 227), (100, 333), (301, 299), (31, 47), (520, 521)]


def test_preprocessing_of_all_weights_is_torchvisions_to_the_last_bit(rng) -> None:
    images = [
        Image.fromarray(rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)).resize(
            (w, h), Image.Resampling.BICUBIC
        )
        for w, h in sizes()
    ]
    seen = set()
    for text in every_tag():
        name, weights = weights_of(text)
        key = repr(weights.transforms())
        if key in seen or name in models.list_models(module=models.segmentation):
            continue
        seen.add(key)
        ours = load_like(text)
        for image in images:
            own, batch = weights.transforms()(image), ours.batch(np.stack([ours.image(image)]))
            assert torch.equal(batch[0], own), (text, image.size)
    assert len(seen) > 20


def load_like(text: str):
    from resmem_extract.models.torchvision import weights_preprocessing

    return weights_preprocessing(weights_of(text)[1])


def test_segmentation_of_a_square_photograph_is_torchvisions(photographs) -> None:
    square = photographs[0]
    _, weights = weights_of("fcn_resnet50@COCO_WITH_VOC_LABELS_V1")
    ours = load_like("fcn_resnet50@COCO_WITH_VOC_LABELS_V1")
    assert square.width == square.height
    assert torch.equal(ours.batch(np.stack([ours.image(square)]))[0], weights.transforms()(square))


def test_weights_from_a_file(tmp_path) -> None:
    own = models.shufflenet_v2_x0_5()
    torch.save({"model": own.state_dict(), "epoch": 9}, tmp_path / "mine.pth")
    model = load_model("torchvision/shufflenet_v2_x0_5", weights=tmp_path / "mine.pth")
    assert (model.name, model.weights_tag) == ("torchvision/shufflenet_v2_x0_5", "")
    assert model.weights.origin == "explicit"
    inputs = model.noise()(2)
    with torch.inference_mode():
        assert torch.equal(model.network(inputs), own.eval()(inputs))


def test_offline_says_what_to_bring_where(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("RESMEM_EXTRACT_OFFLINE", "1")
    with pytest.raises(MissingWeightsError) as raised:
        load_model("torchvision/resnet50@imagenet1k_v1")
    assert "bring https://download.pytorch.org/models/resnet50-0676ba61.pth to " in str(
        raised.value
    )
    assert str(raised.value).endswith("/weights/resnet50-0676ba61.pth")
