"""Images in tars: names, columns, patterns, and damage; Python's `tarfile` writes them."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import pictures, png, write_tar
from test_stacks import refusal

from resmem_extract.decoding import ImageError, load_images
from resmem_extract.images import StimulusSet, find_images
from resmem_extract.images.tar_shards import expand, is_pattern

STACK = pictures()
FILES = [png(picture) for picture in STACK]


def pixels(stimuli: StimulusSet) -> np.ndarray:
    return np.stack([image.pixels for image in load_images(stimuli, np.asarray, workers=2)])


# --- which images, under which ids ---


def test_members_are_in_the_order_of_the_tar_and_keep_their_extension(tmp_path):
    members = {"b/2.png": FILES[0], "./a/1.PNG": FILES[1], "c.d.png": FILES[2], "é.png": FILES[3]}
    path = write_tar(tmp_path / "s.tar", {**members, ".hidden.png": b"", "b/._2.png": b""})
    found = find_images(path)
    assert found.ids == ("b/2.png", "a/1.PNG", "c.d.png", "é.png")
    assert found.columns["label"].tolist() == ["b", "a", "", ""]
    assert (found.root, found.notes) == (str(path), ())
    assert str(found.images[1]) == f"{path}:a/1.PNG"
    np.testing.assert_array_equal(pixels(found), STACK[:4])
    assert find_images(path, id_form="stem").ids == ("2", "1", "c.d", "é")


@given(
    st.dictionaries(
        st.text("ab/é0", min_size=1, max_size=150).map(lambda t: f"x{t}".replace("/", "/y")),
        st.binary(max_size=2000),
        max_size=8,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_of_any_tar_are_what_tarfile_extracts(tmp_path_factory, members, form):
    path = tmp_path_factory.mktemp("tar") / "s.tar"
    members = {f"{name}.jpg": data for name, data in members.items()}
    try:
        write_tar(path, members, format=form)
    except ValueError:  # USTAR has no room for the longest names
        return
    if not members:
        assert "no images in" in refusal(path)
        return
    found = find_images(path)
    with tarfile.open(path) as tar:
        assert list(found.ids) == tar.getnames()
        for row, name in enumerate(found.ids):
            assert found.read(row) == tar.extractfile(name).read() == members[name]


def test_the_tar_of_gnu_tar(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.png").write_bytes(FILES[0])
    (tmp_path / "in" / "b.png").symlink_to("deep/a.png")
    subprocess.run(["tar", "cf", "../s.tar", "."], cwd=tmp_path / "in", check=True)
    found = find_images(tmp_path / "s.tar")
    assert found.ids == ("deep/a.png",)
    assert found.notes == (
        "1 member of the tars is no image, and left out (.png)",
        "among them 1 link to images (first: b.png)",
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Eleven tars of one image each, and a text."""
    for k in range(11):
        write_tar(tmp_path / f"d-{k:02d}.tar", {f"{k}.png": FILES[k % 5]})
    (tmp_path / "readme.txt").touch()
    return tmp_path


def test_ranges_patterns_folders_and_lists(shards, monkeypatch):
    every = tuple(f"{k}.png" for k in range(11))
    assert find_images(f"{shards}/d-{{00..10}}.tar").ids == every
    assert find_images(f"{shards}/d-0{{8..9}}.tar").ids == ("8.png", "9.png")
    assert find_images(f"{shards}/d-{{0..1}}{{0..0}}.tar").ids == ("0.png", "10.png")
    assert find_images(f"{shards}/*.tar").ids == every
    assert find_images(f"{shards}/d-0?.tar").ids == every[:10]
    assert find_images(f"{shards}/d-{{0..1}}*.tar").ids == every
    assert find_images([shards / "d-10.tar", f"{shards}/d-02.tar"]).ids == ("10.png", "2.png")
    found = find_images(shards)
    assert (found.ids, found.root) == (every, str(shards))
    np.testing.assert_array_equal(pixels(found), STACK[[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]])
    monkeypatch.chdir(shards)
    assert find_images("d-{09..10}.tar").ids == ("9.png", "10.png")


