from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import LabelEncoder

import resmem_extract as rx
from resmem_extract.errors import RequestError
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

LABELS = ["dog", "cat", "bird", "dog", "wild/cat"]


@pytest.fixture
def store(tmp_path) -> Path:
    spec = ActivationSpec("conv1", "conv1", (1,), ("image", "unit"))
    ids = [f"{label}/{i}.jpg".lstrip("/") for i, label in enumerate(LABELS)]
    with StoreWriter(tmp_path / "f.h5", [spec], 5) as writer:
        writer.append(ids, ["0" * 64] * 5, {"conv1": np.zeros((5, 1), np.float32)})
        columns = {
            "label": LABELS,
            "session": [2, 1, 10, 2, 2],
            "halves": ["a", "", "a", "b", ""],
            "class": [2.0, np.nan, 1.0, 2.0, 0.0],
        }
        writer.finish(columns, provenance={"model": "m"})
    return tmp_path / "f.h5"


def test_numbers_are_those_of_scikit_learn(store) -> None:
    found = rx.targets(store)
    encoder = LabelEncoder().fit(LABELS)
    assert found.classes == tuple(encoder.classes_)
    assert np.array_equal(found.numbers, encoder.transform(LABELS))
    lines = found.to_csv().splitlines()
    assert lines[:2] == ["image_id,class,target", "dog/0.jpg,dog,2"]
    assert rx.targets(store, column="session").classes == ("1", "10", "2")


def test_a_column_that_is_not_there(store) -> None:
    with pytest.raises(RequestError, match="has no column 'lable' of the images; it has label"):
        rx.targets(store, column="lable")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("halves", "2 images of 5 have no halves, first 'cat/1.jpg'"),
        ("class", "1 image of 5 have no class, first 'cat/1.jpg'"),
    ],
)
def test_an_image_without_a_class_is_in_none(store, column, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rx.targets(store, column=column)
