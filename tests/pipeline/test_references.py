"""References in every format: what is read, and how each mistake is answered."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from resmem_extract.compare import RDM, crossnobis, to_rsatoolbox, write_npz
from resmem_extract.errors import RequestError
from resmem_extract.pipeline.id_lists import read_id_list
from resmem_extract.pipeline.references import read_references
from resmem_extract.store import write_rdms

IDS = ("b.png", "a.png", "c.png", "d.png", "e.png")


@pytest.fixture
def patterns(rng) -> np.ndarray:
    return rng.standard_normal((5, 8))


@pytest.fixture
def square(patterns) -> np.ndarray:
    return squareform(pdist(patterns, "correlation"))


def only(path: Path | str, ids=None):
    (reference,) = read_references(str(path), ids)
    return reference


def test_npz_of_rdms_and_one_of_its_keys(square, tmp_path):
    np.savez(tmp_path / "it.npz", human=square, monkey=square * 2, image_id=IDS)
    found = read_references(str(tmp_path / "it.npz"))
    assert [reference.name for reference in found] == ["human", "monkey"]
    chosen = only(f"{tmp_path / 'it.npz'}:monkey")
    np.testing.assert_allclose(chosen.rdm.square(), square * 2)
    assert chosen.rdm.ids == IDS
    assert len(chosen.sha256) == 64
    with pytest.raises(RequestError, match="has no reference 'humen'; it has human"):
        read_references(f"{tmp_path / 'it.npz'}:humen")


def test_npz_of_patterns(patterns, square, tmp_path):
    np.savez(tmp_path / "v.npz", V1=patterns, image_id=IDS)
    reference = only(tmp_path / "v.npz")
    assert reference.rdm is None
    np.testing.assert_allclose(reference.rdm_of("correlation", "1GB").square(), square)
    centred = patterns - patterns.mean(axis=0)
    np.testing.assert_allclose(reference.kernel("1GB").matrix, centred @ centred.T, atol=1e-12)


def test_as_many_channels_as_images(square, rng, tmp_path):
    """A square array is an RDM unless the file tells something of its channels."""
    patterns = rng.random((5, 5))
    arrays = {"V1": patterns, "stack": np.stack([patterns, patterns + 1]), "IT": square}
    np.savez(tmp_path / "v.npz", **arrays, image_id=IDS, target=list("abcde"))
    v1, stack, it = read_references(str(tmp_path / "v.npz"))
    np.testing.assert_array_equal(v1.patterns, patterns)
    assert (stack.patterns.shape, stack.subjects) == ((2, 5, 5), ("0", "1"))
    np.testing.assert_allclose(it.rdm.square(), square)
    np.savez(tmp_path / "v.npz", V1=patterns, image_id=IDS)
    with pytest.raises(RequestError, match=r"no dissimilarities; .*5 columns are channels, name"):
        only(tmp_path / "v.npz")


def test_patterns_of_several_subjects(patterns, tmp_path):
    np.savez(
        tmp_path / "v.npz", V1=np.stack([patterns, 2 * patterns]), image_id=IDS, subject=["x", "y"]
    )
    reference = only(tmp_path / "v.npz")
    made = reference.rdm_of("euclidean", "1GB")
    assert made.subjects == ("x", "y")
    np.testing.assert_allclose(made.square()[1], squareform(pdist(2 * patterns)))
    assert reference.kernel("1GB") is None
    assert reference.note == ""  # they have names
    np.savez(tmp_path / "v.npz", V1=np.stack([patterns, 2 * patterns]), image_id=IDS)
    note = only(tmp_path / "v.npz").note
    assert "V1 [2, 5, 8] is taken for 2 subjects; if they are repeats, average them" in note


def test_upper_triangles_and_one_rating_an_image(square, tmp_path):
    triangle = squareform(square)
    arrays = {"one": triangle, "two": np.stack([triangle, 2 * triangle]), "rating": square[0]}
    np.savez(tmp_path / "r.npz", **arrays, image_id=IDS, subject=["x", "y"])
    one, two, rating = read_references(str(tmp_path / "r.npz"))
    np.testing.assert_allclose(one.rdm.square(), square)
    np.testing.assert_allclose(two.rdm.square()[1], 2 * square)
    assert two.rdm.subjects == ("x", "y")
    made = rating.rdm_of("euclidean", "1GB").square()
    np.testing.assert_allclose(made, np.abs(square[0] - square[0][:, None]))
    with pytest.raises(RequestError, match="rating has one unit"):
        rating.rdm_of("correlation", "1GB")


def test_other_keys_do_not_stand_in_the_way(patterns, tmp_path):
    arrays = {"V1": patterns, "image_id": np.array(IDS, dtype="S"), "run": [1] * 5}
    np.savez(tmp_path / "v.npz", **arrays)
    assert only(tmp_path / "v.npz").ids == IDS
    np.savez(tmp_path / "v.npz", **arrays, notes="of 2008")
    assert only(f"{tmp_path / 'v.npz'}:V1").ids == IDS
    with pytest.raises(RequestError, match=r"notes holds text; .* v\.npz:KEY takes one"):
        only(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", image_id=IDS)
    with pytest.raises(RequestError, match="holds no reference, only image_id"):
        only(tmp_path / "v.npz")


def test_rdms_of_the_matlab_toolbox(square, tmp_path):
    records = np.zeros(2, dtype=[("RDM", object), ("name", object), ("color", object)])
    for k, record in enumerate(records):
        record["RDM"], record["name"] = (k + 1) * squareform(square), f"hIT | S{k}"
        record["color"] = np.zeros(3)
    scipy.io.savemat(tmp_path / "r.mat", {"RDMs": records})
    first, second = read_references(str(tmp_path / "r.mat"), IDS)
    assert (first.name, second.name) == ("hIT | S0", "hIT | S1")
    np.testing.assert_allclose(second.rdm.square(), 2 * square)


def test_npy_needs_ids(square, tmp_path):
    np.save(tmp_path / "it.npy", square)
    with pytest.raises(RequestError, match="give --reference-ids FILE"):
        only(tmp_path / "it.npy")
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    reference = only(tmp_path / "it.npy", read_id_list(tmp_path / "ids.txt"))
    assert (reference.name, reference.rdm.ids) == ("it", IDS)


def test_mat(square, patterns, tmp_path):
    content = {"hIT": square, "V1": patterns, "image_id": np.array(IDS, dtype=object)}
    scipy.io.savemat(tmp_path / "it.mat", content)
    rdm, measured = read_references(str(tmp_path / "it.mat"))
    assert (rdm.name, rdm.rdm.ids) == ("hIT", IDS)
    np.testing.assert_allclose(rdm.rdm.square(), square)
    assert (measured.name, measured.ids) == ("V1", IDS)


@pytest.mark.parametrize("block", [0, 512])  # in which MATLAB writes what the file is
def test_a_mat_file_of_version_7_3_is_refused(block, square, tmp_path):
    with h5py.File(tmp_path / "it.mat", "w", userblock_size=block) as file:
        file["it"] = square
    with pytest.raises(RequestError, match=r"it\.mat is a mat file of version 7\.3; save it"):
        only(tmp_path / "it.mat")


def test_csv_of_an_rdm_and_of_patterns(square, patterns, tmp_path):
    rows = [",".join([i, *map(repr, map(float, row))]) for i, row in zip(IDS, square, strict=True)]
    (tmp_path / "it.csv").write_text("\n".join([",".join(["", *IDS]), *rows]))
    assert only(tmp_path / "it.csv").rdm.ids == IDS
    np.testing.assert_allclose(only(tmp_path / "it.csv").rdm.square(), square)
    rows = [
        "\t".join([i, *map(repr, map(float, row))]) for i, row in zip(IDS, patterns, strict=True)
    ]
    head = "\t".join(["image_id", *"abcdefgh"])
    (tmp_path / "v.tsv").write_text("\n".join([head, *rows]))
    np.testing.assert_array_equal(only(tmp_path / "v.tsv").patterns, patterns)


@pytest.mark.parametrize("head", [",0,1", "image_id,0,1", "Unnamed: 0,0,1", "x,0,y"])
def test_channels_may_be_named_by_numbers(head, tmp_path):
    (tmp_path / "v.csv").write_text(f"{head}\na,3,4\nb,5,6\nc,8,7\n")
    found = only(tmp_path / "v.csv")
    assert found.ids == ("a", "b", "c")
    np.testing.assert_array_equal(found.patterns, [[3, 4], [5, 6], [8, 7]])


def test_images_may_be_named_by_numbers(tmp_path):
    square = squareform(np.arange(1.0, 4))
    path = write_square(tmp_path / "it.csv", "012", "012", square)
    for corner in ("", "images"):
        path.write_text(corner + path.read_text())
        found = only(path).rdm
        assert found.ids == ("0", "1", "2")
        np.testing.assert_array_equal(found.square(), square)


def write_square(path: Path, head, side, square) -> Path:
    rows = [",".join([i, *map(str, row)]) for i, row in zip(side, square, strict=True)]
    path.write_text("\n".join([",".join(["", *head]), *rows]))
    return path


@settings(deadline=None)  # the first file of a process takes long
@given(order=st.permutations(range(5)))
def test_columns_of_a_square_table_are_found_by_name(order, tmp_path_factory):
    square = squareform(np.arange(1.0, 11))
    path = tmp_path_factory.mktemp("permuted") / "it.csv"
    write_square(path, [IDS[k] for k in order], IDS, square[:, order])
    found = only(path).rdm
    assert found.ids == IDS
    np.testing.assert_array_equal(found.square(), square)


@pytest.mark.parametrize("empty", ["", "0.0", "nan"])
@pytest.mark.parametrize("half", [np.tril, np.triu])
def test_one_triangle_is_enough(half, empty, square, tmp_path):
    kept = half(np.ones((5, 5)), 1 if half is np.triu else -1) > 0
    cells = np.where(kept, square.astype(str), empty)
    path = write_square(tmp_path / "it.csv", IDS, IDS, cells)
    np.testing.assert_array_equal(only(path).rdm.square(), square)
    numbers = np.where(kept, square, float(empty or "nan"))
    np.savez(tmp_path / "it.npz", one=numbers, four=np.stack([numbers] * 4), image_id=IDS)
    one, four = read_references(str(tmp_path / "it.npz"))
    np.testing.assert_array_equal(one.rdm.square(), square)
    np.testing.assert_array_equal(four.rdm.square()[3], square)


def test_what_is_nearly_an_rdm_is_refused(square, tmp_path):
    path = write_square(tmp_path / "it.csv", [*IDS[:4], "x.png"], IDS, square)
    with pytest.raises(RequestError, match=r"are an RDM.* its head has 'x\.png', which is no id"):
        only(path)
    askew = square.copy()
    askew[1, 3] += 0.5
    np.savez(tmp_path / "it.npz", it=askew, image_id=IDS)
    expected = rf"it\.npz: it: .* a.png with d.png is {askew[1, 3]:.6g}, d.png with a.png is"
    with pytest.raises(RequestError, match=expected):
        only(tmp_path / "it.npz")
    np.savez(tmp_path / "it.npz", it=square, image_id=[*IDS[:4], IDS[0]])
    with pytest.raises(RequestError, match=r"id 'b\.png' is there twice, and it is an RDM"):
        only(tmp_path / "it.npz")


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (["a", "b"], "'subject' has 2 names, it has 3 subjects; name each"),
        (["a", "b", "a"], "'subject' has 'a' twice; expected 3 different names"),
    ],
)
@pytest.mark.parametrize("kind", ["square", "condensed", "patterns"])
def test_subjects_have_names_of_their_own(kind, subjects, message, square, patterns, tmp_path):
    one = {"square": square, "condensed": squareform(square), "patterns": patterns}[kind]
    np.savez(tmp_path / "it.npz", it=np.stack([one] * 3), image_id=IDS, subject=subjects)
    with pytest.raises(RequestError, match=message):
        only(tmp_path / "it.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, 5), complex), "it holds complex128; expected real numbers"),
        (np.full((5, 5), "a"), "it holds text; expected real numbers"),
        (np.full((5, 5), None), "it holds Python objects; save (an array of )?numbers"),
    ],
)
def test_other_than_numbers_are_refused(array, message, tmp_path):
    np.savez(tmp_path / "it.npz", it=array, image_id=IDS)
    np.save(tmp_path / "it.npy", array)
    for name in ("it.npz", "it.npy"):
        with pytest.raises(RequestError, match=message) as caught:
            only(tmp_path / name, IDS)
        assert "allow_pickle" not in str(caught.value)


@pytest.mark.needs("rsatoolbox")
def test_given_ids_are_for_files_that_have_none(square, tmp_path):
    record = RDM.from_square(square, IDS, metric="correlation", name="it")
    write_rdms(tmp_path / "rdms.h5", [record])
    write_npz(tmp_path / "ours.npz", [record])
    to_rsatoolbox(record).save(str(tmp_path / "theirs.h5"))
    write_square(tmp_path / "it.csv", IDS, IDS, square)
    np.savez(tmp_path / "it.npz", it=square, image_id=IDS)
    scipy.io.savemat(tmp_path / "it.mat", {"it": square, "image_id": np.array(IDS, object)})
    other = ("a.png", "b.png", *IDS[2:])
    for name in ("rdms.h5", "ours.npz", "theirs.h5", "it.csv", "it.npz", "it.mat"):
        assert only(tmp_path / name, IDS).rdm.ids == IDS
        expected = rf"{name} has ids of images, other .* 'b\.png' and 'a\.png' in row 0; leave"
        with pytest.raises(RequestError, match=expected):
            only(tmp_path / name, other)
        with pytest.raises(RequestError, match="gives: 5 and 4 of them; leave --reference-ids out"):
            only(tmp_path / name, IDS[:4])


@pytest.mark.needs("rsatoolbox")
@pytest.mark.parametrize("descriptors", [{}, {"a": [*range(5)], "b": [*range(5)]}])
def test_given_ids_where_rsatoolbox_knows_none(descriptors, square, tmp_path):
    theirs = to_rsatoolbox(RDM.from_square(square, None, name="it"))
    theirs.pattern_descriptors.update(descriptors)
    theirs.save(str(tmp_path / "theirs.h5"))
    with pytest.raises(RequestError, match=r"which pattern .*; add one .* or give --reference-ids"):
        only(tmp_path / "theirs.h5")
    found = only(tmp_path / "theirs.h5", IDS).rdm
    assert found.ids == IDS
    np.testing.assert_allclose(found.square(), square)
    with pytest.raises(RequestError, match="4 ids for 5 images"):
        only(tmp_path / "theirs.h5", IDS[:4])


def test_responses_in_hdf5_are_patterns(patterns, square, tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["V1"], file["image_id"] = patterns, list(IDS)
        file["roi"], file["session"] = ["V1"] * 8, ["x"] * 5
        file["ncsnr"], file["coordinates"] = np.ones(8), np.ones((8, 3), int)
    found = only(tmp_path / "v.h5")
    assert (found.name, found.ids) == ("V1", IDS)
    np.testing.assert_array_equal(found.patterns, patterns)
    np.testing.assert_allclose(found.rdm_of("correlation", "1GB").square(), square)
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_group("V1")
    with pytest.raises(RequestError, match=r"holds no references: .* beside 'image_id'"):
        only(tmp_path / "none.h5")


def test_id_lists(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa b.png \r\n\r\nc\u2028d.png".encode())
    assert read_id_list(path) == ("a b.png", "c\u2028d.png")
    for content, message in ((b"\n", "is empty; expected"), (b"\xff", "is not UTF-8 text")):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=message):
            read_id_list(path)


@pytest.mark.needs("rsatoolbox")
def test_hdf5_of_this_package_and_of_rsatoolbox(square, tmp_path):
    record = RDM.from_square(square, IDS, metric="correlation", name="human/IT")
    write_rdms(tmp_path / "rdms.h5", [record])
    assert only(tmp_path / "rdms.h5").name == "human/IT"
    to_rsatoolbox(record).save(str(tmp_path / "theirs.hdf5"))
    theirs = only(tmp_path / "theirs.hdf5")
    assert (theirs.name, theirs.rdm.ids) == ("theirs", IDS)
    np.testing.assert_allclose(theirs.rdm.square(), square)


def test_our_npz_is_read_again(square, tmp_path):
    record = RDM.from_square(square, IDS, metric="correlation", name="resmem:fc")
    write_npz(tmp_path / "r.npz", [record])
    assert only(tmp_path / "r.npz").rdm.metric == "correlation"


@pytest.mark.needs("rsatoolbox")
def test_repeated_measurements_are_crossvalidated(rng, tmp_path):
    runs, ids = np.repeat([1, 2], 5), IDS * 2
    responses = rng.standard_normal((10, 8))
    np.savez(tmp_path / "v.npz", V1=responses, image_id=ids, run=runs, noise_precision=np.eye(8))
    expected = crossnobis(responses, ids, runs)
    found = only(tmp_path / "v.npz").rdm
    assert (found.metric, found.ids) == ("crossnobis", tuple(sorted(IDS)))
    np.testing.assert_allclose(found.dissimilarities, expected.dissimilarities)
    rows = [
        ",".join([i, str(run), *map(repr, map(float, row))])
        for i, run, row in zip(ids, runs, responses, strict=True)
    ]
    (tmp_path / "v.csv").write_text("\n".join(["image_id,run,a,b,c,d,e,f,g,h", *rows]))
    found = only(tmp_path / "v.csv").rdm
    np.testing.assert_allclose(found.dissimilarities, expected.dissimilarities)
    np.savez(tmp_path / "w.npz", V1=responses, image_id=ids)
    with pytest.raises(RequestError, match="a key 'run' has to tell"):
        only(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("it.txt", b"1", "expected npz, npy, mat, csv, or h5 .* got .txt"),
        ("it.pkl", b"1", "got .pkl"),
        ("it.npy", b"1", "cannot be read"),
        ("it.npy", b"", r"it\.npy cannot be read as an npy file: No data left in file"),
        ("it.npz", b"", "cannot be read as an npz file: File is not a zip file"),
        ("it.mat", b"", r"it\.mat cannot be read as a mat file"),
        ("it.mat", b"1" * 2, "cannot be read as a mat file"),
        ("it.mat", b"1" * 30, "cannot be read as a mat file"),
        ("it.mat", b"1" * 200, "cannot be read as a mat file"),
        ("it.h5", b"1", "is not an HDF5 file"),
        ("it.csv", b"image_id,x\na,one\n", "column 'x' holds 'one'; expected numbers"),
        ("it.csv", b"image_id,x,y\na,1\n", "line 2: 2 cells; expected 3, one a column"),
        ("it.csv", b"image_id;x\na;1\n", "one column; expected columns parted by ','"),
        ("it.csv", b"image_id,x\na,1\na,2\n", "'a' is there twice; if images were measured"),
        ("it.csv", b",image_id,x\n0,a,1\n1,b,2\n", "'image_id' is column 2; .* index=False"),
        ("it.csv", b"image_id,Unnamed: 0,x\na,0,1\nb,1,2\n", "column 2 has no name .*index=False"),
        ("it.csv", b"image_id,x,\na,1,\nb,2,\n", "column 3 has no name"),
        ("it.csv", b"a.png,0.5,0.25\nb.png,1,2\n", "first line is a.png, 0.5, .* line of names"),
        ("it.tsv", b"a.png\t3\nb.png\t1\n", "first line is a.png, 3, .* such as image_id, a, b"),
        ("it.csv", b"0,0.5,0.5\n1,1,2\n", "first line is 0, 0.5, .* line of names"),
        ("it.csv", b"", "empty; expected a line of names"),
        ("it.csv", b"image_id,x\n", "one line; expected a line of names"),
        ("it.csv", b"image_id,x\n\xff,1\n", "cannot be read as a table"),
    ],
)
def test_what_cannot_be_read_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        read_references(str(tmp_path / name))
    assert str(caught.value).isprintable()


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"it\.npz does not exist"):
        read_references(str(tmp_path / "it.npz"))
    with pytest.raises(RequestError, match="is a folder"):
        read_references(str(tmp_path))
    with pytest.raises(RequestError, match="shell variable unset"):
        read_references("")


def test_other_shapes_and_files_are_refused(rng, tmp_path):
    np.savez(tmp_path / "v.npz", V1=rng.random((4, 3)), image_id=IDS)
    with pytest.raises(RequestError, match=r"V1 of shape \(4, 3\) is neither an RDM \[5, 5\]"):
        read_references(str(tmp_path / "v.npz"))
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file.attrs["format"] = "resmem-extract"
    with pytest.raises(RequestError, match="a feature store is given as STORE"):
        read_references(str(tmp_path / "store.h5"))
