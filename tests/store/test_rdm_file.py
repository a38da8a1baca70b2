"""RDMs in HDF5: there and back, and as plain h5py sees them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from resmem_extract.errors import RequestError, StoreError
from resmem_extract.rdm import RDM
from resmem_extract.store import is_rdm_file, read_rdms, write_rdms

IDS = ("katze/1 ä.jpg", "b", "c")


def records() -> list[RDM]:
    return [
        RDM(np.array([1, 2, 3]), IDS, "cosine", "timm/x:blocks.0", provenance={"é": 1}),
        RDM(np.array([4, 5, 6]), IDS, "correlation", "timm/x:blocks.0"),
        RDM(np.arange(6).reshape(2, 3), ("x", "y", "z"), "", "human/IT", ("TI", "BE")),
    ]


def test_there_and_back(tmp_path):
    write_rdms(tmp_path / "rdms.h5", records())
    back = {(r.name, r.metric): r for r in read_rdms(tmp_path / "rdms.h5")}
    assert len(back) == 3
    for record in records():
        found = back[record.name, record.metric]
        np.testing.assert_array_equal(found.dissimilarities, record.dissimilarities)
        assert (found.ids, found.subjects) == (record.ids, record.subjects)
        assert found.provenance == record.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["rdms.h5"]


def test_plain_h5py_reads_it(tmp_path):
    write_rdms(tmp_path / "rdms.h5", records())
    with h5py.File(tmp_path / "rdms.h5") as file:
        group = file["rdms/timm%2Fx:blocks.0/cosine"]
        assert group["dissimilarities"][:].tolist() == [1, 2, 3]
        assert group["image_id"].asstr()[:].tolist() == list(IDS)
        assert group.attrs["name"] == "timm/x:blocks.0"


def test_what_cannot_be_kept_apart_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(RequestError, match="there twice under cosine"):
        write_rdms(tmp_path / "rdms.h5", [records()[0], records()[0]])
    with pytest.raises(RequestError, match="x has no ids of images"):
        write_rdms(tmp_path / "rdms.h5", [RDM(np.ones(3), None, "", "x")])
    assert not list(tmp_path.iterdir())


def test_other_files_are_told_apart(tmp_path):
    (tmp_path / "text.h5").write_text("x")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "resmem-extract"
    for name in ("text.h5", "other.h5", "missing.h5"):
        assert not is_rdm_file(tmp_path / name)
        with pytest.raises(StoreError, match="is not a file of RDMs"):
            read_rdms(tmp_path / name)


def test_a_newer_version_is_refused(tmp_path):
    write_rdms(tmp_path / "rdms.h5", records())
    with h5py.File(tmp_path / "rdms.h5", "a") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(StoreError, match="newer version"):
        read_rdms(tmp_path / "rdms.h5")