@given(st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_ranges_are_those_of_the_shell(tmp_path_factory, first, last, is_padded):
    folder = tmp_path_factory.mktemp("ranges")
    ends = f"{first:03d}..{last:03d}" if is_padded else f"{first}..{last}"
    line = f"echo x{{{ends}}}.tar"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    for name in done.stdout.split():
        (folder / name).touch()
    pattern = f"{folder}/x{{{ends}}}.tar"
    assert is_pattern(pattern)
    if last < first:
        assert f"the range {{{ends}}}" in refusal(pattern)
    else:
        assert expand(pattern) == [folder / name for name in done.stdout.split()]


def test_a_tar_whose_name_looks_like_a_pattern_comes_first(tmp_path):
    write_tar(tmp_path / "a[1].tar", {"x.png": FILES[0]})
    write_tar(tmp_path / "a1.tar", {"y.png": FILES[0]})
    assert find_images(tmp_path / "a[1].tar").ids == ("x.png",)


def test_images_beside_tars_come_first(shards):
    (shards / "a.png").write_bytes(FILES[0])
    found = find_images(shards)
    assert found.ids == ("a.png",)
    assert "12 files in" in found.notes[0]


# --- columns ---


def sample(key: str, **beside: object) -> dict[str, bytes]:
    """Return the members of one sample of WebDataset."""
    texts = {
        ending: value if isinstance(value, str) else json.dumps(value)
        for ending, value in beside.items()
    }
    return {f"{key}.png": FILES[0], **{f"{key}.{e}": t.encode() for e, t in texts.items()}}


def test_what_stands_beside_an_image_becomes_columns(tmp_path):
    first = {
        **sample("s/1", cls="3", txt=" a cat\n", json={"x": 1, "y": 0.5, "z": "007", "w": True}),
        "s/1.seg.png": FILES[1],
    }
    second = sample("s/2", cls="4", json={"x": None, "y": 2, "z": "8", "new": "é"})
    write_tar(tmp_path / "a.tar", first)
    write_tar(tmp_path / "b.tar", {**second, "s/3.PNG": FILES[2], "s/1.json": b"{}"})
    found = find_images(tmp_path)
    assert found.ids == ("s/1.png", "s/1.seg.png", "s/2.png", "s/3.PNG")
    columns = {name: values.tolist() for name, values in found.columns.items()}
    assert columns.pop("label")[:3] == [3.0, 3.0, 4.0]
    x = columns.pop("x")
    assert x[:2] == [1.0, 1.0]
    assert np.isnan(x[2:]).all()
    assert columns == {
        "txt": ["a cat", "a cat", "", ""],
        "y": pytest.approx([0.5, 0.5, 2.0, np.nan], nan_ok=True),
        "z": ["007", "007", "8", ""],
        "w": ["True", "True", "", ""],
        "new": ["", "", "é", ""],
    }
    assert found.notes == ()


def test_classes_of_all_images_are_integers(tmp_path):
    write_tar(tmp_path / "a.tar", {**sample("1", cls="3"), **sample("2", cls="4\n")})
    label = find_images(tmp_path / "a.tar").columns["label"]
    assert (label.dtype, label.tolist()) == (np.int64, [3, 4])


def test_what_cannot_be_a_column_is_named(tmp_path):
    fields = {"id": 1, "sha256": "x", "a/b": 1, "box": [1], "nul": "a\0", "lone": "\ud800", "ok": 1}
    long = {"caption": "x" * 1025, "ok": 2}
    members = {**sample("1", json=fields), **sample("2", json=long), "2.npy": b"", "3.json": b"[1]"}
    write_tar(tmp_path / "a.tar", {**members, **sample("4", json={"caption": "short", "ok": 3})})
    found = find_images(tmp_path / "a.tar")
    assert {name: values.tolist() for name, values in found.columns.items()} == {"ok": [1, 2, 3]}
    assert found.notes == (
        "1 member of the tars is no image, and left out (.npy)",
        "what cannot be a column was left out (lists, long texts, names that a store uses):"
        " a/b, box, caption, id, lone, nul, sha256",
    )


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("1.json", b"{", "1.json is no JSON (Expecting property name"),
        ("1.json", b"\xff\xfe", "1.json is no JSON ("),
        ("1.cls", b"\xff", "1.cls is no UTF-8 text ("),
    ],
)
def test_what_stands_beside_and_cannot_be_read(tmp_path, name, data, part):
    path = write_tar(tmp_path / "a.tar", {"1.png": FILES[0], name: data})
    message = refusal(path)
    assert f"{path}:{part}" in message
    assert message.endswith("; mend or remove it")


