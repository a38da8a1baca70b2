"""What every source of networks has to do; each source's test inherits this.

A test class sets the class attributes and, where it can, says what the source's own library makes
of an image and of a batch: those are the oracles. The fixtures are in `conftest.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resmem_extract import load_model
from resmem_extract.errors import UnknownModelError, UnknownModuleError
from resmem_extract.models import list_models
from resmem_extract.models.base import Model

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    """max|a - b| / max|b|, the project's measure, written anew."""
    return float(np.abs(a - b).max() / np.abs(b).max()) if np.abs(b).max() else float(a.any())


def hook_everything(network: nn.Module, inputs: torch.Tensor) -> dict[str, list[np.ndarray]]:
    """Every tensor that every module returned, by plain hooks on the full network."""
    seen: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            while not isinstance(output, torch.Tensor):
                output = next(iter(output.values() if isinstance(output, dict) else output))
            seen.setdefault(name, []).append(output.detach().clone().numpy())

        return hook

    handles = [m.register_forward_hook(keep(n or "output")) for n, m in network.named_modules()]
    with torch.inference_mode():
        network(inputs)
    for handle in handles:
        handle.remove()
    return seen


class SourceConformance:
    """Inherit as ``class TestMine(SourceConformance)``."""

    source: str
    name: str
    """A small network of it, with a tag for weights that are on this machine, or ``@random``."""
    modules: Sequence[str]
    """Paths into it: an early, a middle, a late one; `output` is added."""
    engine: str = "graph"
    """Which engine is expected to be able to run it."""
    unlike: str = "resnet17"
    """A name that the source does not have."""

    def own_transform(self, model: Model) -> Callable[[Image.Image], torch.Tensor] | None:
        """Return what the source's own library does to an image; None where it does nothing."""
        return None

    def own_output(self, model: Model, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return what the source's own library returns for a batch, with the same weights."""
        return None

    def test_it_is_listed(self, model: Model) -> None:
        name = self.name.partition("@")[0]
        assert name in [entry.name for entry in list_models(self.source)]
        assert model.source == self.source
        assert model.name.partition("@")[0] == name
        assert not any(module.training for module in model.network.modules())

    def test_activations_equal_plain_hooks(self, capture, expected, inputs) -> None:
        if TORCH >= (2, 1):  # torch.fx of older ones cannot follow all of them
            assert (capture.engine == "hooks") == (self.engine == "hooks")  # or graph, or fused
        found = capture(inputs)
        assert len(found) == len({*self.modules}) + 1
        for one in capture.captured:
            reference = expected[one.target.module][one.target.call]
            reference = np.moveaxis(reference, one.batch_axis, 0)
            assert found[one.path].shape == reference.shape == (3, *one.shape)
            assert deviation(found[one.path], reference) <= 1e-5, one.path

    def test_preprocessing_is_the_sources_own_to_the_last_bit(self, model, photographs) -> None:
        transform = self.own_transform(model)
        if transform is None:
            pytest.skip("the source has no transform of its own")
        for image in photographs:
            own = transform(image)
            ours = model.preprocessing.batch(np.stack([model.preprocessing.image(image)]))[0]
            assert ours.dtype == own.dtype == torch.float32
            assert torch.equal(ours, own)

    def test_output_is_the_sources_own(self, model, inputs) -> None:
        with torch.inference_mode():
            own = self.own_output(model, inputs)
            if own is None:
                pytest.skip("there is nothing to compare with")
            assert deviation(model.network(inputs).numpy(), own.numpy()) <= 1e-6

    def test_batch_axis_at_two_sizes(self, capture, inputs) -> None:
        whole = capture(inputs)
        for n in (1, 2):
            part = capture(inputs[:n])
            for path, values in part.items():
                assert values.shape == (n, *whole[path].shape[1:])
                assert deviation(values, whole[path][:n]) <= 1e-4, path

    def test_it_is_deterministic(self, model, capture, inputs) -> None:
        again = load_model(self.name)
        assert again.state_dict_sha256 == model.state_dict_sha256
        assert again.preprocessing.describe() == model.preprocessing.describe()
        first, second = capture(inputs), capture(inputs)
        assert all(np.array_equal(first[path], second[path]) for path in first)

    def test_structure_alone_has_the_same_modules(self, model) -> None:
        bare = load_model(self.name, structure_only=True)
        assert bare.paths.names == model.paths.names
        listed = {info.path: info for info in bare.list_modules()}
        assert listed["output"].shape is not None and listed["output"].calls == 1
        shapes = {n: tuple(t.shape) for n, t in bare.network.state_dict().items()}
        assert shapes == {n: tuple(t.shape) for n, t in model.network.state_dict().items()}

    def test_it_travels_to_another_process(self, model, inputs) -> None:
        parcel = io.BytesIO()
        torch.save((model.network, model.preprocessing), parcel)
        parcel.seek(0)
        network, preprocessing = torch.load(parcel, weights_only=False)
        assert preprocessing.describe() == model.preprocessing.describe()
        assert network.state_dict().keys() == model.network.state_dict().keys()

    def test_unknown_names_are_answered_with_near_ones(self, model) -> None:
        with pytest.raises(UnknownModelError) as raised:
            load_model(f"{self.source}/{self.unlike}")
        assert f"`resmem-extract models --source {self.source}` lists all" in str(raised.value)
        module = self.modules[-1].partition("@")[0]
        with pytest.raises(UnknownModuleError) as unknown:
            model.paths.resolve(f"{module}zz")
        assert "did you mean" in str(unknown.value) or "children" in str(unknown.value)
