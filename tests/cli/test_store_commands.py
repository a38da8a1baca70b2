"""split, merge, verify and export, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import Result, draw, names

from resmem_extract.store import StoreWriter, open_store, split
from resmem_extract.types import ActivationSpec

SPECS = (
    ActivationSpec(
        "features.layer2.4", "features.5.4", (4, 3, 3), ("image", "channel", "height", "width"),
        index_path="features.5.4", links=("features.5.4",),
    ),
    ActivationSpec("output", "output", (1,), ("image", "channel")),
)  # fmt: skip


def make(path: Path, rows: range, **provenance: object) -> Path:
    rng = np.random.default_rng(rows.start)
    with StoreWriter(path, SPECS, len(rows)) as writer:
        arrays = {
            spec.path: rng.standard_normal((len(rows), *spec.shape)).astype("f4") for spec in SPECS
        }
        writer.append([f"{row:02d}.jpg" for row in rows], ["0" * 64] * len(rows), arrays)
        writer.finish(
            {"label": ["a" if row % 3 else "b" for row in rows]}, None,
            {"model": "resmem", "precision": "float32", **provenance},
        )  # fmt: skip
    return path


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "f.h5", range(20))


def damage(path):
    with h5py.File(path) as f:
        place = f["features/output"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as f:
        f.seek(place + 2)
        f.write(b"\x7f")


def datasets(path: Path) -> dict[str, bytes]:
    """Return all that a file holds, as plain h5py reads it."""
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()})
                if isinstance(item, h5py.Dataset) and item.shape
                else None
            )
        )
    return found


def test_split_and_merge(tmp_path, store, call):
    done = call("split", store, "--parts", 3, "--out", tmp_path / "parts")
    assert done.code == 0
    assert done.err == "3 parts by rows, 6 to 7 of 20 images each\n"
    assert names(tmp_path / "parts") == [f"f.part-{k}-of-3.h5" for k in (1, 2, 3)]
    assert [line.split()[1] for line in done.out.splitlines()[2:]] == ["7", "6", "7"]
    again = call("split", store, "--parts", 3, "--out", tmp_path / "parts", "--json")
    listed = json.loads(again.out)
    assert all(part["already_complete"] for part in listed)
    assert [part["images"] for part in listed] == [7, 6, 7]

    parts = [part["path"] for part in listed][::-1]
    done = call("merge", *parts, "--out", tmp_path / "m.h5", "--delete-parts")
    assert done.code == 0
    assert done.err == "3 parts of one split: 20 images, 2 modules\n"
    first, second = done.out.splitlines()
    assert first.startswith(f"{tmp_path / 'm.h5'}: 20 images, 2 modules, ")
    assert first.endswith("; equal to the file that was split, by its checksums")
    assert second == "deleted 3 files"
    assert names(tmp_path / "parts") == []
    assert datasets(tmp_path / "m.h5") == datasets(store)


@pytest.mark.parametrize(
    ("how", "files"),
    [
        (("--rows", 9), ["f.part-1-of-3.h5", "f.part-2-of-3.h5", "f.part-3-of-3.h5"]),
        (("--bytes", "1kB"), [f"f.part-{k}-of-4.h5" for k in (1, 2, 3, 4)]),
        (("--by", "label"), ["f.label=a.h5", "f.label=b.h5"]),
        (("--by-module",), ["f.features.layer2.4.h5", "f.output.h5"]),
    ],
)
def test_ways_of_splitting(tmp_path, store, call, how, files):
    out = tmp_path / "parts"
    assert call("split", store, *how, "--out", out, "-q") == Result(0, "", "")
    assert names(out) == files
    merged = call("merge", *sorted(out.iterdir()), "--out", tmp_path / "m.h5", "--json")
    assert json.loads(merged.out) == {
        "path": str(tmp_path / "m.h5"), "kind": "parts", "images": 20,
        "modules": ["features.layer2.4", "output"], "bytes": (tmp_path / "m.h5").stat().st_size,
        "restored": True, "deleted": [], "already_complete": False,
    }  # fmt: skip
    assert datasets(tmp_path / "m.h5") == datasets(store)
    done = call("merge", *sorted(out.iterdir()), "--out", tmp_path / "m.h5")
    assert (done.code, done.out) == (0, f"{tmp_path / 'm.h5'} is already complete\n")


def test_an_interrupted_split_says_how_to_go_on(tmp_path, store, call, monkeypatch):
    write, calls = split._write, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(split, "_write", interrupted)
    done = call("split", store, "--parts", 4, "--out", tmp_path / "parts")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1].endswith(
        "2 of 4 parts written; the same command goes on with the others"
    )
    assert names(tmp_path / "parts") == ["f.part-1-of-4.h5", "f.part-2-of-4.h5"]
    done = call("split", store, "--parts", 4, "--out", tmp_path / "parts")
    assert (done.code, done.out.splitlines()[-1]) == (0, "2 parts already complete")


def test_merge_of_other_files(tmp_path, store, call):
    other = make(tmp_path / "g.h5", range(20, 25))
    done = call("merge", other, store, "--out", tmp_path / "m.h5")
    assert done.code == 0
    assert "2 files of different images, in the order given: 25 images" in done.err
    with open_store(tmp_path / "m.h5") as merged:
        assert merged.image_ids[:6].tolist() == [*(f"{k}.jpg" for k in range(20, 25)), "00.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split", "f.h5", "--out", "p"), "expected one of --parts, --rows, --bytes, --by and"),
        (("split", "f.h5", "--parts", 2, "--by-module", "--out", "p"), "got --parts and --by-mo"),
        (("split", "f.h5", "--parts", 21, "--out", "p"), "has 20 images, too few for 21 parts"),
        (("split", "f.h5", "--bytes", "many", "--out", "p"), "'many' is no size"),
        (("split", "f.h5", "--by", "lable", "--out", "p"), "did you mean label?"),
        (("split", "f.h5", "--parts", 2), "Missing option '--out'"),
        (("split", "", "--parts", 2, "--out", "p"), "file '': empty; is a shell variable unset?"),
        (("split", "f.h5", "--parts", 2, "--out", ""), "out '': empty"),
        (("split", "no.h5", "--parts", 2, "--out", "p"), "no.h5 does not exist"),
        (("merge", "--out", "m.h5"), "Missing argument 'PART"),
        (("merge", "f.h5", "f.h5", "--out", "m.h5"), "f.h5 is given twice"),
        (("merge", "f.h5", "--out", "f.h5"), "f.h5 is one of the files to be merged"),
        (("merge", "f.h5", "g.h5", "--out", "m.h5"), "precision float32 and bfloat16"),
        (("verify", "no.h5"), "no.h5 does not exist"),
        (("verify", "f.h5", "--images", "nowhere"), "nowhere"),
        (("verify", "f.h5", "--images", ".", "--sample", 0), "sample 0: expected at least 1"),
        (("export", "f.h5", "--format", "npz", "--out", "p"), "did you mean npy?"),
        (("export", "f.h5", "--module", "outputs", "--out", "p"), "did you mean output?"),
    ],
)
def test_refusals_are_one_line(tmp_path, store, call, monkeypatch, arguments, message):
    make(tmp_path / "g.h5", range(20, 25), precision="bfloat16")
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    done = call(*arguments)
    assert (done.code, done.out if arguments[0] != "verify" else "") == (2, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err
    assert names(tmp_path) == before


def test_missing_parts(tmp_path, store, call):
    call("split", store, "--parts", 4, "--out", tmp_path / "p")
    some = sorted((tmp_path / "p").iterdir())[::2]
    done = call("merge", *some, "--out", tmp_path / "m.h5")
    assert done.code == 2
    assert "10 images of" in done.err
    assert "(part 2, 4 of 4); give all parts, or use --partial" in done.err
    done = call("merge", *some, "--out", tmp_path / "m.h5", "--partial", "--json")
    assert (done.code, json.loads(done.out)["images"]) == (0, 10)


def test_verify_an_intact_file(store, call):
    done = call("verify", store)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{store}: intact (20 images, ")
    assert call("verify", store, "-q").out == ""
    found = json.loads(call("verify", store, "--json").out)
    assert (found["intact"], found["images"], found["damaged"]) == (True, 20, [])


def test_verify_a_damaged_file(store, call):
    damage(store)
    done = call("verify", store)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        f"{store}: damaged",
        "output: rows 0 to 15 (00.jpg, 01.jpg, 02.jpg and 13 more), 1 chunk: has another checksum",
    ]
    assert (call("verify", store, "-q").code, call("verify", store, "-q").out) == (1, "")
    done = call("verify", store, "--json")
    (found,) = json.loads(done.out)["damaged"]
    assert (done.code, found["module"], len(found["ids"])) == (1, "output", 16)


def test_verify_what_cannot_be_opened(store, call):
    store.write_bytes(store.read_bytes()[:-500])
    done = call("verify", store)
    assert done.code == 1
    assert done.out.splitlines()[1].startswith("/: cannot be read (")
    assert "is truncated" in done.out


def test_damage_ends_the_others_with_one_line(tmp_path, store, call):
    damage(store)
    done = call("export", store, "--module", "output", "--out", tmp_path / "x")
    assert (done.code, done.out) == (1, "")
    assert f"see: resmem-extract verify {store}" in done.err
    assert names(tmp_path) == ["f.h5"]


@pytest.mark.parametrize(
    "format", ["npy", "mat", pytest.param("zarr", marks=pytest.mark.needs("zarr"))]
)
def test_export(tmp_path, store, call, format):
    done = call(
        "export", store, "--format", format, "--module", "features.5.4", "--out", tmp_path / "x"
    )
    activations = "f.zarr" if format == "zarr" else f"f.features.layer2.4.{format}"
    assert (done.code, done.err) == (0, "")
    assert names(tmp_path / "x") == sorted([activations, "f.images.csv", "f.provenance.json"])
    assert activations in done.out
    again = call("export", store, "--format", format, "--out", tmp_path / "x")
    assert (again.code, "use --overwrite" in again.err) == (2, True)
    done = call(
        "export", store, "--format", format, "--out", tmp_path / "x", "--overwrite", "--json"
    )
    listed = [module for one in json.loads(done.out) for module in one["modules"]]
    assert listed == ["features.layer2.4", "output"]


def test_verify_with_images(tmp_path, photos, call):
    out = tmp_path / "f.h5"
    call("extract", "--module", "conv1", "--images", photos, "--out", out, "--batch-size", 2)
    done = call("verify", out, "--images", photos, "--sample", 2)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{out}: intact (3 images, ")
    assert lines[1] == "sample of 2 images: reproducible here"
    assert lines[-1].split() == ["conv1", "0.0e+00", "1.0e-05", "identical"]
    for name in ("a/1.jpg", "b/2.png"):
        draw(photos / name, 9)
    done = call("verify", out, "--images", photos, "--json")
    made = json.loads(done.out)["reproduction"]
    assert (done.code, made["reproducible"], made["changed"]) == (1, False, ["a/1.jpg", "b/2.png"])


def test_code_in_the_document_runs(tmp_path, store, monkeypatch):
    document = Path(__file__).parents[2] / "docs" / "splitting.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    store.rename(tmp_path / "activations.h5")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, document.name, "exec"), scope)
    with open_store("activations.h5") as opened:
        np.testing.assert_array_equal(scope["whole"], opened["features.5.4"][:])
    assert [len(half) for half in scope["halves"]] == [10, 10]
