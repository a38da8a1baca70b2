from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance import SourceConformance
from safetensors.torch import save_file

from resmem_extract import load_model
from resmem_extract.errors import UnknownModelError, WeightsError
from resmem_extract.models import list_models
from resmem_extract.models.preprocessing import Callback

timm = pytest.importorskip("timm")


def own(name: str, model):
    network = timm.create_model(name).eval()
    network.load_state_dict(model.network.state_dict())
    return network


class _Timm(SourceConformance):
    source = "timm"

    def own_transform(self, model):
        name = self.name.removeprefix("timm/").partition("@")[0]
        config = timm.data.resolve_model_data_config(timm.create_model(name))
        return timm.data.create_transform(**config, is_training=False)

    def own_output(self, model, inputs):
        return own(self.name.removeprefix("timm/").partition("@")[0], model)(inputs)


class TestConvolutional(_Timm):
    name = "timm/mobilenetv3_small_050@random"
    modules = ("conv_stem", "blocks.1.0", "blocks.3", "global_pool")


class TestTransformer(_Timm):
    name = "timm/vit_tiny_patch16_224@random2"
    modules = ("patch_embed", "blocks.0.attn.qkv", "blocks.5", "norm")


def test_every_network_of_timm_is_listed_with_its_weights() -> None:
    entries = {entry.name: entry for entry in list_models("timm")}
    assert sorted(entries) == sorted(f"timm/{name}" for name in timm.list_models())
    tagged = sum(len(entry.weights) for entry in entries.values())
    assert tagged == len(timm.list_pretrained())
    for name in ("convnext_tiny", "vit_small_patch14_dinov2", "resnet50"):
        default = timm.get_pretrained_cfg(name)
        tag, file = next(iter(entries[f"timm/{name}"].weights.items()))
        assert tag == default.tag
        assert (file.repository, file.licence) == (default.hf_hub_id, default.license)


def test_tags_are_told_apart() -> None:
    plain = load_model("timm/vit_tiny_patch16_224", structure_only=True)
    other = load_model("timm/vit_tiny_patch16_224@augreg_in21k", structure_only=True)
    assert plain.network.head.out_features == 1000
    assert other.network.head.out_features == 21843
    with pytest.raises(UnknownModelError, match=r"has no weights 'augreg_in22k': did you mean"):
        load_model("timm/vit_tiny_patch16_224@augreg_in22k")


@pytest.mark.parametrize("form", ["safetensors", "nested", "publisher's"])
def test_weights_from_a_file(tmp_path, form: str) -> None:
    torch.manual_seed(3)
    source = timm.create_model("test_vit").eval()
    state, path = source.state_dict(), tmp_path / "w"
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    else:  # as OpenAI and others name it; timm's own conversion is used
        renamed = {f"visual.trunk.{n}": t for n, t in state.items()}
        torch.save(renamed, path)
    model = load_model("timm/test_vit", weights=path)
    inputs = model.noise()(2)
    with torch.inference_mode():
        assert torch.equal(model.network(inputs), source(inputs))
    assert "state_dict" not in model.network.pretrained_cfg
    assert not any(p.requires_grad for p in model.network.parameters())


def test_weights_of_another_network(tmp_path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match="another network than VisionTransformer: it lacks cls_token"
    ):
        load_model("timm/test_vit", weights=tmp_path / "w.pt")


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "vit_tiny_patch16_384", "mobilenetv1_100", "test_vit",
             "convnext_tiny.fb_in22k_ft_in1k_384", "vit_base_patch16_siglip_224.webli"]
)  # fmt: skip
def test_preprocessing_is_timms_to_the_last_bit(name: str, photographs) -> None:
    arch, _, tag = name.partition(".")
    model = load_model(f"timm/{arch}{'@' + tag if tag else ''}", structure_only=True)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config)
    ours = model.preprocessing
    assert not isinstance(ours, Callback)
    for image in photographs:
        assert torch.equal(ours.batch(np.stack([ours.image(image)]))[0], transform(image))


def test_a_transform_that_we_do_not_know_is_timms_own(photographs) -> None:
    from resmem_extract.models.timm import timm_preprocessing

    network = timm.create_model("test_vit")
    network.pretrained_cfg["crop_mode"] = "border"
    ours = timm_preprocessing(network)
    assert isinstance(ours, Callback)
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    assert torch.equal(torch.from_numpy(ours.image(photographs[1])), own(photographs[1]))
    assert "CenterCropOrPad" in ours.describe()["parameters"]
