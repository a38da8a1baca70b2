"""Finding and naming stimuli: ids, order, columns, and every input that is refused."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resmem_extract.decoding import IMAGE_FORMATS
from resmem_extract.errors import RequestError
from resmem_extract.images import IMAGE_EXTENSIONS, StimulusSet, find_images, sample_photographs
from resmem_extract.images.columns import typed


def put(folder: Path, *names: str) -> Path:
    """Make empty files; no image is opened when stimuli are found."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(source: object, **options: str) -> str:
    """Return the one line with which a source is refused."""
    with pytest.raises(RequestError) as caught:
        find_images(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


# --- folders ---


def test_a_folder_is_searched_recursively_and_sorted_by_id(tmp_path):
    put(tmp_path, "b.jpg", "a/z.PNG", "a/y.tiff", "a.jpg", "a/deep/er/x.webp", "B.gif")
    found = find_images(tmp_path)
    assert found.ids == ("B.gif", "a.jpg", "a/deep/er/x.webp", "a/y.tiff", "a/z.PNG", "b.jpg")
    assert found.paths == tuple(tmp_path / image_id for image_id in found.ids)
    assert found.columns["label"].tolist() == ["", "", "a/deep/er", "a", "a", ""]
    assert (found.root, found.notes, len(found)) == (str(tmp_path), (), 6)


def test_a_flat_folder_has_no_label(tmp_path):
    assert find_images(put(tmp_path, "1.jpg", "10.jpg", "2.jpg")).columns == {}


def test_root_and_paths_are_absolute(tmp_path, monkeypatch):
    put(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_images("photos")
    assert found.root == str(tmp_path / "photos")
    assert found.paths == (tmp_path / "photos/a.jpg",)


@given(st.sets(st.text("ab/.é中 ", min_size=1, max_size=6), min_size=1, max_size=6))
def test_ids_of_any_names_are_their_sorted_paths(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    files = {"/".join(f"x{part}" for part in name.split("/")) + ".jpg" for name in names}
    put(folder, *files)
    assert find_images(folder).ids == tuple(sorted(files))


def test_hidden_entries_are_left_out_and_other_files_are_counted(tmp_path):
    folder = put(tmp_path / "photos", "a.jpg", ".b.jpg", ".git/c.jpg", "notes.txt", "x/d.HEIC", "e")
    found = find_images(folder)
    assert found.ids == ("a.jpg",)
    assert found.notes == (
        "3 files in photos/ are not images by their extension and were left out"
        " (.heic, .txt, no extension)",
    )


def test_one_other_file_is_told_in_the_singular(tmp_path):
    (note,) = find_images(put(tmp_path / "p", "a.jpg", "b.txt")).notes
    assert note == "1 file in p/ is not an image by its extension and was left out (.txt)"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    elsewhere = put(tmp_path / "elsewhere", "e.jpg")
    folder = put(tmp_path / "photos", "a/a.jpg")
    (folder / "b").symlink_to(elsewhere)
    (folder / "c").symlink_to(folder / "a")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    found = find_images(folder)
    assert found.ids == ("a/a.jpg", "b/e.jpg", "c/a.jpg")
    assert found.columns["label"].tolist() == ["a", "b", "c"]
    left_out, loops = found.notes
    assert "1 file in photos/" in left_out
    assert "links that lead back to a folder they lie in were not followed: 2" in loops
    assert "a/up" in loops


def test_a_dangling_link_and_a_pipe(tmp_path):
    """A broken link is an image that cannot be read; a pipe would block its reader for ever."""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find_images(tmp_path).ids == ("gone.jpg",)


def test_stems(tmp_path):
    put(tmp_path, "a/x.tar.jpg", "y.PNG")
    assert find_images(tmp_path, id_form="stem").ids == ("x.tar", "y")
    assert find_images(tmp_path / "y.PNG", id_form="stem").ids == ("y",)


def test_a_single_image(tmp_path):
    put(tmp_path, "one.JPG")
    found = find_images(tmp_path / "one.JPG")
    assert (found.ids, found.paths) == (("one.JPG",), (tmp_path / "one.JPG",))
    assert found.root == str(tmp_path / "one.JPG")


# --- lists and tables ---


def test_a_list_keeps_ids_as_written_and_their_order(tmp_path):
    put(tmp_path, "in/b.jpg", "in/a b.jpg", "c.jpg")
    text = f"# mine\r\n\n  in/b.jpg \nin/../c.jpg\r{tmp_path}/c.jpg\n\tin/a b.jpg"
    source = tmp_path / "list.lst"
    source.write_bytes(text.encode())
    found = find_images(source)
    assert found.ids == ("in/b.jpg", "in/../c.jpg", f"{tmp_path}/c.jpg", "in/a b.jpg")
    assert found.paths[1] == tmp_path / "in/../c.jpg"
    assert found.root == str(source)
    source.write_text("in/b.jpg\nin/a b.jpg")
    assert find_images(source, id_form="stem").ids == ("b", "a b")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_a_table_keeps_order_and_columns(tmp_path, suffix, separator):
    put(tmp_path, "in/b.jpg", "a.jpg")
    source = tmp_path / f"table{suffix}"
    lines = [
        ("score", "path", "kind", "n", "subject", "empty"),
        ("0.5", "in/b.jpg", "fruit", "3", "007", ""),
        ("", "a.jpg", " face", "-4", "010", ""),
    ]
    text = "\r\n".join(separator.join(line) for line in lines)
    source.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    found = find_images(source)
    assert found.ids == ("in/b.jpg", "a.jpg")
    assert found.paths == (tmp_path / "in/b.jpg", tmp_path / "a.jpg")
    assert {name: column.dtype.kind for name, column in found.columns.items()} == {
        "score": "f", "kind": "U", "n": "i", "subject": "U", "empty": "U",
    }  # fmt: skip
    np.testing.assert_array_equal(found.columns["score"], [0.5, np.nan])
    assert found.columns["kind"].tolist() == ["fruit", " face"]
    assert found.columns["n"].tolist() == [3, -4]


def test_given_ids_are_kept_whatever_the_form(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    source = written(tmp_path / "t.csv", 'image_id,path\n"x, 1.5",a.jpg\ny.5,b.jpg\n')
    assert find_images(source).ids == find_images(source, id_form="stem").ids == ("x, 1.5", "y.5")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_become_int64(values):
    column = typed([str(value) for value in values])
    assert column.dtype == np.int64
    assert column.tolist() == values


@given(st.lists(st.none() | st.floats(width=64), min_size=1).filter(lambda v: v != [None] * len(v)))
def test_numbers_become_float64_and_empty_cells_nan(values):
    column = typed(["" if value is None else f"{value!r}" for value in values])
    if column.dtype == np.float64:
        np.testing.assert_array_equal(column, [math.nan if v is None else v for v in values])
    else:  # more digits before the point than a float64 surely holds
        assert any(v is not None and 1e15 <= abs(v) < math.inf for v in values)


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "x"],
        ["007"],
        ["1_000"],
        ["٣"],
        ["", ""],
        ["9223372036854775808"],
        ["12345678901234567", ""],
    ],
)
def test_all_else_stays_the_text_that_it_was(cells):
    column = typed(cells)
    assert column.dtype.kind == "U"
    assert column.tolist() == cells


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(lambda t: f"x{t}"),
        min_size=1,
    )
)
def test_any_text_survives_the_table(tmp_path_factory, cells):
    folder = put(tmp_path_factory.mktemp("table"), *(f"{k}.jpg" for k in range(len(cells))))
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("path", "note"), *((f"{k}.jpg", cell) for k, cell in enumerate(cells))]
        )
    assert find_images(folder / "t.csv").columns["note"].tolist() == cells


