"""Verifying: whatever is flipped, cut off or taken out is found, and named."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest
from random_stores import PROVENANCE
from store_data import LAYER, OUTPUT, RELU, N, names, write

from resmem_extract.errors import StoreError
from resmem_extract.store import COMPRESSIONS, choose_layouts
from resmem_extract.store.verify import Verification, verify_store

HERE = Path(__file__).parent
SPECS = (LAYER, RELU, OUTPUT)


@pytest.fixture
def whole(tmp_path, arrays):
    return make(tmp_path / "f.h5", arrays, None)


def make(path, arrays, compression):
    return write(
        path, SPECS, arrays, layouts=choose_layouts(SPECS, 8, compression),
        columns={"label": ["b", "ä"] * 18 + ["x"]}, skipped=[("z.jpg", "gone")],
        provenance=PROVENANCE,
    )  # fmt: skip


def flip(path, place, bit=0):
    with path.open("r+b") as f:
        f.seek(place)
        (byte,) = f.read(1)
        f.seek(place)
        f.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_a_whole_store_is_intact(tmp_path, arrays, compression):
    path = make(tmp_path / "f.h5", arrays, compression)
    told = []
    found = verify_store(path, progress=lambda *pair: told.append(pair))
    nbytes = N * 4 * (600 + 7 + 1)
    assert found == Verification(path, images=N, chunks=3 * 5, bytes=nbytes)
    assert found.intact
    assert told[-1] == (nbytes, nbytes)


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("number", [0, 3, 4])
def test_a_flipped_bit_in_a_chunk(tmp_path, arrays, compression, number):
    path = make(tmp_path / "f.h5", arrays, compression)
    with h5py.File(path) as f:
        chunk = f["features"][LAYER.path].id.get_chunk_info(number)
    flip(path, chunk.byte_offset + min(30, chunk.size - 1))
    found = verify_store(path)
    (damage,) = found.damaged
    assert not found.intact
    assert (damage.module, damage.rows, damage.chunks) == (
        LAYER.path, (8 * number, min(8 * number + 8, N)), 1,
    )  # fmt: skip
    assert damage.ids == tuple(names(N)[8 * number : 8 * number + 8])
    assert damage.reason.startswith(("has another checksum", "cannot be read: "))
    assert (found.changed, found.unreadable) == ((), {})
    assert found.images == N
    assert json.loads(json.dumps(found.describe()))["damaged"][0]["ids"] == list(damage.ids)


def test_padding_has_no_part(whole):
    with h5py.File(whole) as f:
        last = f["features"][LAYER.path].id.get_chunk_info(4)
    flip(whole, last.byte_offset + last.size - 1)  # rows 37 to 39 do not exist
    assert verify_store(whole).intact


def test_several_chunks_of_the_same_rows(tmp_path, arrays):
    layouts = choose_layouts([LAYER], 8)
    one = layouts[LAYER.path]
    layouts = {LAYER.path: type(one)((8, 10, 5, 3))}
    path = write(tmp_path / "f.h5", [LAYER], {LAYER.path: arrays[LAYER.path]}, layouts=layouts)
    with h5py.File(path) as f:
        dataset = f["features"][LAYER.path].id
        for channel in (0, 20, 30):
            flip(path, dataset.get_chunk_info_by_coord((16, channel, 0, 0)).byte_offset)
    found = verify_store(path)
    (damage,) = found.damaged
    assert (damage.rows, damage.chunks, found.chunks) == ((16, 24), 3, 20)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda f: f["images/id"].__setitem__(3, b"other"), "images/id"),
        (lambda f: f["images/label"].__setitem__(3, b"c"), "images/label"),
        (lambda f: f["skipped/reason"].__setitem__(0, b"no"), "skipped/reason"),
        (
            lambda f: f["features/output"].attrs.__setitem__("axes", '["image", "unit"]'),
            "features/output",
        ),
    ],
)
def test_changes_beside_the_activations(whole, change, name):
    with h5py.File(whole, "r+") as f:
        change(f)
    found = verify_store(whole)
    assert (found.changed, found.damaged, found.unreadable) == ((name,), (), {})


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("images/label", set()),
        ("images/id", set()),
        ("features/output", {"/features/memorability"}),
        ("skipped", {"/skipped/id", "/skipped/reason"}),
        ("checksums/output", set()),
        ("metadata_checksums", set()),
        ("checksums", {f"/checksums/{spec.path}" for spec in SPECS}),
    ],
)
def test_what_was_taken_out_is_missed(whole, name, also):
    with h5py.File(whole, "r+") as f:
        del f[name]
    found = verify_store(whole)
    assert not found.intact
    missed = set(found.unreadable) | {f"/{name}" for name in found.changed}
    expected = {f"/{name}"} if name not in ("skipped", "checksums") else set()
    assert expected | also - {"/features/memorability"} <= missed
    assert not found.damaged


def test_a_file_that_was_extended_by_another_program(whole):
    with h5py.File(whole, "r+") as f:
        f["features/output"].resize(N + 20, axis=0)
    found = verify_store(whole)
    assert found.changed == ("features/output",)
    assert found.unreadable == {
        "/checksums/output": "its shape is (5, 1), that of the chunks (8, 1)"
    }


def test_a_file_without_checksums(whole):
    with h5py.File(whole, "r+") as f:
        del f["checksums"], f["metadata_checksums"]
    found = verify_store(whole)
    assert found.intact
    assert found.unchecked == tuple(spec.path for spec in SPECS)
    assert (found.chunks, found.bytes) == (0, N * 4 * (600 + 7 + 1))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(whole, share):
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    found = verify_store(whole)
    assert not found.intact
    sizes = f"{int(len(data) * share)} of {len(data)} bytes"
    assert f"f.h5 is truncated: it has {sizes}, as an" in found.unreadable["/"]


def test_an_interrupted_file(whole):
    with h5py.File(whole, "r+") as f:
        f.attrs["complete"] = False
    assert "is incomplete" in verify_store(whole).unreadable["/"]


def test_no_store(tmp_path):
    (tmp_path / "t.h5").write_text("x")
    for name, message in (("no.h5", "does not exist"), ("t.h5", "is not an HDF5 file")):
        with pytest.raises(StoreError, match=message):
            verify_store(tmp_path / name)


FUZZ = """
    import sys
    sys.path.insert(0, sys.argv[2])
    import numpy as np
    from random_stores import contents
    from resmem_extract.errors import StoreError
    from resmem_extract.store.verify import verify_store
    from pathlib import Path

    path = Path(sys.argv[1])
    start, stop = int(sys.argv[3]), int(sys.argv[4])
    data = bytearray(path.read_bytes())
    expected = contents(path)
    rng = np.random.default_rng(start)
    for _ in range(start, stop):
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            intact = verify_store(path).intact
        except StoreError:
            intact = False
        if intact and contents(path) != expected:
            print("missed", place, bit)
        data[place] ^= 1 << bit
        print("done", flush=True)
"""


def test_no_flipped_bit_is_missed(tmp_path, arrays):
    """Bits anywhere, also in HDF5's own structures; in a process, as HDF5 may crash on those."""
    path = write(
        tmp_path / "f.h5", [RELU, OUTPUT], {s.path: arrays[s.path][:9] for s in (RELU, OUTPUT)},
        layouts=choose_layouts([RELU, OUTPUT], 8), provenance=PROVENANCE,
    )  # fmt: skip
    data = path.read_bytes()
    start, stop, crashes = 0, 200, 0
    while start < stop:
        path.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(FUZZ), path, HERE, str(start), str(stop)],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert "missed" not in done.stdout
        assert done.returncode <= 0, done.stderr
        crashes += done.returncode < 0
        start += done.stdout.count("done") + 1
    assert crashes <= 2
