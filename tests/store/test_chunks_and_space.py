from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_data import make_spec, write

from resmem_extract.errors import RequestError
from resmem_extract.store import check_free_space, format_bytes, parse_bytes, required_bytes
from resmem_extract.store.chunks import TARGET_BYTES, chunk_shape


@pytest.mark.parametrize(
    ("shape", "n", "itemsize", "chunk"),
    [
        ((512, 29, 29), 10_000, 4, (8, 32, 29, 29)),
        ((512, 29, 29), 10_000, 2, (8, 64, 29, 29)),
        ((512, 29, 29), 5, 4, (4, 64, 29, 29)),
        ((64, 114, 114), 10_000, 4, (8, 2, 114, 114)),
        ((2, 2000, 2000), 10, 4, (1, 1, 125, 2000)),
        ((197, 768), 10_000, 4, (8, 40, 768)),
        ((4096,), 10_000, 4, (64, 4096)),
        ((430_592,), 10_000, 4, (8, 26_912)),
        ((1,), 10**6, 4, (2**18, 1)),
        ((1,), 100, 4, (64, 1)),
        ((), 3, 4, (2,)),
    ],
)
def test_known_chunks(shape, n, itemsize, chunk):
    assert chunk_shape(shape, n, itemsize) == chunk


@given(
    shape=st.lists(st.integers(1, 5000), max_size=4).map(tuple),
    n=st.integers(1, 10**7),
    itemsize=st.sampled_from([2, 4]),
)
def test_chunks_are_about_a_mebibyte(shape, n, itemsize):
    chunk = chunk_shape(shape, n, itemsize)
    nbytes = math.prod(chunk) * itemsize
    assert nbytes <= TARGET_BYTES
    assert all(1 <= part <= size for part, size in zip(chunk, (n, *shape), strict=True))
    assert chunk[0] & (chunk[0] - 1) == 0
    if math.prod(shape) * itemsize * n > 4 * TARGET_BYTES and n >= 8:
        assert nbytes > TARGET_BYTES / 8


@pytest.mark.parametrize("n", [1, 37, 200])
@pytest.mark.parametrize("shape", [(), (1,), (77, 13, 13), (300, 7, 7)])
def test_required_bytes_is_a_close_upper_bound(tmp_path, n, shape):
    specs = [make_spec(f"m{i}", shape, dtype=d) for i, d in enumerate(("float32", "float16"))]
    arrays = {spec.path: np.zeros((n, *shape), "f4") for spec in specs}
    size = write(tmp_path / "f.h5", specs, arrays).stat().st_size
    bound = required_bytes(specs, n)
    assert size <= bound <= size * 1.05 + 2**18


def test_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**9))
    check_free_space(tmp_path / "not" / "yet" / "f.h5", 5 * 10**9)
    needs = r"needs 7\.3 TB and .* has 5\.0 GB free; "
    with pytest.raises(RequestError, match=f"{needs}name another disk with --out$"):
        check_free_space(tmp_path / "f.h5", 7_300 * 10**9)
    with pytest.raises(RequestError, match=f"{needs}split less, or name another disk"):
        check_free_space(tmp_path / "f.h5", 7_300 * 10**9, "split less")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "1.0 MB"), (880_000_000, "880 MB")],
)
def test_format_bytes(nbytes, text):
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1000", 1000), ("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29),
        ("1k", 1000), (" 3 TiB ", 3 * 2**40),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.2.3GB", "2 XB", "0", "1e9", "2i", "2 G B"])
def test_what_is_no_size(text):
    with pytest.raises(RequestError, match="is no size; expected one such as 2GB"):
        parse_bytes(text)
