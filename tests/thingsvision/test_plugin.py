"""Our networks in stock thingsvision; runs in the environment of `make thingsvision-env`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("thingsvision.core.extraction", reason="needs make thingsvision-env")

import thingsvision
from thingsvision.core.extraction import helpers
from thingsvision.utils.data import DataLoader, ImageDataset

import resmem_extract as rx
from resmem_extract.errors import RequestError
from resmem_extract.thingsvision import register

DOCUMENT = Path(__file__).parents[2] / "docs" / "thingsvision.md"
NAMES = ["features.5.4", "features.layer2.4", "resnet_layers[24]", "alexnet_layers[0]", "fc12",
         "features.4.0.relu", "memorability", "output"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(photographs, tmp_path_factory) -> Path:
    """Photographs in a folder, one of them grey, one with transparency."""
    made = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(photographs[:2]):
        image.save(made / f"{i}.png")
    photographs[0].convert("L").save(made / "grey.png")
    photographs[1].convert("RGBA").save(made / "transparent.png")
    return made


@pytest.fixture(scope="module")
def extractor():
    assert register() == register()
    assert "resmem" in register()
    made = thingsvision.get_extractor("resmem", source="custom", device="cpu", pretrained=True)
    return made


def batches(extractor, folder: Path, out: Path, batch_size: int = 3) -> DataLoader:
    """As in thingsvision's README."""
    dataset = ImageDataset(
        root=str(folder),
        out_path=str(out),
        backend=extractor.get_backend(),
        transforms=extractor.get_transformations(resize_dim=256, crop_dim=224),
    )
    return DataLoader(dataset=dataset, batch_size=batch_size, backend=extractor.get_backend())


@pytest.fixture(scope="module")
def theirs(extractor, folder, tmp_path_factory) -> dict[str, np.ndarray]:
    loader = batches(extractor, folder, tmp_path_factory.mktemp("theirs"))
    return extractor.extract_features(batches=loader, module_names=NAMES, output_type="ndarray")


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "resmem.h5"
    rx.extract("resmem", NAMES, folder, out=out)
    return out


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_ours(theirs, ours, name: str) -> None:
    with rx.open_store(ours) as store:
        assert deviation(theirs[name], store[name][:]) <= 1e-5
    assert theirs["features.5.4"].shape == (4, 512, 29, 29)
    assert theirs["alexnet_layers[0]"].min() < 0


def test_rows_belong_to_the_same_images(extractor, folder, ours, tmp_path) -> None:
    batches(extractor, folder, tmp_path)
    with rx.open_store(ours) as store:
        assert (tmp_path / "file_names.txt").read_text().split() == store.image_ids.tolist()


def test_preprocessing_is_resmems_own(extractor, photographs, resmem_pixels) -> None:
    transform = extractor.get_transformations(resize_dim=256, crop_dim=224)
    found = torch.stack([transform(image) for image in photographs])
    assert torch.equal(found, resmem_pixels)


def test_one_module_flattened_as_a_tensor(extractor, folder, theirs, tmp_path) -> None:
    found = extractor.extract_features(
        batches=batches(extractor, folder, tmp_path, batch_size=4),
        module_name="features.5.4",
        flatten_acts=True,
        output_type="tensor",
    )
    assert found.shape == (4, 512 * 29 * 29)
    assert deviation(found.numpy(), theirs["features.5.4"].reshape(4, -1)) <= 1e-5
    assert not any(module._forward_hooks for module in extractor.model.modules())


def test_batch_by_batch(extractor, resmem_pixels) -> None:
    with extractor.batch_extraction(module_name="memorability", output_type="tensor") as e:
        found = e.extract_batch(batch=resmem_pixels[:2], flatten_acts=False)
    assert found.shape == (2, 1)
    with torch.no_grad():
        assert torch.equal(found, extractor.model(resmem_pixels[:2]))


