"""Tokens and attention maps of vision transformers, by three libraries' definitions."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from conformance import TORCH, deviation, hook_everything

import resmem_extract as rx
from resmem_extract.capture import prepare
from resmem_extract.capture.attention import expose_attention
from resmem_extract.errors import RequestError, UnknownModuleError
from resmem_extract.models.tokens import token_layout
from resmem_extract.types import Reduction, TokenLayout

CPU = torch.device("cpu")
TIMM = "timm/vit_tiny_patch16_224@random"


@pytest.fixture(scope="module")
def small():
    pytest.importorskip("timm")
    return rx.load_model(TIMM)


def capture(model, *paths: str, engine: str = "auto"):
    addresses = [address for path in paths for address in model.paths.resolve(path)]
    return prepare(model.network, addresses, model.noise(), device=CPU, engine=engine)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("timm/vit_tiny_patch16_224", TokenLayout(1, True, 197)),
        ("timm/deit_tiny_distilled_patch16_224", TokenLayout(2, True, 198)),
        ("timm/vit_small_patch14_reg4_dinov2", TokenLayout(5, True, 1374)),
        ("timm/vit_base_patch16_siglip_224", TokenLayout(0, False, 196)),
        ("timm/resnet18", TokenLayout()),
        ("torchvision/vit_b_32", TokenLayout(1, True, 50)),
        ("torchvision/swin_t", TokenLayout()),
        ("clip/ViT-B-32", TokenLayout(1, True, 50)),
    ],
)
def test_tokens_are_found(name: str, layout: TokenLayout) -> None:
    pytest.importorskip("timm" if "timm" in name else "open_clip")
    assert token_layout(rx.load_model(name, structure_only=True).network) == layout


@pytest.mark.parametrize("tokens", ["all", "cls", "mean", "cls+mean"])
def test_tokens_equal_numpy(small, tokens: str) -> None:
    made = capture(small, "blocks.2", "norm")
    inputs = small.noise()(3)
    found = made(inputs, small.adapt(Reduction(tokens=tokens)))
    for path, whole in made(inputs).items():
        cls, mean = whole[:, 0], whole[:, 1:].mean(1)
        expected = {"all": whole, "cls": cls, "mean": mean, "cls+mean": np.hstack([cls, mean])}
        np.testing.assert_allclose(found[path], expected[tokens], rtol=1e-5, atol=1e-6)


def test_registers_have_no_part_in_the_mean() -> None:
    layout = TokenLayout(5, True, 9)
    from resmem_extract.capture.reduce import reduce

    batch = torch.arange(9.0).view(1, 9, 1)
    found = reduce(batch, Reduction(tokens="cls+mean", layout=layout))
    assert found.tolist() == [[0.0, (5 + 6 + 7 + 8) / 4]]


def test_before_the_class_token_is_added_all_tokens_are_patches(small) -> None:
    made = capture(small, "patch_embed")
    inputs = small.noise()(2)
    (whole,), (mean,) = (
        made(inputs, small.adapt(Reduction(tokens=t))).values() for t in ("all", "mean")
    )
    np.testing.assert_allclose(mean, whole.mean(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(RequestError, match="among the 196 tokens of a module there is no class"):
        made(inputs, small.adapt(Reduction(tokens="cls")))


def test_tokens_of_modules_without_any_are_refused(resmem_model, tmp_path) -> None:
    with pytest.raises(RequestError, match=r"features.conv1 of resmem has no tokens, nor has any"):
        rx.extract(resmem_model, ["features.conv1", "fc7"], tokens="cls", out=tmp_path / "f.h5")
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_class_token_is_refused_before_any_image_is_read(tmp_path) -> None:
    pytest.importorskip("timm")
    model = rx.load_model("timm/test_vit4@random")
    assert token_layout(model.network) == TokenLayout(1, False, 101)  # a register alone
    with pytest.raises(RequestError, match="--tokens cls"):
        rx.extract(model, "blocks.1.mlp.fc1", out=tmp_path / "f.h5", tokens="cls")
    assert list(tmp_path.iterdir()) == []


def test_tokens_in_a_store(small, tmp_path) -> None:
    images = rx.sample_photographs().take([0, 4])
    for tokens in ("all", "cls"):
        out = tmp_path / f"{tokens}.h5"
        rx.extract(small, ["blocks.3", "blocks.3@attention"], images, out=out, tokens=tokens)
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "cls.h5") as cls:
        for file, axes in ((whole, ["image", "token", "unit"]), (cls, ["image", "unit"])):
            assert json.loads(file["features/blocks.3"].attrs["axes"]) == axes
        assert json.loads(cls["features/blocks.3"].attrs["reduce"])["tokens"] == "cls"
        assert np.array_equal(cls["features/blocks.3"][:], whole["features/blocks.3"][:, 0])
        path = "features/blocks.3.attn@attention"
        assert json.loads(whole[path].attrs["axes"]) == ["image", "head", "query", "key"]
        assert np.array_equal(whole[path][:], cls[path][:])
        assert np.array_equal(whole["features/blocks.3@attention"][:], whole[path][:])
    both = {"images": images, "tokens": "cls", "pool": "avg"}
    with pytest.raises(RequestError, match=r"--pool avg: after --tokens cls blocks.3 is a vector"):
        rx.extract(small, ["blocks.3", "output"], out=tmp_path / "b.h5", **both)
    pooled = rx.extract(small, ["blocks.3", "patch_embed.proj"], out=tmp_path / "p.h5", **both)
    assert [len(module.shape) for module in pooled.modules] == [1, 1]
    again = rx.extract(small, "blocks.3", images, out=tmp_path / "b.h5", tokens="cls")
    assert again.modules[0].shape == (192,)


# --- attention -----------------------------------------------------------------------------------


def map_of(network, name: str, inputs: torch.Tensor) -> np.ndarray:
    """softmax(q k / sqrt d), written out from what goes into timm's attention."""
    attention = network.get_submodule(name)
    seen = []
    handle = attention.register_forward_hook(lambda _m, a, _o: seen.append(a[0].clone()))
    with torch.inference_mode():
        network(inputs)
        handle.remove()
        (x,) = seen
        qkv = attention.qkv(x).reshape(*x.shape[:2], 3, attention.num_heads, -1)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).numpy()


