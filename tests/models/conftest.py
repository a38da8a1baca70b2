"""Fixtures of `conformance.SourceConformance`, made once for each class."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conformance import hook_everything

from resmem_extract import load_model
from resmem_extract.capture import prepare


@pytest.fixture(scope="class")
def model(request):
    """The network that a test class names."""
    return load_model(request.cls.name)


@pytest.fixture(scope="class")
def inputs(model, photographs):
    """Three photographs, prepared."""
    pictures = [model.preprocessing.image(image) for image in photographs[:3]]
    return model.preprocessing.batch(np.stack(pictures))


@pytest.fixture(scope="class")
def capture(request, model):
    """All that a test class names, ready to be captured."""
    paths = [*request.cls.modules, "output"]
    addresses = [address for path in paths for address in model.paths.resolve(path)]
    network = copy.deepcopy(model.network)
    return prepare(network, addresses, model.noise(), device=torch.device("cpu"))


@pytest.fixture(scope="class")
def expected(model, inputs):
    """What every module returned for the inputs, by plain hooks on the full network."""
    return hook_everything(model.network, inputs)
