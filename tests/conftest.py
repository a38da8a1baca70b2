"""What several tests share: real photographs, ResMem with its real weights, and PyPI's ResMem."""

from __future__ import annotations

import importlib.util
import os
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

# One thread for each test process and for what it starts: the tests themselves run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TORCH = tuple(int(part) for part in metadata.version("torch").split(".")[:2])

UNITS = (
    "images", "store", "transforms", "compare", "report", "capture", "models", "pipeline", "cli",
    "thingsvision",
)  # fmt: skip
"""Folders of tests, from the lowest layer of the package to the highest."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``: tests that take minutes too."""
    parser.addoption("--long", action="store_true", help="run tests marked long as well")


# Beside thingsvision there is none, and these cannot even be imported.
if importlib.util.find_spec("rsatoolbox") is None:
    collect_ignore = [f"compare/test_{name}.py" for name in (
        "build", "comparators", "inference", "interop",
    )]  # fmt: skip
    collect_ignore.append("pipeline/test_compare_models.py")


@pytest.fixture(scope="module")
def _products_are_as_narrow_as_activations():
    """Keep few images of few features from being multiplied in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resmem_extract.gram.arrays._CHEAP", 0)
        yield


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is left out."""
    ignored = ", ".join(globals().get("collect_ignore", ()))
    return [f"without rsatoolbox, not collected: {ignored}"] if ignored else []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package, or a torch, that is not here."""
    for marker in item.iter_markers("needs"):
        for package in marker.args:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"needs {package}")
    if item.get_closest_marker("freezing") and TORCH < (2, 1):
        pytest.skip("this torch cannot freeze weights")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run quick tests before slow ones, and low layers before what stands on them."""
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def place(item: pytest.Item) -> tuple[bool, int]:
        slow = item.get_closest_marker("slow") is not None
        unit = item.path.parent.name
        return slow, UNITS.index(unit) if unit in UNITS else -1

    items.sort(key=place)


@pytest.fixture(scope="session")
def photographs() -> list:
    """Four RGB photographs of different sizes, from scikit-image and scikit-learn."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return [Image.fromarray(a) for a in (data.astronaut(), data.coffee(), china, flower)]


@pytest.fixture(scope="session")
def resmem_model():
    """Our ResMem with the released weights of the installed distribution."""
    from resmem_extract import load_model

    return load_model("resmem")


@pytest.fixture(scope="session")
def resmem_paths():
    """All module paths of ResMem; on the meta device, so without weights."""
    from resmem_extract import load_model

    return load_model("resmem", structure_only=True).paths


@pytest.fixture(scope="session")
def resmem_oracle():
    """PyPI's own ResMem with its released weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision in a deprecated way
        import resmem

        return resmem.ResMem(pretrained=True).eval()


@pytest.fixture(scope="session")
def resmem_pixels(photographs):
    """The photographs as PyPI's `resmem.transformer` prepares them, `[4, 3, 227, 227]`."""
    import resmem
    import torch

    return torch.stack([resmem.transformer(image) for image in photographs])


@pytest.fixture
def kriegeskorte92(monkeypatch):
    """The 92 images and RDMs of Kriegeskorte et al., where a copy lies beside the checkout."""
    from resmem_extract import datasets

    parents = Path(__file__).resolve().parents
    places = [parent / "shared" / "data" for parent in parents[2:4]]
    if own := os.environ.get(datasets.DATA_VARIABLE):
        places.insert(0, Path(own))
    for place in places:
        if (place / "kriegeskorte92" / "rdms.npz").is_file():
            monkeypatch.setenv(datasets.DATA_VARIABLE, str(place))
            return datasets.kriegeskorte92()
    pytest.skip(f"no kriegeskorte92 in {' or '.join(map(str, places))}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
