"""Networks of Keras, as thingsvision has them, in the form that our engine runs: a module a layer.

TensorFlow computes; every layer has a child of its own name, through which its output passes.
Images are channels last there, `[n, height, width, channels]`, and so are the activations.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow
import torch
from PIL import Image
from torch import nn

from .entries import Parts
from .preprocessing import Callback

__all__ = ["KerasNetwork", "keras_parts", "made_anew"]


class KerasLayer(nn.Module):
    """Hands on what a layer of Keras has returned."""

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the same tensor."""
        return activation


class KerasNetwork(nn.Module):
    """A functional model of Keras whose layers are modules."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._layers = [layer.name.replace(".", "_") for layer in model.layers]
        self._model = tensorflow.keras.Model(model.input, [la.output for la in model.layers])
        for name in self._layers:
            self.add_module(name, KerasLayer())
        for weight in model.weights:  # nothing is computed with these: they are there to be hashed
            array = np.array(weight.numpy(), copy=True)
            self.register_buffer(re.sub(r"[^\w]", "_", weight.name), torch.from_numpy(array))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the last layer does for float32 images `[n, height, width, channels]`."""
        returned = self._model(images.float().cpu().numpy(), training=False)
        for name, values in zip(self._layers, returned, strict=True):
            activation = torch.from_numpy(np.array(values, copy=True)).to(images.device)
            last: torch.Tensor = self.get_submodule(name)(activation)
        return last


@dataclass(frozen=True)
class _Transform:
    """thingsvision's transform of one image, a model of Keras, from and to arrays."""

    layers: Any

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """Return an image `[height, width, channels]`, prepared."""
        array = tensorflow.keras.preprocessing.image.img_to_array(image)
        prepared: npt.NDArray[np.float32] = self.layers(array).numpy()
        return prepared


def keras_parts(extractor: Any) -> Parts:
    """Return what belongs to an extractor of thingsvision whose backend is TensorFlow."""
    transform = _Transform(extractor.get_transformations())
    network = KerasNetwork(extractor.model).eval()
    return Parts(network, Callback(transform, "thingsvision.get_transformations"))


@contextlib.contextmanager
def made_anew() -> Iterator[None]:
    """Make the networks of Keras that are built meanwhile depend on torch's current seed alone.

    Keras numbers the names of layers on from those of earlier networks, and draws seeds of layers
    from Python's generator.
    """
    seed = torch.initial_seed() % 2**31
    before = random.getstate()
    tensorflow.keras.backend.reset_uids()
    tensorflow.random.set_seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
