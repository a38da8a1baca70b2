from __future__ import annotations

import pytest
import torch
from conformance import SourceConformance

from resmem_extract import load_model
from resmem_extract.errors import RequestError, WeightsError
from resmem_extract.models import list_models
from resmem_extract.models.ssl import _RECIPES

timm = pytest.importorskip("timm")


class TestResNet(SourceConformance):
    source = "ssl"
    name = "ssl/barlowtwins-rn50@random"
    modules = ("conv1", "layer1.0", "avgpool")
    unlike = "barlowtwins-rn51"


@pytest.mark.slow
class TestTransformer(SourceConformance):
    source = "ssl"
    name = "ssl/dino-vit-small-p16@random"
    modules = ("patch_embed", "blocks.3", "norm")
    unlike = "dino-vit-small-p17"


def wrapped(name: str, state: dict[str, torch.Tensor]) -> dict:
    """A checkpoint as its authors publish it."""
    recipe = _RECIPES[name]
    if recipe.timm_tag or not recipe.prefix:
        return state
    heads = {"fc.0.weight": torch.zeros(2), "fc.2.weight": torch.zeros(2)}
    head = {f"head.{n}": t for n, t in heads.items()} if recipe.timm else heads
    inner = {recipe.prefix + n: t for n, t in {**state, **head}.items()}
    if name.startswith("moco"):
        inner |= {"module.queue": torch.zeros(3), "module.encoder_k.conv1.weight": torch.zeros(1)}
        return {"epoch": 800, "arch": "resnet50", "state_dict": inner}
    trunk = {key: t for key, t in inner.items() if not key.startswith("_feature_blocks.fc")}
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}}


@pytest.mark.parametrize(
    "name",
    ["simclr-rn50", "mocov2-rn50", "mocov3-rn50", "mocov3-vit-small-p16", "barlowtwins-rn50"],
)
def test_published_checkpoints_fill_the_network(name: str, tmp_path, monkeypatch) -> None:
    """Put where the download would put it: under its name, without a hash."""
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path))
    (file,) = next(e for e in list_models("ssl") if e.name == f"ssl/{name}").weights.values()
    source = load_model(f"ssl/{name}@random4")
    (tmp_path / "weights").mkdir()
    place = tmp_path / "weights" / file.filename
    torch.save(wrapped(name, dict(source.network.state_dict())), place)
    model = load_model(f"ssl/{name}")
    assert (model.weights.path, model.weights_tag) == (place, "released")
    assert model.state_dict_sha256 == source.state_dict_sha256
    own = load_model(f"ssl/{name}", weights=place)
    assert own.state_dict_sha256 == source.state_dict_sha256


def test_definitions_are_the_authors(tmp_path) -> None:
    """Heads of 12 for MoCo v3 (its paper), no classifier anywhere, the outputs that are known."""
    small = load_model("ssl/mocov3-vit-small-p16", structure_only=True).network
    assert {block.attn.num_heads for block in small.blocks} == {12}
    widths = {"simclr-rn50": 2048, "dino-vit-base-p8": 768, "mae-vit-huge-p14": 1280,
              "dinov2-vit-small-p14": 384}  # fmt: skip
    for name, width in widths.items():
        model = load_model(f"ssl/{name}", structure_only=True)
        (output,) = model.list_modules("output")
        assert output.shape == (width,), name


def test_weights_of_timm_are_where_timm_has_them() -> None:
    for name, recipe in _RECIPES.items():
        if recipe.timm_tag:
            config = timm.get_pretrained_cfg(f"{recipe.timm}.{recipe.timm_tag}")
            assert config.hf_hub_id == f"timm/{recipe.timm}.{recipe.timm_tag}", name


def test_code_from_elsewhere_has_to_be_allowed(tmp_path, monkeypatch) -> None:
    """A repository that torch.hub has in its cache is not downloaded: here, a small one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # another test may have set it
    repository = tmp_path / "hub" / "facebookresearch_vicreg_main"
    repository.mkdir(parents=True)
    (repository / "hubconf.py").write_text(
        "from torch import nn\n"
        "def resnet50x2(pretrained=True):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    for options in ({}, {"structure_only": True}):
        with pytest.raises(RequestError) as raised:
            load_model("ssl/vicreg-rn50x2", **options)
        assert "allow it with --trust" in str(raised.value)
    model = load_model("ssl/vicreg-rn50x2", trust=True)
    assert [info.path for info in model.list_modules()] == ["0", "1", "2", "output"]
    with pytest.raises(WeightsError, match=r"torch\.hub cannot load resnet200x2 of"):
        load_model("ssl/vicreg-rn200x2", trust=True)
