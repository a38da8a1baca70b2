from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import NAMES, draw
from PIL import Image
from small_model import small

import resmem_extract as rx


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Batches of two are fastest so, above all where tests share the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of one's own: a test may spoil them."""
    for seed, name in enumerate(NAMES):
        draw(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def resmem() -> rx.Model:
    return rx.load_model("resmem")


@pytest.fixture
def predictor() -> rx.Model:
    """A quick network that says that it predicts memorability."""
    return replace(small(), aliases={"memorability": "output"})


@pytest.fixture(scope="session")
def oracle() -> Callable[..., dict[str, np.ndarray]]:
    """PyPI resmem under plain hooks: from paths to activations, and `output`."""
    package = pytest.importorskip("resmem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = package.ResMem(pretrained=True).eval()

    def run(paths: list[Path], *modules: str) -> dict[str, np.ndarray]:
        kept: dict[str, Any] = {}
        handles = [
            network.get_submodule(name).register_forward_hook(
                lambda _m, _i, out, name=name: kept.__setitem__(name, out.clone().numpy())
            )
            for name in modules
        ]
        inputs = [package.transformer(Image.open(path).convert("RGB")) for path in paths]
        with torch.inference_mode():
            output = network(torch.stack(inputs)).numpy()
        for handle in handles:
            handle.remove()
        return {**kept, "output": output}

    return run
