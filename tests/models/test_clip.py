from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance import SourceConformance

from resmem_extract import load_model
from resmem_extract.errors import UnknownModelError, WeightsError
from resmem_extract.models import list_models

open_clip = pytest.importorskip("open_clip")

SMALL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[torch.nn.Module, object, object]:
    """A whole CLIP network of open_clip with its transform, and a checkpoint of it."""
    torch.manual_seed(4)
    network, _, transform = open_clip.create_model_and_transforms(SMALL)
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save({"state_dict": {f"module.{n}": t for n, t in network.state_dict().items()}}, path)
    return network.eval(), transform, path


class TestVisionTransformer(SourceConformance):
    source = "clip"
    name = f"clip/{SMALL}@random"
    modules = ("visual.conv1", "visual.transformer.resblocks.0", "visual.ln_post")

    def own_transform(self, model):
        return open_clip.create_model_and_transforms(SMALL)[2]


def test_output_is_encode_image_of_the_whole_network(whole, photographs) -> None:
    network, transform, path = whole
    model = load_model(f"clip/{SMALL}", weights=path)
    pictures = [model.preprocessing.image(image) for image in photographs]
    inputs = model.preprocessing.batch(np.stack(pictures))
    assert torch.equal(inputs, torch.stack([transform(image) for image in photographs]))
    with torch.inference_mode():
        assert torch.equal(model.network(inputs), network.encode_image(inputs))
    assert model.paths.resolve("visual.ln_post")[0].module == "visual.ln_post"
    assert not any(name.startswith("transformer") for name in model.paths.names)


def test_open_clip_does_not_say_that_filled_networks_are_random(whole, caplog) -> None:
    load_model(f"clip/{SMALL}", weights=whole[2])
    assert caplog.messages == []


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"holds no weights of clip/{SMALL}"):
        load_model(f"clip/{SMALL}", weights=tmp_path / "w.pt")


def test_weights_of_the_other_gelu_are_refused() -> None:
    with pytest.raises(UnknownModelError) as raised:
        load_model("clip/ViT-B-32@openai")
    assert str(raised.value) == (
        "clip/ViT-B-32@openai: it was trained with QuickGELU; write clip/ViT-B-32-quickgelu@openai"
    )


def test_a_network_without_fitting_weights_says_which_one_has_them() -> None:
    with pytest.raises(WeightsError) as raised:
        load_model("clip/RN50")
    assert "write clip/RN50-quickgelu@openai" in str(raised.value)


def test_all_weights_are_listed_with_the_gelu_that_they_were_trained_with() -> None:
    entries = {entry.name: entry for entry in list_models("clip")}
    tags = 0
    for name, entry in entries.items():
        config = open_clip.get_model_config(name.removeprefix("clip/"))
        for tag in (*entry.weights, *entry.refused):
            trained = open_clip.get_pretrained_cfg(name.removeprefix("clip/"), tag)
            same = trained.get("quick_gelu", False) == config.get("quick_gelu", False)
            assert same == (tag in entry.weights)
            tags += 1
    every = [(n, t) for n, t in open_clip.list_pretrained() if f"clip/{n}" in entries]
    assert tags == len(every) > 100
    first = {name: next(iter(entries[f"clip/{name}"].weights)) for name in
             ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14")}  # fmt: skip
    assert list(first.values()) == ["laion2b_s34b_b79k", "openai", "laion2b_s32b_b82k"]


@pytest.mark.parametrize(
    ("name", "tag"), [("ViT-B-16-SigLIP", "webli"), ("ViT-B-32", "laion2b_e16"), ("RN50", "")]
)
def test_preprocessing_is_open_clips(name: str, tag: str, photographs) -> None:
    model = load_model(f"clip/{name}{'@' * bool(tag)}{tag}", structure_only=True)
    config = open_clip.get_pretrained_cfg(name, tag or "openai")
    size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    keys = ("mean", "std", "interpolation", "resize_mode")
    own = open_clip.image_transform(size, is_train=False, **{key: config[key] for key in keys})
    for image in photographs:
        ours = model.preprocessing.batch(np.stack([model.preprocessing.image(image)]))[0]
        assert torch.equal(ours, own(image))