@pytest.mark.parametrize("name", ["features.5.40", "drp99", "resnet_layers[155]"])
def test_its_check_of_names_still_refuses(extractor, folder, tmp_path, name: str) -> None:
    loader = batches(extractor, folder, tmp_path)
    with pytest.raises(ValueError, match="is not a valid module name") as raised:
        extractor.extract_features(batches=loader, module_name=name)
    assert "'features.layer2.4'" in str(raised.value)
    assert "'features.5.4'" in str(raised.value)


def test_arguments_are_kept(extractor) -> None:
    assert (extractor.model_name, extractor.pretrained) == ("resmem", True)
    assert type(extractor.show_model()).__name__ == "ResMem"
    assert not extractor.model.training


def test_weights_of_ones_own(tmp_path) -> None:
    state = {
        name: torch.zeros((), dtype=t.dtype).expand(t.shape)
        for name, t in rx.load_model("resmem", structure_only=True).network.state_dict().items()
    }
    torch.save(state, tmp_path / "zeros.pt")
    parameters = {"weights": str(tmp_path / "zeros.pt"), "verify": False}
    for given in (parameters, json.dumps(parameters)):  # the latter from the command line
        found = thingsvision.get_extractor(
            "resmem", source="custom", device="cpu", pretrained=True, model_parameters=given
        )
        with torch.no_grad():
            assert found.model(torch.rand(1, 3, 227, 227)).tolist() == [[0.5]]
    found = thingsvision.get_extractor(
        "resmem", source="custom", device="cpu", pretrained=True,
        model_path=str(tmp_path / "zeros.pt"), model_parameters={"verify": False},
    )  # fmt: skip
    assert float(found.model.fc12.weight.abs().max()) == 0


def test_random_weights_are_seeded() -> None:
    def weight(**parameters):
        made = thingsvision.get_extractor(
            "resmem", source="custom", device="cpu", pretrained=False, model_parameters=parameters
        )
        return made.model.conv1.weight

    assert torch.equal(weight(), weight(seed=0))
    assert not torch.equal(weight(seed=0), weight(seed=1))
    assert torch.equal(weight(seed=1), rx.load_model("resmem@random1").network.conv1.weight)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weigths": "x"}, "model parameter 'weigths' is not known; use weights"),
        ("{", "model parameters '{' are no JSON"),
    ],
)
def test_unknown_parameters(parameters, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        thingsvision.get_extractor(
            "resmem", source="custom", device="cpu", pretrained=True, model_parameters=parameters
        )
    assert str(raised.value).startswith(message)


def test_its_own_custom_models_are_its_own() -> None:
    register()
    cornet = thingsvision.get_extractor("cornet-z", source="custom", device="cpu", pretrained=False)
    assert type(cornet.model).__name__ == "Sequential"
    assert "V1" in cornet.get_module_names()
    assert helpers.create_custom_extractor.theirs.__module__ == helpers.__name__


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resmem_extract.thingsvision", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_line(folder, ours, tmp_path) -> None:
    done = command(
        "extract-features", "--image-root", folder, "--model-name", "resmem", "--module-name",
        "features.5.4", "--batch-size", 3, "--device", "cpu", "--source", "custom",
        "--file-format", "npy", "--out-path", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with rx.open_store(ours) as store:
        assert deviation(np.load(tmp_path / "features.npy"), store["features.5.4"][:]) <= 1e-5


def test_command_line_says_what_is_wrong_in_one_line(tmp_path) -> None:
    done = command(
        "show-model", "--model-name", "resmem", "--source", "custom", "--device", "cpu",
        "--model-parameters", json.dumps({"weights": str(tmp_path / "missing.pt")}),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no weights file")
    assert "Traceback" not in done.stderr


def test_code_of_the_document_runs(folder, ours, tmp_path, monkeypatch) -> None:
    (tmp_path / "photos").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    scope: dict[str, object] = {}
    exec(compile(block, DOCUMENT.name, "exec"), scope)
    with rx.open_store(ours) as store:
        assert deviation(scope["features"], store["features.5.4"][:]) <= 1e-5
