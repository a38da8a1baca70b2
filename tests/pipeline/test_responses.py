"""Responses from every format, and one clear line for what cannot be used."""

from __future__ import annotations

import csv

import h5py
import numpy as np
import pytest

from resmem_extract.encoding import Responses
from resmem_extract.errors import RequestError
from resmem_extract.pipeline.responses import read_responses

N, T = 7, 3
IDS = tuple(f"{k}.png" for k in range(N))


@pytest.fixture
def values(rng):
    return rng.standard_normal((N, T))


def write_csv(path, columns):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def test_all_formats_hold_the_same(values, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(IDS) + "\n")
    np.save(tmp_path / "r.npy", values)
    np.savez(tmp_path / "r.npz", responses=values, image_id=IDS)
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["responses"] = values
        file["image_id"] = [image_id.encode() for image_id in IDS]
    columns = {"image_id": IDS, **{str(k): values[:, k].tolist() for k in range(T)}}
    write_csv(tmp_path / "r.csv", columns)
    for name in ("r.npy", "r.npz", "r.h5", "r.csv"):
        found = read_responses(tmp_path / name, ids if name == "r.npy" else None)
        np.testing.assert_array_equal(found.values, values)
        assert found.ids == IDS
        assert found.targets == ("0", "1", "2")
        assert found.name == name
        assert len(found.sha256) == 64


def test_given_ids_are_for_files_that_have_none(values, tmp_path):
    case(tmp_path, responses=values, image_id=IDS)
    write_csv(tmp_path / "r.csv", {"image_id": IDS, "a": values[:, 0].tolist()})
    ids = tmp_path / "ids.txt"
    for name in ("r.npz", "r.csv"):
        ids.write_text("\n".join(IDS))
        assert read_responses(tmp_path / name, ids).ids == IDS
        ids.write_text("\n".join([IDS[0], *IDS[:0:-1]]))
        expected = r"has ids .* '1\.png' and '6\.png' in row 1; leave --response-ids out"
        with pytest.raises(RequestError, match=expected):
            read_responses(tmp_path / name, ids)