@pytest.mark.parametrize("engine", ["auto", "hooks", "reference"])
def test_attention_of_timm_equals_the_formula(small, engine: str) -> None:
    made = capture(small, "blocks.1.attn@attention", "blocks.4@attention", "blocks.5",
                   engine=engine)  # fmt: skip
    traced = ("graph", "fused") if TORCH >= (2, 1) else ("graph", "fused", "hooks")
    assert made.engine in (traced if engine == "auto" else (engine,))
    inputs = small.noise()(3)
    found = made(inputs)
    paths = ["blocks.1.attn@attention", "blocks.4.attn@attention", "blocks.5"]
    assert list(found) == paths
    for path in paths[:2]:
        expected = map_of(small.network, path.removesuffix("@attention"), inputs)
        assert found[path].shape == (3, 3, 197, 197)
        assert deviation(found[path], expected) <= 1e-5
        np.testing.assert_allclose(found[path].sum(-1), 1, rtol=1e-5)
    assert not np.array_equal(found[paths[0]], found[paths[1]])
    plain = hook_everything(small.network, inputs)["blocks.5"][0]
    assert deviation(found["blocks.5"], plain) <= 1e-5


def test_only_the_attention_asked_for_is_changed_and_only_in_a_copy(small) -> None:
    addresses = small.paths.resolve("blocks.1@attention")
    before = {name: module.fused_attn for name, module in small.network.named_modules()
              if hasattr(module, "fused_attn")}  # fmt: skip
    exposed, (address,) = expose_attention(small.network, addresses)
    changed = {
        name for name, m in exposed.named_modules() if m is not small.network.get_submodule(name)
    }
    assert changed == {"", "blocks", "blocks.1", "blocks.1.attn", "blocks.1.attn.attn_drop"}
    fused = {name: m.fused_attn for name, m in exposed.named_modules() if hasattr(m, "fused_attn")}
    assert fused == {**before, "blocks.1.attn": False}
    assert all(a is b for a, b in zip(exposed.parameters(), small.network.parameters(),
                                      strict=True))  # fmt: skip
    assert (address.shown, address.index_path) == ("blocks.1.attn@attention", "blocks.1.1")
    assert {n: m.fused_attn for n, m in small.network.named_modules() if n in before} == before