# --- what is refused ---


def test_equal_ids_in_two_tars(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.png": FILES[0]})
    write_tar(tmp_path / "b.tar", {"x.png": FILES[1]})
    assert refusal(tmp_path) == (
        f"two images have the id x.png: {tmp_path}/a.tar:x.png and {tmp_path}/b.tar:x.png;"
        " rename one"
    )
    write_tar(tmp_path / "b.tar", {"y/x.png": FILES[1]})
    assert len(find_images(tmp_path)) == 2
    assert "two images have the id x:" in refusal(tmp_path, id_form="stem")


def test_patterns_that_stand_for_nothing(shards):
    message = refusal(f"{shards}/d-{{09..12}}.tar")
    assert message == f"no file {shards}/d-11.tar; {shards}/d-{{09..12}}.tar stands for it"
    assert "no file" in refusal(f"{shards}/e*.tar")
    assert "runs backwards" in refusal(f"{shards}/d-{{9..1}}.tar")
    assert "No such file" in refusal([shards / "d-00.tar", shards / "none.tar"])
    assert "URLs are not fetched" in refusal("https://x.org/{0..9}.tar")
    assert "ids are given for stacks" in refusal(shards / "d-00.tar", ids=["a"])
    assert "No such file" in refusal(f"{shards}/*.png")


def test_tars_without_images(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.npy": b"", "b.npy": b"", "c.txt": b"x"})
    assert refusal(path) == f"no images in {path}; it holds 2 other members (.npy)"
    assert refusal(write_tar(path, {})) == f"no images in {path}"


def test_a_name_that_is_not_utf8(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"caf\udce9.png": FILES[0]}, format=tarfile.GNU_FORMAT)
    assert "'caf\\udce9.png' is not valid UTF-8" in refusal(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    message = refusal(tmp_path / "a.tar")
    assert "a.tar cannot be read as a tar (" in message
    assert message.endswith("is it cut short, or compressed?")
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    assert "a.tar.gz is a compressed tar" in refusal(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("data", [b"", b"text", b"x" * 5000])
def test_files_that_are_no_tars(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    assert "a.tar cannot be read as a tar (" in refusal(tmp_path / "a.tar")


def test_truncated_tars(tmp_path):
    """Wherever a tar is cut, images are refused, all there, or it is said that some may miss."""
    path = write_tar(tmp_path / "a.tar", {"a.png": FILES[0], "b.png": FILES[1]})
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmember("b.png").offset_data + 512
        second = tar.getmember("b.png").offset
    for size in [*range(1, end + 512, 37), second, end, end + 512]:
        path.write_bytes(data[:size])
        if size in (second, end):
            found = find_images(path)
            assert found.ids == (("a.png",) if size == second else ("a.png", "b.png"))
            assert "lacks the mark that ends a tar" in found.notes[0]
        elif size >= end + 512:
            assert find_images(path).notes == ()
        else:
            assert "a.tar" in refusal(path)


def test_a_tar_that_is_damaged_in_the_middle(tmp_path):
    """Python's tarfile takes what is no header for the end, and would lose what comes after."""
    path = write_tar(tmp_path / "a.tar", {f"{k}.png": file for k, file in enumerate(FILES)})
    with tarfile.open(path) as tar:
        place = tar.getmember("2.png").offset
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 0xFF
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["0.png", "1.png"]
    assert refusal(path) == (
        f"{path} is damaged at byte {place}, where a member should begin; copy or make it again"
    )


def test_a_member_that_cannot_be_decoded_and_a_tar_that_shrinks(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.png": FILES[0][:50], "b.png": FILES[1]})
    found = find_images(path)
    rows = list(load_images(found, np.asarray, workers=0, on_error="skip"))
    assert rows[0].reason.startswith("cannot be decoded (")
    np.testing.assert_array_equal(rows[1].pixels, STACK[1])
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(ImageError, match=r"b\.png: cannot be read \(.*has become shorter\)"):
        pixels(found.take([1]))
    path.unlink()
    with pytest.raises(ImageError, match=r"b\.png: cannot be read \(No such file"):
        pixels(found.take([1]))
