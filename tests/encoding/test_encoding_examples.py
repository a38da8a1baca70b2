"""The examples run, and show what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.long
def test_the_true_layer_of_voxels_is_named(tmp_path):
    shares = example("encoding_voxels").run(tmp_path, 160, 40)
    assert min(shares.values()) >= 0.8  # of few crops of 20 photographs
    names = {path.name for path in (tmp_path / "encode").iterdir()}
    assert {"scores.csv", "best.csv", "model.h5", "profile.png", "best.png"} <= names


@pytest.mark.slow
def test_categories_of_92_objects(kriegeskorte92, tmp_path):
    result = example("encoding_categories").run(tmp_path, permutations=19)
    assert result.targets == ("human", "face", "animal", "natural")
    # Categories of objects are what late layers tell apart, and the first one does not.
    face = result.table[:, 1]
    assert face.argmax() >= 3
    assert face.max() > 0.8 > 0.4 > face[0]
