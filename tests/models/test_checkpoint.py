"""State dicts in every form that training programs write, and files that must not be opened."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resmem_extract.errors import WeightsError
from resmem_extract.models.checkpoint import fill, read_state_dict, state_dict_sha256


def straightforward_hash(state: dict[str, torch.Tensor]) -> str:
    text = b""
    for name, tensor in sorted(state.items()):
        values = tensor.numpy()
        text += f"{name} {values.dtype} {list(values.shape)}\n".encode() + values.tobytes("C")
    return hashlib.sha256(text).hexdigest()


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2)).eval()


def test_hash_does_not_depend_on_file_format_order_or_layout(tmp_path: Path) -> None:
    state = small().state_dict()
    expected = straightforward_hash(state)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(dict(reversed(state.items())), tmp_path / "old.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    for name in ("zip.pt", "old.pt"):
        with torch.device("meta"):
            network = small(1)
        fill(network, tmp_path / name)
        assert state_dict_sha256(network.state_dict()) == expected
        assert not any(p.requires_grad for p in network.parameters())
        network.to(memory_format=torch.channels_last)
        assert state_dict_sha256(network.state_dict()) == expected
    assert state_dict_sha256({**state, "0.bias": state["0.bias"] + 1}) != expected


def test_network_computes_in_float32_whatever_the_checkpoint(tmp_path: Path) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in
            small().state_dict().items()}  # fmt: skip
    torch.save(half, tmp_path / "half.pt")
    with torch.device("meta"):
        network = small(1)
    fill(network, tmp_path / "half.pt")
    found = network.state_dict()
    assert {t.dtype for t in found.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(found[name], t.to(found[name].dtype)) for name, t in half.items())


# --- forms ---------------------------------------------------------------------------------------


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS = {
    "plain": lambda s: s,
    "nested": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}, "lr": 0.1}},
    "twice nested": lambda s: {"arch": "x", "model": {"state_dict": s}},
    "DataParallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "compiled DataParallel": lambda s: prefixed(s, "_orig_mod.module."),
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 1}},
    "VISSL": lambda s: {
        "loss": {"a": 1},
        "classy_state_dict": {"base_model": {"model": {"trunk": s, "heads": {}}}},
    },
    "without counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
}


class Versioned(nn.Sequential):
    """Asks for the version that saved it, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest) -> None:
        self.saved_by = metadata["version"]
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_versions_of_modules_are_kept(tmp_path: Path, prefix: str) -> None:
    old = Versioned(nn.Linear(2, 2))
    old._version = 1
    state = (nn.DataParallel(old) if prefix else old).state_dict()
    torch.save(state, tmp_path / "old.pt")
    torch.save(dict(state), tmp_path / "bare.pt")
    for name, version in (("old.pt", 1), ("bare.pt", 2)):
        network = Versioned(nn.Linear(2, 2))
        fill(network, tmp_path / name)
        assert network.saved_by == version


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_every_form_fills_a_network(tmp_path: Path, form: str, device: str) -> None:
    state = small().state_dict()
    torch.save(FORMS[form](state), tmp_path / "w.pt")
    with torch.device(device):
        network = small(1)
    fill(network, tmp_path / "w.pt")
    found = network.state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = small().state_dict()
    save_file(prefixed(state, "module."), tmp_path / "any.name")
    network = small(1)
    fill(network, tmp_path / "any.name")
    assert state_dict_sha256(network.state_dict()) == state_dict_sha256(state)
    content = (tmp_path / "any.name").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-5])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        fill(network, tmp_path / "cut")


def test_a_name_that_is_a_prefix_too_is_left_alone(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    torch.save(Outer().state_dict(), tmp_path / "w.pt")
    fill(Outer(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "best": 0.5}, "holds no state dict, but the keys epoch, best"),
        ({}, "holds no state dict, but nothing"),
        (
            {"0.weight": torch.zeros(4, 3, 3, 3)},
            "another network than Sequential: it lacks 0.bias, 1.weight, 1.bias and 4 more",
        ),
        (
            {**small().state_dict(), "2.weight": torch.zeros(9, 2)},
            "another network than Sequential: 2.weight is [9, 2] there, [2, 2] here",
        ),
        (
            {**small().state_dict(), "head.weight": torch.zeros(9)},
            "another network than Sequential: it has besides head.weight",
        ),
    ],
)
def test_misfits_are_named(tmp_path: Path, content: dict, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as raised:
        fill(small(), tmp_path / "w.pt")
    assert message in str(raised.value)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("how", "share", "message"),
    [
        ("zip", 0, "it is empty"),
        ("zip", 0.5, "it is cut off, as an interrupted download or copy leaves a file"),
        ("old", 0.5, "it is cut off, as an interrupted download or copy leaves a file"),
        ("html", 1, "it begins with b'<!DOCTYPE html>'"),
        ("npz", 1, "it is a zip file of other things"),
        ("folder", 1, "Is a directory"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, how, share, message, trust) -> None:
    path = tmp_path / "w.pt"
    if how in ("zip", "old"):
        torch.save(small().state_dict(), path, _use_new_zipfile_serialization=how == "zip")
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
    elif how == "html":
        path.write_text("<!DOCTYPE html>")
    elif how == "npz":
        with path.open("wb") as stream:
            np.savez(stream, weight=np.zeros(3))
    else:
        path.mkdir()
    with pytest.raises(WeightsError) as raised:
        read_state_dict(path, trust=trust)
    expected = f"({message}); expected a state dict saved by torch.save"
    assert str(raised.value) == f"{path} cannot be read as a checkpoint {expected}"


# --- files that run code -------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def tampered(state: dict, path: Path, mark: Path, how: str) -> None:
    """Save a checkpoint that holds right weights, and runs code."""
    if how == "added":
        torch.save({"state_dict": state, "note": Evil(mark)}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({**state, "x": Evil(mark)}))
    else:  # the pickle inside a good file is replaced
        torch.save(state, path.with_suffix(".good"))
        with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as bad:
            for name in good.namelist():
                evil = name.endswith("data.pkl")
                bad.writestr(name, pickle.dumps(Evil(mark), 2) if evil else good.read(name))


@pytest.mark.parametrize("how", ["added", "pickle", "replaced"])
def test_a_tampered_pickle_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pt"
    tampered(small().state_dict(), path, mark, how)
    with pytest.raises(WeightsError) as raised:
        fill(small(1), path)
    assert not mark.exists()
    assert "no file of tensors alone" in str(raised.value)
    assert "--trust" in str(raised.value) and "weights_only" not in str(raised.value)


def test_trust_opens_what_is_otherwise_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pt"
    state = small().state_dict()
    tampered(state, path, mark, "added")
    found = read_state_dict(path, trust=True)
    assert mark.exists()
    assert state_dict_sha256(found) == state_dict_sha256(state)


def test_a_whole_network_needs_trust(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no file of tensors alone"):
        read_state_dict(tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt", trust=True)
    assert state_dict_sha256(found) == state_dict_sha256(small().state_dict())