@pytest.mark.parametrize("key", ["run", "session", "split", "subject"])
def test_numbers_of_runs_are_no_target(values, tmp_path, key):
    numbers = [k // 4 for k in range(N)]
    np.savez(tmp_path / "r.npz", **{"V1": values, key: numbers}, image_id=IDS)
    write_csv(tmp_path / "r.csv", {"image_id": IDS, key: numbers, "V1": values[:, 0].tolist()})
    for name, targets in (("r.npz", ("V1.0", "V1.1", "V1.2")), ("r.csv", ("V1",))):
        found = read_responses(tmp_path / name)
        assert found.targets == targets
        assert found.labels[key].tolist() == [str(k) for k in numbers]


def test_parquet(values, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image_id": IDS, "a": values[:, 0], "session": ["x"] * N}
    parquet.write_table(pyarrow.table(columns), tmp_path / "r.parquet")
    found = read_responses(tmp_path / "r.parquet", labels=["session"])
    np.testing.assert_array_equal(found.values, values[:, :1])
    assert found.targets == ("a",)
    assert found.labels["session"].tolist() == ["x"] * N
    columns["__index_level_0__"] = range(N)  # as pandas names the numbers of rows
    parquet.write_table(pyarrow.table(columns), tmp_path / "r.parquet")
    with pytest.raises(RequestError, match=r"column 4 has no name .*index=False"):
        read_responses(tmp_path / "r.parquet")


def test_voxels_of_a_mask(tmp_path, rng):
    nibabel = pytest.importorskip("nibabel")
    volumes = rng.standard_normal((4, 5, 6, N)).astype(np.float32)
    mask = np.zeros((4, 5, 6), dtype=np.int16)
    mask[1, 2, 3], mask[2, 0, 5], mask[3, 4, 0] = 1, 2, 2
    nibabel.save(nibabel.Nifti1Image(volumes, np.eye(4)), tmp_path / "r.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "m.nii")
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(IDS))
    found = read_responses(tmp_path / "r.nii.gz", ids, tmp_path / "m.nii")
    assert found.targets == ("1-2-3", "2-0-5", "3-4-0")
    assert found.rois == ("1", "2", "2")
    np.testing.assert_array_equal(found.values[:, 1], volumes[2, 0, 5])
    assert found.grid.shape == (4, 5, 6)
    assert found.grid.places.tolist() == [[1, 2, 3], [2, 0, 5], [3, 4, 0]]
    with pytest.raises(RequestError, match=r"mask .* has shape \(2, 2, 2\); expected \(4, 5, 6\)"):
        nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), tmp_path / "w.nii")
        read_responses(tmp_path / "r.nii.gz", ids, tmp_path / "w.nii")
    with pytest.raises(RequestError, match="give --mask FILE"):
        read_responses(tmp_path / "r.nii.gz", ids)
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4) + 1e-5), tmp_path / "near.nii")
    assert read_responses(tmp_path / "r.nii.gz", ids, tmp_path / "near.nii").n_targets == 3
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([2.0, 1, 1, 1])), tmp_path / "far.nii")
    expected = r"far\.nii has the affine \[\[2\.0, .*r\.nii\.gz has \[\[1\.0, .* resample the mask"
    with pytest.raises(RequestError, match=expected):
        read_responses(tmp_path / "r.nii.gz", ids, tmp_path / "far.nii")
    whole = (tmp_path / "r.nii.gz").read_bytes()
    for size in (0, len(whole) // 2):  # volumes are read, and found to be missing, late
        (tmp_path / "r.nii.gz").write_bytes(whole[:size])
        with pytest.raises(RequestError, match=r"r\.nii\.gz cannot be read as NIfTI"):
            read_responses(tmp_path / "r.nii.gz", ids, tmp_path / "m.nii")


def test_arrays_are_regions_and_stacks_are_repeats(tmp_path, rng):
    v1, it = rng.standard_normal((2, N, 4)), rng.standard_normal((2, N, 2))
    np.savez(tmp_path / "r.npz", V1=v1, IT=it, image_id=IDS, ncsnr=np.arange(6))
    found = read_responses(tmp_path / "r.npz")
    assert found.rois == ("V1",) * 4 + ("IT",) * 2
    assert found.targets[3:5] == ("V1.3", "IT.0")
    assert found.ids == IDS * 2
    assert found.repeated
    averaged = found.averaged()
    assert averaged.ids == IDS
    np.testing.assert_allclose(averaged.values[:, 4:], it.mean(axis=0))
    assert averaged.ncsnr.tolist() == [0, 1, 2, 3, 4, 5]


def test_order_never_matters_and_repeats_come_together(values, rng):
    responses = Responses(values, IDS, ("a", "b", "c"))
    order = rng.permutation(N)
    shuffled = responses.rows(order)
    wanted = [IDS[3], IDS[0], IDS[6], "else"]
    with pytest.raises(RequestError, match=r"responses to 4 images without activations \('"):
        shuffled.of_images(wanted[:3])
    for given in (responses, shuffled):
        found = given.of_images(wanted, skip_missing=True)
        assert found.ids == (IDS[3], IDS[0], IDS[6])
        np.testing.assert_array_equal(found.values, values[[3, 0, 6]])
    expected = r"no image in common: one has '0.png', the other 'x'; give responses to its images"
    with pytest.raises(RequestError, match=expected):
        responses.of_images(["x"], skip_missing=True)
    with pytest.raises(RequestError, match="endings 2 are the same: extract with --id stem"):
        responses.of_images(["0.jpg", "a/1.jpg", "x.jpg"], skip_missing=True)


def test_a_target_may_have_no_ceiling(values, tmp_path):
    given = {"ceiling": [1.0, np.nan, 0.3], "ncsnr": [0.0, np.nan, 12.0]}
    found = read_responses(case(tmp_path, a=values, image_id=IDS, **given))
    np.testing.assert_array_equal(found.ceiling, given["ceiling"])
    np.testing.assert_array_equal(found.ncsnr, given["ncsnr"])


def case(tmp_path, **arrays):
    np.savez(tmp_path / "r.npz", **arrays)
    return tmp_path / "r.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((N, 2))}, r"no 'image_id' .*--response-ids FILE"),
        ({"image_id": IDS}, "holds no responses"),
        ({"image_id": IDS, "a": np.zeros((2, N))}, r"\(2, 7\); expected \[7, targets\].*transpose"),
        ({"image_id": IDS, "a": np.zeros((5, 2))}, r"shape \(5, 2\); expected \[7, targets\]"),
        (
            {"image_id": IDS, "a": np.zeros((N, 2), complex)},
            "a holds complex128; expected real numbers",
        ),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "target": ["x"]}, "2 different names; 1 names"),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "target": ["x"] * 2}, "'x' is there twice"),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "ncsnr": [1.0]},
            "ncsnr has 1 values, expected 2",
        ),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "roi": ["x"]}, "roi has 1 values, expected 2"),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "ceiling": [0.5, 1.7]},
            r"ceiling holds 1\.7; expected the largest r, above 0, up to 1 .*NaN for a target",
        ),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "ceiling": [0.0, 0.5]}, "ceiling holds 0; expec"),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "ncsnr": [0.0, -1.0]},
            "ncsnr holds -1; expected a ratio, 0 or above",
        ),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "ncsnr": ["a", "b"]}, "ncsnr holds text; expect"),
        (
            {"image_id": IDS, "a": np.full((N, 2), -1e200)},
            r"values up to 1e\+200, whose squares .*; expected 1e\+15 at most, .* larger unit",
        ),
        (
            {"image_id": IDS, "a": np.full((N, 2), np.nan)},
            r"NaN or infinite in 2 targets \(a.0, a.1",
        ),
        ({"image_id": IDS, "a": np.zeros((N, 2)), "coordinates": [[1, 2]]}, r"expected \[2, 2\]"),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "coordinates": [[3, 1, 2], [0, -38, 1]]},
            r"coordinates holds -38; expected voxel indices, whole numbers from 0\. .*apply_affine",
        ),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "coordinates": [[1, 2.5], [0, 1]]},
            r"coordinates holds 2\.5; expected voxel indices.*rint",
        ),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "coordinates": [[1, np.nan], [0, 1]]},
            "coordinates holds nan; expected voxel indices",
        ),
        (
            {"image_id": IDS, "a": np.zeros((N, 2)), "coordinates": [["1", "2"], ["0", "1"]]},
            "coordinates holds <U1; expected voxel indices",
        ),
    ],
)
def test_wrong_arrays_get_one_line(arrays, message, tmp_path):
    with pytest.raises(RequestError, match=message) as caught:
        read_responses(case(tmp_path, **arrays))
    assert "\n" not in str(caught.value)
    assert "r.npz" in str(caught.value)


