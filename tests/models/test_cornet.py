from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from conformance import SourceConformance, deviation, hook_everything
from torch.nn import functional as f

from resmem_extract import load_model
from resmem_extract.capture import prepare
from resmem_extract.models.cornet import _NETWORKS

PUBLISHED = {  # parameters, entries of the state dict, hash of their names and shapes
    "cornet_z": (2_071_656, 10, "b8de2ba54a733898"),
    "cornet_r": (5_208_936, 30, "762d5c18998b4da1"),
    "cornet_rt": (5_208_936, 30, "762d5c18998b4da1"),
    "cornet_s": (53_416_616, 164, "c42c0cc44ba81f4e"),
}
"""Of the authors' own definitions, at commit d0cc17d of their repository."""


class TestZ(SourceConformance):
    source = "cornet"
    name = "cornet/cornet_z@random"
    modules = ("V1.conv", "V4", "IT.output", "decoder.avgpool")

    def own_transform(self, model):
        from torchvision import transforms as t

        normalise = t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return t.Compose([t.Resize(256), t.CenterCrop(224), t.ToTensor(), normalise])


class TestRT(SourceConformance):
    source = "cornet"
    name = "cornet/cornet_rt@random"
    modules = ("V1.output@0", "V4.conv_input@3", "IT.output@1", "IT.output@4")


@pytest.mark.slow
class TestS(SourceConformance):
    source = "cornet"
    name = "cornet/cornet_s@random"
    modules = ("V1", "V4.conv2@0", "V4.nonlin3@3", "IT.output@0", "decoder.linear")


@pytest.mark.parametrize("name", PUBLISHED)
def test_checkpoints_have_the_published_layout(name: str) -> None:
    state = load_model(f"cornet/{name}", structure_only=True).network.state_dict()
    text = "\n".join(f"{key} {list(t.shape)}" for key, t in sorted(state.items()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(t.numel() for key, t in state.items() if not key.endswith(buffers))
    assert (parameters, len(state), digest) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_loads(name: str, tmp_path) -> None:
    """The authors save networks inside DataParallel, beside the state of the training."""
    source = load_model(f"cornet/{name}@random7").network
    state = {f"module.{key}": t for key, t in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1.5, "optimizer": {"state": {}}}, tmp_path / "c.pth")
    found = load_model(f"cornet/{name}", weights=tmp_path / "c.pth").network.state_dict()
    assert all(torch.equal(t, found[key]) for key, t in source.state_dict().items())


def group_norm(x, module):
    return f.group_norm(x, 32, module.weight, module.bias)


def area_r(area, x, held):
    """One recurrent area, written out."""
    if x is not None:
        x = f.conv2d(x, area.conv_input.weight, area.conv_input.bias,
                     area.conv_input.stride, area.conv_input.padding)  # fmt: skip
        x = f.relu(group_norm(x, area.norm_input))
    summed = held if x is None else x + held
    return f.relu(group_norm(f.conv2d(summed, area.conv1.weight, padding=1), area.norm1))


@pytest.mark.parametrize("name", ["cornet_r", "cornet_rt"])
def test_recurrence_written_out(name: str) -> None:
    model = load_model(f"cornet/{name}@random")
    network, x = model.network, model.noise()(2)
    seen = hook_everything(network, x)
    areas = {a: getattr(network, a) for a in ("V1", "V2", "V4", "IT")}
    sides = dict(zip(areas, (56, 28, 14, 7), strict=True))
    held = {a: torch.zeros(2, area.channels, sides[a], sides[a]) for a, area in areas.items()}
    with torch.inference_mode():
        for step in range(5):
            old, before = dict(held), None
            for a, area in areas.items():
                if a == "V1":
                    arrives = x
                elif step == 0:
                    arrives = None
                else:
                    arrives = (held if name == "cornet_r" else old)[before]
                held[a] = area_r(area, arrives, old[a])
                assert deviation(seen[f"{a}.output"][step], held[a].numpy()) <= 1e-6, (a, step)
                before = a
        scores = f.linear(held["IT"].mean((2, 3)), network.decoder.linear.weight,
                          network.decoder.linear.bias)  # fmt: skip
    assert deviation(seen["output"][0], scores.numpy()) <= 1e-6


def test_steps_of_rt_depend_on_the_image_one_area_later_each() -> None:
    """At step t the image has reached area t + 1; before, an area is equal for all images."""
    model = load_model("cornet/cornet_rt@random")
    areas = ("V1", "V2", "V4", "IT")
    paths = [f"{area}.output@{step}" for area in areas for step in range(5)]
    addresses = [address for path in paths for address in model.paths.resolve(path)]
    capture = prepare(model.network, addresses, model.noise(), device=torch.device("cpu"))
    found = capture(model.noise()(2))
    assert list(found) == paths
    for depth, area in enumerate(areas):
        for step in range(5):
            a, b = found[f"{area}.output@{step}"]
            assert np.array_equal(a, b) == (step < depth), (area, step)


def batch_norm(x, module):
    return f.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def test_steps_of_s_written_out() -> None:
    model = load_model("cornet/cornet_s@random")
    network, inputs = model.network, model.noise()(2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so that the norms of steps differ
            module.weight.data.uniform_(0.5, 1.5)
    seen = hook_everything(network, inputs)
    x = torch.from_numpy(seen["V1"][0])
    with torch.inference_mode():
        for a, steps in {"V2": 2, "V4": 4, "IT": 2}.items():
            area = getattr(network, a)
            x = f.conv2d(x, area.conv_input.weight)
            for step in range(steps):
                norms = [getattr(area, f"norm{i}_{step}") for i in (1, 2, 3)]
                first = step == 0
                skip = batch_norm(f.conv2d(x, area.skip.weight, stride=2), area.norm_skip)
                skip = skip if first else x
                x = f.relu(batch_norm(f.conv2d(x, area.conv1.weight), norms[0]))
                x = f.conv2d(x, area.conv2.weight, stride=2 if first else 1, padding=1)
                x = f.conv2d(f.relu(batch_norm(x, norms[1])), area.conv3.weight)
                x = f.relu(batch_norm(x, norms[2]) + skip)
                assert deviation(seen[f"{a}.output"][step], x.numpy()) <= 1e-5, (a, step)


def test_all_four_are_listed_with_the_authors_files() -> None:
    files = [w.url for entry in load_entries() for w in entry.weights.values()]
    assert files == [
        f"https://s3.amazonaws.com/cornet-models/{name}-{digits}.pth"
        for name, (_, digits, _) in _NETWORKS.items()
    ]


def load_entries():
    from resmem_extract.models import list_models

    return list_models("cornet")