# --- what is refused ---


def test_sources_that_are_not_there(tmp_path):
    message = refusal(tmp_path / "photoz")
    assert str(tmp_path / "photoz") in message
    assert "a CSV with a column 'path'" in message
    assert "No such file" in message
    assert "empty" in refusal("")
    assert "null" in refusal("a\0b")
    assert "too long" in refusal("x" * 5000)
    assert "\\n" in refusal(tmp_path / "new\nline")


def test_an_unknown_form_of_ids(tmp_path):
    assert "'path' or 'stem', not 'name'" in refusal(put(tmp_path, "a.jpg"), id_form="name")


def test_sources_without_images(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty).startswith(f"no images in {empty}; image files end in .avif")
    message = refusal(put(tmp_path / "texts", "a.txt", "b/c.npy"))
    assert "no images in" in message
    assert "it holds 2 other files (.npy, .txt)" in message
    assert "no images in" in refusal(written(tmp_path / "l.txt", "# nothing\n\n"))
    assert "no images in" in refusal(written(tmp_path / "t.csv", "path,a\n"))
    assert "no images in" in refusal(written(tmp_path / "u.csv", ""))


def test_two_images_with_one_id_are_both_named(tmp_path):
    put(tmp_path, "in/a.jpg", "a.png")
    message = refusal(tmp_path, id_form="stem")
    for part in ("the id a:", f"{tmp_path}/in/a.jpg", f"{tmp_path}/a.png", "--id path"):
        assert part in message
    assert "the id a.png" in refusal(written(tmp_path / "l.txt", "a.png\nin/a.jpg\na.png\n"))
    table = written(tmp_path / "t.csv", "path,image_id\na.png,k\nin/a.jpg,k\n")
    assert "the id k:" in refusal(table)


