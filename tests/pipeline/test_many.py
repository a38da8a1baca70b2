"""Several networks over the same images: one decoding, one file a network."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from PIL import Image

import resmem_extract as rx
from resmem_extract.errors import RequestError
from resmem_extract.models.preprocessing import ResizeAndCrop


@pytest.fixture(scope="module")
def narrow(resmem):
    """ResMem with another name and another preprocessing."""
    return dataclasses.replace(
        resmem, name="my/narrow", preprocessing=ResizeAndCrop((240, 240), 227)
    )


def values(path, module):
    with h5py.File(path) as file:
        return file["features"][module][()], file["images/id"][()].tolist()


def test_each_file_equals_an_extraction_of_its_own(resmem, narrow, photos, tmp_path):
    summaries = rx.extract_many([resmem, narrow], ["conv1", "my/narrow:fc6"], photos, out=tmp_path)
    assert [s.out.name for s in summaries] == ["resmem.h5", "my_narrow.h5"]
    assert [[spec.path for spec in s.modules] for s in summaries] == [["conv1"], ["conv1", "fc6"]]
    for model, summary in zip((resmem, narrow), summaries, strict=True):
        rx.extract(model, "conv1", photos, out=tmp_path / "alone.h5", overwrite=True)
        together, ids = values(summary.out, "conv1")
        alone, same_ids = values(tmp_path / "alone.h5", "conv1")
        np.testing.assert_array_equal(together, alone)
        assert ids == same_ids
    one, two = (values(s.out, "conv1")[0] for s in summaries)
    assert abs(one - two).max() > 0.1


def test_images_are_decoded_once(resmem, narrow, photos, tmp_path, monkeypatch):
    decoded = []
    convert = Image.Image.convert

    def counted(image, *args, **kwargs):
        decoded.append(image)
        return convert(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "convert", counted)
    rx.extract(resmem, "conv1", photos, out=tmp_path / "alone.h5")
    once = len(decoded)
    rx.extract_many([resmem, narrow], "conv1", photos, out=tmp_path / "both")
    assert len(decoded) == 2 * once


def test_what_is_there_stays_and_what_is_missing_is_added(resmem, narrow, photos, tmp_path):
    (first,) = rx.extract_many([resmem], "conv1", photos, out=tmp_path)
    before = first.out.stat().st_mtime_ns
    summaries = rx.extract_many([resmem, narrow], "conv1", photos, out=tmp_path)
    assert [s.already_complete for s in summaries] == [True, False]
    assert first.out.stat().st_mtime_ns == before
    assert values(summaries[1].out, "conv1")[0].shape == (5, 48, 55, 55)


def test_wrong_requests(resmem, photos, tmp_path):
    with pytest.raises(RequestError, match="not all different; name each once"):
        rx.extract_many([resmem, resmem], "conv1", photos, out=tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RequestError, match="is a file; several networks need a folder"):
        rx.extract_many([resmem], "conv1", photos, out=file)
