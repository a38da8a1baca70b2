"""RDMs to and from rsatoolbox, its files, npz, and crossvalidated distances."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import rsatoolbox

from resmem_extract.compare import (
    RDM,
    crossnobis,
    from_rsatoolbox,
    read_npz,
    to_rsatoolbox,
    write_npz,
)
from resmem_extract.errors import MissingExtraError, RequestError, StoreError

IDS = ("b.png", "a.png", "ü.png", "d.png")


@pytest.fixture
def one(rng) -> RDM:
    return RDM(rng.random(6), IDS, "correlation", "resmem:fc", provenance={"features": 3})


@pytest.fixture
def several(rng) -> RDM:
    return RDM(rng.random((3, 6)), IDS, "correlation", "human_IT", ("TI", "BE", "SN"))


def same(a: RDM, b: RDM) -> bool:
    return np.array_equal(a.dissimilarities, b.dissimilarities) and (
        a.ids,
        a.metric,
        a.name,
        a.subjects,
    ) == (b.ids, b.metric, b.name, b.subjects)


def test_there_and_back(one, several):
    assert same(from_rsatoolbox(to_rsatoolbox(one)), one)
    assert same(from_rsatoolbox(to_rsatoolbox(several)), several)


def test_what_rsatoolbox_sees(one, several):
    theirs = to_rsatoolbox([one, several])
    assert (theirs.n_rdm, theirs.n_cond, theirs.dissimilarity_measure) == (4, 4, "correlation")
    np.testing.assert_array_equal(theirs.get_matrices()[0], one.square())
    np.testing.assert_array_equal(theirs.get_matrices()[1:], several.square())
    assert theirs.pattern_descriptors["image_id"] == list(IDS)
    assert theirs.rdm_descriptors["name"] == ["resmem:fc", *["human_IT"] * 3]
    assert theirs.rdm_descriptors["subject"] == ["", "TI", "BE", "SN"]


def test_a_file_of_rsatoolbox(several, tmp_path):
    several = replace(several, ids=tuple("abcd"))  # theirs are ASCII
    to_rsatoolbox(several).save(str(tmp_path / "r.hdf5"))
    assert same(from_rsatoolbox(rsatoolbox.rdm.load_rdm(str(tmp_path / "r.hdf5"))), several)


def test_other_descriptors_can_hold_the_ids(rng):
    theirs = rsatoolbox.rdm.RDMs(
        rng.random((1, 6)), pattern_descriptors={"conds": list("wxyz"), "class": [0, 0, 1, 1]}
    )
    assert from_rsatoolbox(theirs).ids == ("w", "x", "y", "z")
    theirs.pattern_descriptors["file"] = list(IDS)
    with pytest.raises(RequestError, match="Candidates: conds, file"):
        from_rsatoolbox(theirs)
    assert from_rsatoolbox(theirs, ids="file").ids == IDS
    with pytest.raises(RequestError, match="no pattern descriptor 'files'; it has conds"):
        from_rsatoolbox(theirs, ids="files")


def test_positions_are_no_ids(rng):
    with pytest.raises(RequestError, match="Candidates: none; add one named 'image_id'"):
        from_rsatoolbox(rsatoolbox.rdm.RDMs(rng.random((1, 6))))


def test_rdms_of_other_images_or_metrics_do_not_go_together(one, several):
    with pytest.raises(RequestError, match="not of the same images in the same order"):
        to_rsatoolbox([one, several.subset(IDS[::-1])])
    with pytest.raises(RequestError, match="of metric 'cosine'"):
        to_rsatoolbox([one, RDM(np.ones(6), IDS, "cosine", "x")])


def test_without_rsatoolbox_the_command_that_installs_it_is_named(one, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsatoolbox", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[rsa\]'"):
        to_rsatoolbox(one)


# --- npz -----------------------------------------------------------------------------------------


def test_npz_there_and_back(one, several, tmp_path):
    write_npz(tmp_path / "r.npz", [one, several])
    back = read_npz(tmp_path / "r.npz")
    assert [record.name for record in back] == ["resmem:fc", "human_IT"]
    assert same(back[0], one)
    assert same(back[1], several)
    assert back[0].provenance == {"features": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def test_npz_of_others(rng, tmp_path):
    """Such as those that come with Kriegeskorte's 92 images."""
    square = to_rsatoolbox(RDM(rng.random((3, 6)), IDS, "", "x")).get_matrices()
    np.savez(
        tmp_path / "r.npz",
        IT=square[0],
        IT_subjects=square[:2],
        others=square,
        subject=["x", "y"],
        image_id=IDS,
        seconds=np.ones((2, 3)),
    )
    mean, two, three = read_npz(tmp_path / "r.npz")
    assert (mean.name, mean.ids, mean.subjects) == ("IT", IDS, ())
    assert (two.subjects, three.subjects) == (("x", "y"), ("0", "1", "2"))
    np.testing.assert_array_equal(two.square(), square[:2])