def test_the_indices_that_an_affine_gives_are_places(tmp_path):
    """Those that the message has one type; MATLAB's are whole numbers of type double."""
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    voxels = np.array([[45, 20, 40], [30, 11, 36]])
    mm = nibabel.affines.apply_affine(affine, voxels)
    arrays = {"image_id": IDS, "a": np.zeros((N, 2))}
    with pytest.raises(RequestError, match="voxel indices"):
        read_responses(case(tmp_path, **arrays, coordinates=mm))
    found = np.rint(nibabel.affines.apply_affine(np.linalg.inv(affine), mm))
    for indices in (found, found.astype(int)):
        grid = read_responses(case(tmp_path, **arrays, coordinates=indices)).grid
        np.testing.assert_array_equal(grid.places, voxels)
        assert grid.places.dtype.kind == "i"


def test_an_rdm_is_not_taken_for_responses(tmp_path, rng):
    points = rng.standard_normal((N, 2))
    square = np.linalg.norm(points[:, None] - points, axis=2)
    np.save(tmp_path / "r.npy", square)
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    order = rng.permutation(N)
    columns = {"image_id": IDS, **{IDS[k]: square[:, k].tolist() for k in order}}
    write_csv(tmp_path / "r.csv", columns)
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["IT"], file["image_id"] = np.tril(square), list(IDS)
    case(tmp_path, IT=np.stack([square, square]), image_id=IDS)
    for name in ("r.npy", "r.csv", "r.h5", "r.npz"):
        with pytest.raises(RequestError, match=rf"is an RDM; .* rsa STORE --reference .*{name}"):
            read_responses(tmp_path / name, tmp_path / "ids.txt" if name == "r.npy" else None)
    square[0, 1] += 1  # as many targets as images are fine
    assert read_responses(case(tmp_path, IT=square, image_id=IDS)).n_targets == N


def test_columns_of_texts_say_something_of_images(tmp_path):
    (tmp_path / "r.csv").write_text("image_id,session,split,t\nx,one,train,1\ny,two,test,2\n")
    found = read_responses(tmp_path / "r.csv")
    assert (found.targets, set(found.labels)) == (("t",), {"session", "split"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line of names"),
        ("id,a\nx,1\n", "no column 'image_id'; expected it"),
        ("image_id,a\nx,1\ny\n", "line 3: 1 cells; expected 2"),
        ("image_id,a,a\nx,1,2\n", "two columns are named 'a'"),
        (",image_id,a\n0,x,1\n1,y,2\n", "column 1 has no name .* index=False"),
        ("Unnamed: 0,image_id,a\n0,x,1\n1,y,2\n", "column 1 has no name .*'Unnamed: 0'"),
        ("image_id,a,\nx,1,\ny,2,\n", "column 3 has no name"),
        ("x,1,5\ny,2,7\n", "the first line is x, 1, .* line of names"),
        ("image_id,a\nx,cat\ny,1\n", "column 'a' holds 'cat'; expected numbers"),
        ("image_id,a\nx,cat\ny,dog\n", "no column of responses beside image_id, a"),
        ("image_id,a\nx,\ny,2\n", "NaN or infinite in 1 target"),
        ("image_id\nx\n", "no column of responses"),
    ],
)
def test_wrong_tables_get_one_line(text, message, tmp_path):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_responses(tmp_path / "r.csv")


def test_wrong_files_get_one_line(tmp_path):
    for name, message in (
        ("no.npz", "does not exist"),
        ("r.txt", "expected npy, npz"),
        ("r.h5", "not an HDF5 file"),
        ("r.npy", "cannot be read"),
        ("r0.npy", "cannot be read as an npy file: No data left in file"),
    ):
        if name.startswith("r"):
            (tmp_path / name).write_text("" if "0" in name else "text")
        with pytest.raises(RequestError, match=message):
            read_responses(tmp_path / name, None)
    with pytest.raises(RequestError, match="is a folder"):
        read_responses(tmp_path)


def test_a_column_with_decimal_commas_is_no_label(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('image_id,a,b\nx.png,"1,5",2\ny.png,"0,25",3\n')
    with pytest.raises(RequestError, match=r"column 'a' holds '1,5'; expected numbers"):
        read_responses(path)