@pytest.mark.parametrize(
    "name", [b"caf\xe9.jpg", b"caf\xe9/a.jpg", b"caf\xe9.npy", b"caf\xe9.h5", b"caf\xe9.tar"]
)
def test_names_that_are_not_utf8(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - Path takes no bytes
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb"):  # noqa: PTH123
        pass
    message = refusal(os.fsdecode(path))
    assert "not valid UTF-8" in message
    assert "caf\\udce9" in message
    if name.endswith(b".jpg"):
        assert "not valid UTF-8" in refusal(tmp_path)


def test_a_folder_whose_own_name_is_not_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    put(folder, "a.jpg")
    assert "\\udcff" in refusal(folder)


def test_names_of_several_lines(tmp_path):
    assert "'a\\nb.jpg' holds a NUL or a newline" in refusal(put(tmp_path, "a\nb.jpg"))
    with pytest.raises(RequestError, match="NUL or a newline"):
        StimulusSet(("a\0",), (tmp_path,))


def test_ids_that_are_too_long_or_empty(tmp_path):
    put(tmp_path, "/".join(["d" * 200] * 5 + ["long_enough_to_pass_it.jpg"]))
    assert "1031 bytes long, more than 1024" in refusal(tmp_path)
    with pytest.raises(RequestError, match="an image id is empty"):
        StimulusSet(("",), (tmp_path,))


def test_listed_files_that_do_not_exist(tmp_path):
    put(tmp_path, "a.jpg")
    (tmp_path / "folder").mkdir()
    text = f"a.jpg\nnope.jpg\nfolder\n{'x' * 300}.jpg\n"
    message = refusal(written(tmp_path / "l.txt", text))
    assert "3 of the 4 files listed" in message
    assert f"first {tmp_path / 'nope.jpg'}" in message
    assert "1 of the 1 files" in refusal(written(tmp_path / "t.csv", "path\nb.jpg\n"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("file,x\na.jpg,1\n", "has no column 'path', only file, x"),
        ("path;x\na.jpg;1\n", "has no column 'path', only path;x; is ';' the separator?"),
        ("path;x\na.jpg;1,5\n", "is ';' the separator? save it with ','"),
        ("file,id\na.jpg,1\n", "has no column 'path', only file, id"),
        ("path,x\na.jpg\n", "line 2: 1 values for 2 columns"),
        ("path\na.jpg\n\na.jpg,2\n", "line 4: 2 values for 1 columns"),
        ("path,x,x\na.jpg,1,2\n", "two columns are named 'x'"),
        ("path,path\na.jpg,1\n", "two columns are named 'path'"),
        ("path,id\na.jpg,1\n", "cannot be named 'id'"),
        ("path,sha256\na.jpg,1\n", "cannot be named 'sha256'"),
        ("path,row\na.jpg,1\n", "cannot be named 'row'"),
        ("path,a/b\na.jpg,1\n", "cannot be named 'a/b'"),
        ("path,.\na.jpg,1\n", "cannot be named '.'"),
        ("path,\na.jpg,1\n", "cannot be named ''"),
        ("path,x\n ,1\n", "'path' is empty in row 1"),
        ("path,image_id\na.jpg,\n", "'image_id' is empty in row 1"),
        ('path\n"a.jpg"x\n', "line 2: not a CSV"),
        ('path\n"a.jpg\n', "not a CSV"),
        ('path\n"a\nb.jpg"\n', "holds a NUL or a newline"),
    ],
)
def test_tables_that_cannot_be_kept(tmp_path, text, part):
    put(tmp_path, "a.jpg")
    assert part in refusal(written(tmp_path / "t.csv", text))


@pytest.mark.parametrize("data", [b"caf\xe9.jpg", b"a\0b.jpg", b"x" * 5000 + b"\0"])
@pytest.mark.parametrize("name", ["l.txt", "t.csv", "photo.heic", "noext"])
def test_files_that_are_not_text(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    assert "neither an image by its extension nor UTF-8 text" in refusal(tmp_path / name)


def test_folders_and_lists_that_may_not_be_read(tmp_path, monkeypatch):
    """Tests may run as root, who may read everything; so the refusal itself is simulated."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    listing = written(put(tmp_path, "a.jpg") / "l.txt", "a.jpg")
    monkeypatch.setattr(os, "scandir", refuse)
    assert f"the folder {tmp_path} cannot be read: Permission denied" in refusal(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    assert "l.txt cannot be read: Permission denied" in refusal(listing)


def test_a_set_of_unequal_lengths(tmp_path):
    with pytest.raises(ValueError, match="one length"):
        StimulusSet(("a", "b"), (tmp_path,))
    with pytest.raises(ValueError, match="one length"):
        StimulusSet(("a",), (tmp_path,), {"x": np.zeros(2)})


# --- samples and the table of extensions ---


def test_sample_photographs_are_those_of_the_installed_packages():
    import skimage.data
    import sklearn.datasets

    found = sample_photographs()
    by_id = dict(zip(found.ids, found.paths, strict=True))
    china = np.asarray(Image.open(by_id["sklearn/china.jpg"]))
    np.testing.assert_array_equal(china, sklearn.datasets.load_sample_image("china.jpg"))
    astronaut = np.asarray(Image.open(by_id["skimage/astronaut.png"]))
    np.testing.assert_array_equal(astronaut, skimage.data.astronaut())
    assert found.ids == tuple(sorted(found.ids))
    assert found.columns == {}
    assert found.notes == (f"{len(found)} real photographs that installed packages bring along",)


def test_sample_photographs_without_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    found = sample_photographs()
    assert found.ids == ("sklearn/china.jpg", "sklearn/flower.jpg")
    assert "`pip install scikit-image` gives more" in found.notes[0]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RequestError, match="pip install scikit-image"):
        sample_photographs()


def test_nothing_heavy_is_imported():
    code = (
        "import sys, resmem_extract.images as i, resmem_extract.decoding; i.sample_photographs();"
        "print(*{'torch', 'h5py', 'pandas', 'sklearn', 'skimage', 'scipy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_extension_is_one_of_a_format_that_is_decoded():
    known = Image.registered_extensions()
    unknown = {extension for extension in IMAGE_EXTENSIONS if extension not in known}
    assert unknown <= {".avif"}  # Pillow before 11.3
    assert {known[extension] for extension in IMAGE_EXTENSIONS - unknown} <= {*IMAGE_FORMATS}


# --- a list in Python ---


def test_a_list_of_paths_is_as_a_text_list(tmp_path, monkeypatch):
    put(tmp_path, "b.jpg", "a.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_images(["b.jpg", tmp_path / "a.jpg"])
    assert found.ids == ("b.jpg", str(tmp_path / "a.jpg"))
    assert found.paths == (tmp_path / "b.jpg", tmp_path / "a.jpg")
    assert find_images(("b.jpg", "a.jpg"), id_form="stem").ids == ("b", "a")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a.jpg", "a.jpg"], "two images have the id a.jpg"),
        ([], "no images in images"),
        (["a.jpg", 3], "images: expected a path, got int"),
        (b"a.jpg", "images: expected a path, got bytes"),
        (["c.jpg"], "1 of the 1 files listed in images do not exist"),
        (["http://x.org/c.jpg"], "URLs are not fetched; download the images first"),
        ("https://x.org/c.jpg", "URLs are not fetched; download the images first"),
        (Path("https://x.org/c.jpg"), "URLs are not fetched"),
        ("", "images '': empty; is a shell variable unset?"),
    ],
    ids=str,
)
def test_what_is_no_list_of_paths(tmp_path, monkeypatch, source, message):
    put(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert message in refusal(source)


def test_a_name_that_begins_like_a_comment(tmp_path):
    put(tmp_path, "#1.jpg")
    found = find_images(written(tmp_path / "l.txt", "# mine\n  #1.jpg  \n#2.jpg\n"))
    assert found.ids == ("#1.jpg",)