def test_npz_without_ids_is_refused(rng, tmp_path):
    np.savez(tmp_path / "r.npz", it=np.zeros((3, 3)))
    with pytest.raises(RequestError, match="no key 'image_id'"):
        read_npz(tmp_path / "r.npz")
    assert read_npz(tmp_path / "r.npz", ids="xyz")[0].ids == ("x", "y", "z")
    np.savez(tmp_path / "s.npz", it=np.zeros(3), image_id=list("abc"))
    with pytest.raises(RequestError, match="has no RDM: no square matrix under it, image_id"):
        read_npz(tmp_path / "s.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"image_id,x\n"])
def test_what_is_no_npz_is_refused(content, tmp_path):
    (tmp_path / "r.npz").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read as an npz file"):
        read_npz(tmp_path / "r.npz")


def test_npz_refuses_what_it_cannot_say(one, several, tmp_path):
    with pytest.raises(RequestError, match="not of the same images"):
        write_npz(tmp_path / "r.npz", [one, several.subset(IDS[::-1])])
    with pytest.raises(RequestError, match="'resmem:fc' is taken"):
        write_npz(tmp_path / "r.npz", [one, one])
    assert not list(tmp_path.iterdir())


# --- crossvalidated distances --------------------------------------------------------------------


def test_crossnobis_is_the_mean_over_folds_of_products_of_differences(rng):
    runs, images, channels = 3, ["c", "a", "b"], 7
    patterns = rng.standard_normal((runs, 3, channels))
    square_root = rng.standard_normal((channels, channels))
    noise = square_root @ square_root.T
    record = crossnobis(
        patterns.reshape(-1, channels),
        images * runs,
        np.repeat(np.arange(runs), 3),
        noise_precision=noise,
        name="V1",
    )
    assert (record.ids, record.metric, record.name) == (("a", "b", "c"), "crossnobis", "V1")
    a, b = patterns[:, images.index("a")], patterns[:, images.index("b")]
    folds = []
    for test in range(runs):
        train = [run for run in range(runs) if run != test]
        difference = a[train].mean(axis=0) - b[train].mean(axis=0)
        folds.append(difference @ noise @ (a[test] - b[test]) / channels)
    assert record.square()[0, 1] == pytest.approx(np.mean(folds), rel=1e-10)


def test_crossnobis_refuses_what_cannot_be_crossvalidated(rng):
    with pytest.raises(RequestError, match="1 run; crossvalidation takes two"):
        crossnobis(rng.random((3, 2)), "abc", [1, 1, 1])
    with pytest.raises(RequestError, match="run 2 has no measurement of b"):
        crossnobis(rng.random((3, 2)), "aba", [1, 1, 2])
    with pytest.raises(RequestError, match="a measurement of b is NaN"):
        crossnobis(np.array([[1.0], [np.nan]]), "ab", [1, 2])
    with pytest.raises(RequestError, match="2 ids and 3 runs"):
        crossnobis(rng.random((3, 2)), "ab", [1, 1, 2])
