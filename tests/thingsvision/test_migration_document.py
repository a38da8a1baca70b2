"""docs/migration.md: what it gives as equals exists and runs; no thingsvision is needed for it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import resmem_extract as rx
from resmem_extract.errors import MissingExtraError
from resmem_extract.models import load_model

DOCUMENT = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")


def equals() -> list[str]:
    """All code in the last cells of its tables."""
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    cells = [row.strip("| ").split(" | ")[-1] for row in rows]
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def test_functions_and_methods_exist() -> None:
    calls = {name for code in equals() for name in re.findall(r"\brx\.([\w.]+)", code)}
    assert {"load_model", "extract", "transform", "export_store", "rsa.rdm", "rsa.compare",
            "rsa.kernel", "Model"} <= calls  # fmt: skip
    for name in calls:
        found = rx
        for part in name.split("."):
            found = getattr(found, part)
    methods = {name for code in equals() for name in re.findall(r"\bmodel\.(\w+)", code)}
    assert methods == {"transform", "list_modules", "capture"}
    assert all(callable(getattr(rx.Model, name)) for name in methods)


def test_networks_exist() -> None:
    named = {code for code in equals() if re.fullmatch(r"(cornet|clip|ssl|timm)/\w+", code)}
    named |= set(re.findall(r'load_model\("([^"]+)"\)', DOCUMENT))
    assert {"resmem", "torchvision/alexnet", "clip/ViT-L-14-quickgelu", "cornet/cornet_s"} <= named
    for name in sorted(named - {"ssl/NAME", "timm/NAME"}):
        try:
            model = load_model(name, structure_only=True)
        except MissingExtraError:
            continue
        if name.startswith("clip/"):
            assert model.weights_tag == "openai"


@pytest.mark.filterwarnings("ignore")
def test_its_code_runs(photographs, tmp_path, monkeypatch, resmem_model) -> None:
    (tmp_path / "photos").mkdir()
    for name, image in zip("ab", photographs, strict=False):
        image.save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    inputs = torch.stack([resmem_model.transform(image) for image in photographs[:2]])
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    scope: dict[str, object] = {"my_batches": [inputs]}
    exec(compile(block, "migration.md", "exec"), scope)
    assert scope["ids"].tolist() == ["a.png", "b.png"]
    exported = np.load(tmp_path / "exported" / "f.features.layer2.4.npy")
    captured = scope["arrays"]["features.layer2.4"]
    assert scope["features"].shape == captured.shape == (2, 512 * 29 * 29)
    assert np.array_equal(exported, scope["features"])
    assert np.abs(captured - exported).max() <= 1e-5 * np.abs(exported).max()