def test_attention_of_torch_equals_its_own_weights() -> None:
    """torchvision's blocks hold `nn.MultiheadAttention`, which can return its map itself."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 4, 24, 48).eval()
    model = rx.Model("mine", "own", network, rx.load_model("cornet_z", structure_only=True,
                     transform="imagenet").preprocessing)  # fmt: skip
    x = torch.randn(3, 3, 32, 32)
    name = "encoder.layers.encoder_layer_1.self_attention"
    seen = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda _m, a, _o: seen.append(a[0].clone())
    )
    with torch.inference_mode():
        output = network(x)
        handle.remove()
        _, expected = network.get_submodule(name)(
            *seen * 3, need_weights=True, average_attn_weights=False
        )
    for engine in ("auto", "reference"):
        made = prepare(
            network,
            [*model.paths.resolve(f"{name}@attention"), *model.paths.resolve("output")],
            lambda n: x[:1].expand(n, -1, -1, -1) + torch.arange(n).view(-1, 1, 1, 1),
            device=CPU,
            engine=engine,
        )
        found = made(x)
        assert found[f"{name}@attention"].shape == (3, 4, 17, 17)
        assert deviation(found[f"{name}@attention"], expected.numpy()) <= 1e-5
        assert deviation(found["output"], output.numpy()) <= 1e-5


def test_maps_are_listed_with_their_shape(small) -> None:
    (info,) = small.list_modules("blocks.0.attn@attention")
    assert (info.path, info.shape) == ("blocks.0.attn@attention", (3, 197, 197))
    assert (info.type, info.calls) == ("attention map", 1)
    pattern = [info.path for info in small.list_modules("blocks.*.attn@attention")]
    assert pattern == [f"blocks.{i}.attn@attention" for i in range(12)]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("patch_embed@attention", "no attention whose map can be shown; the network has blocks.0"),
        ("blocks@attention", "several attentions; the network has blocks.0.attn, blocks.1.attn"),
    ],
)
def test_where_there_is_no_single_attention(small, path: str, message: str) -> None:
    with pytest.raises(UnknownModuleError) as raised:
        capture(small, path)
    assert message in str(raised.value)


# --- the batch axis ------------------------------------------------------------------------------


def test_sequence_first_blocks_have_their_batch_axis_found() -> None:
    """CLIP's blocks of old see tokens first; the number of tokens may equal the batch's."""
    from torch import nn

    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.flatten(2).permute(2, 0, 1)
            return self.attention(tokens, tokens, tokens)[0].permute(1, 0, 2)

    network = SequenceFirst().eval()
    make = lambda n: torch.randn(3, 4, 1, 3, generator=torch.manual_seed(0))[:n]  # noqa: E731
    model = rx.Model("mine", "own", network, None)
    made = prepare(network, [*model.paths.resolve("attention"), *model.paths.resolve("output")],
                   make, device=CPU)  # fmt: skip
    found = made(make(3))
    assert [c.batch_axis for c in made.captured] == [1, 0]
    assert np.allclose(found["attention[0]"], found["output"])
