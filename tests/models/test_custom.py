"""``package.module:factory``, with weights and transforms of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from PIL import Image

import resmem_extract as rx
from resmem_extract import load_model
from resmem_extract.errors import RequestError, UnknownModelError, WeightsError
from resmem_extract.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resmem_extract.models.transforms import NAMED, chosen_transform


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    state = own_networks.Small().state_dict()
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def test_a_factory_with_weights_and_a_named_transform(weights: Path) -> None:
    model = load_model("own_networks:small", weights=weights, transform="imagenet")
    assert (model.name, model.source) == ("own_networks:small", "custom")
    assert (model.weights.path, model.packages, model.licence) == (weights, {}, "")
    torch.manual_seed(5)
    expected = own_networks.Small().state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in model.network.state_dict().items())
    assert not model.network.training
    assert model.preprocessing == NAMED["imagenet"]
    assert [info.path for info in model.list_modules()] == ["stem", "head", "output"]


def test_a_pair_of_network_and_transform() -> None:
    model = load_model("own_networks:with_transform")
    assert model.noise()(2).shape == (2, 3, 32, 48)
    assert model.preprocessing.describe() == {"transform": "to_tensor"}
    other = load_model("own_networks:with_transform", transform="own_networks:to_tensor")
    assert other.preprocessing.describe() == {"transform": "own_networks:to_tensor"}


def test_an_instance_is_taken_as_it_is() -> None:
    model = load_model("own_networks:ready", transform="clip")
    assert model.network is own_networks.ready


def test_a_factory_that_fills_at_random_follows_the_seed() -> None:
    first, second, other = (
        load_model("own_networks:small", transform="clip", seed=seed) for seed in (1, 1, 2)
    )
    assert first.state_dict_sha256 == second.state_dict_sha256 != other.state_dict_sha256


def test_structure_alone_needs_neither_weights_nor_transform() -> None:
    model = load_model("own_networks:small", structure_only=True)
    assert [info.shape for info in model.list_modules()] == [(4, 111, 111), (2,), (2,)]


def test_modules_of_the_current_folder_are_found(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "only_here.py").write_text("from own_networks import small as factory\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_model("only_here:factory", transform="resmem").name == "only_here:factory"
    assert sys.path[: len(before)] == before  # the folder is now searched last
    monkeypatch.setattr(sys, "path", before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:factory", "no module 'nowhere' here or installed"),
        ("own_networks:with_transfrom", "has no 'with_transfrom'; did you mean with_transform?"),
        ("own_networks:small@v1", "own_networks:small has no weights 'v1': it has none"),
    ],
)
def test_unknown_factories(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        load_model(name)
    assert message in str(raised.value)


def test_errors_inside_a_module_are_its_own(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_module.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        load_model("broken_module:factory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("own_networks:small",), "does not say how images are prepared for it"),
        (("own_networks:no_network",), "returned a str; expected a torch.nn.Module"),
        (("own_networks:small@random",), "itself decides what it is filled with"),
        (("own_networks:small", "own_networks:at_random"), "different tensors for one image"),
        (("own_networks:small", "own_networks:no_tensor"), "expected a tensor [channels, height"),
        (("own_networks:small", "own_networks:version"), "expected a function from a PIL image"),
    ],
)
def test_requests_that_cannot_be_met(arguments, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        load_model(arguments[0], transform=(*arguments, None)[1])
    assert message in str(raised.value)


def test_a_tampered_checkpoint_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    state = own_networks.Small().state_dict()
    torch.save({"state_dict": state, "note": Evil()}, tmp_path / "w.pt")
    arguments = {"weights": tmp_path / "w.pt", "transform": "clip"}
    with pytest.raises(WeightsError, match="no file of tensors alone"):
        load_model("own_networks:small", **arguments)
    assert not (tmp_path / "ran").exists()
    load_model("own_networks:small", **arguments, trust=True)
    assert (tmp_path / "ran").exists()


# --- transforms ----------------------------------------------------------------------------------


def test_named_transforms_are_torchvisions_and_openais(photographs) -> None:
    from torchvision import transforms as t

    bicubic = t.InterpolationMode.BICUBIC
    clip = NAMED["clip"].describe()
    oracles = {
        "imagenet": [t.Resize(256), t.CenterCrop(224), t.ToTensor(),
                     t.Normalize(IMAGENET_MEAN, IMAGENET_STD)],
        "clip": [t.Resize(224, bicubic), t.CenterCrop(224), t.ToTensor(),
                 t.Normalize(clip["mean"], clip["std"])],
        "resmem": [t.Resize((256, 256)), t.CenterCrop(227), t.ToTensor()],
    }  # fmt: skip
    assert oracles.keys() == NAMED.keys()
    for name, steps in oracles.items():
        for image in photographs:
            ours = NAMED[name].batch(np.stack([NAMED[name].image(image)]))[0]
            assert torch.equal(ours, t.Compose(steps)(image)), name


def test_any_callable_is_used_as_it_is(photographs) -> None:
    chosen = chosen_transform(own_networks.to_tensor)
    batch = chosen.batch(np.stack([chosen.image(image) for image in photographs]))
    expected = torch.stack([own_networks.to_tensor(image) for image in photographs])
    assert torch.equal(batch, expected)


def test_a_transform_that_tells_its_parameters_is_recorded_with_them() -> None:
    from torchvision.models import ResNet50_Weights

    described = chosen_transform(ResNet50_Weights.DEFAULT.transforms()).describe()
    assert "resize_size=[232]" in described["parameters"]


def test_preprocessing_is_passed_through() -> None:
    assert chosen_transform(NAMED["clip"]) is NAMED["clip"]
    assert chosen_transform(None) is None


def test_margins_of_small_images_are_torchvisions() -> None:
    from torchvision.transforms import CenterCrop

    from resmem_extract.models.preprocessing import ResizeAndCrop

    noise = np.random.default_rng(0).integers(0, 256, (13, 22, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for crop in (20, (10, 31), (30, 11), 7):
        ours = ResizeAndCrop(resize=None, crop=crop).image(image)
        assert np.array_equal(ours, np.asarray(CenterCrop(crop)(image))), crop


def test_a_factory_that_needs_arguments_is_told_of() -> None:
    with pytest.raises(RequestError, match=r"own_networks:Sized cannot be called without argumen"):
        load_model("own_networks:Sized")


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors"])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(WeightsError, match=rf"{name} cannot be read as"):
        load_model("own_networks:small", weights=tmp_path / name, transform="imagenet")


def test_a_transform_that_does_not_fit_the_network_is_told_of() -> None:
    model = load_model("resmem", pretrained=False, transform="imagenet")
    with pytest.raises(RequestError, match=r"ResMem fails on images of \[3, 224, 224\]"):
        model.capture("conv1")


def test_what_fails_in_a_factory_is_one_line() -> None:
    with pytest.raises(RequestError) as raised:
        load_model("own_networks:broken", transform="imagenet")
    assert str(raised.value).startswith(
        "own_networks:broken failed: RuntimeError: inside the factory (own_networks.py, line "
    )


@pytest.mark.parametrize("transform", ["imagenet", "own_networks:to_tensor"])
def test_a_sample_is_made_again_with_the_recorded_transform(tmp_path, transform: str) -> None:
    out, photos = tmp_path / "f.h5", tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    rx.extract("own_networks:ready", "stem", photos, out=out, transform=transform)
    assert rx.reproduce_store(out, photos).reproducible


def test_activations_that_are_no_numbers_are_told_once(tmp_path) -> None:
    told: list[str] = []
    pictures = [Image.new("RGB", (48, 32), (k, 0, 0)) for k in range(3)]
    rx.extract(
        "own_networks:NotANumber", ["stem", "output"], pictures, out=tmp_path / "f.h5",
        transform="own_networks:to_tensor", batch_size=1, tell=told.append,
    )  # fmt: skip
    (line,) = [line for line in told if "NaN" in line]
    assert line.startswith("output: NaN or infinite activations, first of 0; are the weights")
