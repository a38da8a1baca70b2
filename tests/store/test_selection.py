"""Whatever NumPy answers to a key, a stored array answers too."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from resmem_extract.store import selection

SHAPE = (13, 6, 4, 3)
VALUES = np.arange(np.prod(SHAPE), dtype="f4").reshape(SHAPE)


@pytest.fixture(scope="module", params=[None, "gzip"])
def dataset(request, tmp_path_factory):
    with h5py.File(tmp_path_factory.mktemp("s") / "f.h5", "w") as f:
        yield f.create_dataset("x", data=VALUES, chunks=(4, 2, 4, 3), compression=request.param)


def part(size):
    index = st.integers(-size, size - 1)
    return st.one_of(
        index,
        index.map(np.int64),
        st.slices(size),
        st.just(slice(None)),
        st.lists(index, max_size=6),
        st.lists(index, max_size=6).map(lambda i: np.array(i, dtype=np.int16)),
        npst.arrays(np.bool_, size),
    )


keys = st.one_of(
    npst.basic_indices(SHAPE, allow_newaxis=True),
    npst.integer_array_indices(SHAPE),
    st.integers(1, 4).flatmap(lambda n: st.tuples(*map(part, SHAPE[:n]))),
    st.tuples(part(13), st.just(...), part(3)),
    part(13),
    npst.arrays(np.bool_, st.sampled_from([SHAPE[:2], SHAPE])),
)


@pytest.mark.parametrize("gap", [1, 2**16])
@settings(max_examples=300, deadline=None)
@given(key=keys)
def test_equals_numpy(dataset, gap, key):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_GAP_BYTES", gap)
        try:
            expected = VALUES[key]
        except IndexError:
            with pytest.raises(IndexError):
                selection.read(dataset, key)
            return
        got = selection.read(dataset, key)
    assert np.shape(got) == np.shape(expected)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "key",
    [13, -14, (0, 6), [0, 13], (..., ...), 1.5, "a", [0.5], (0,) * 5, np.ones(12, bool), True],
)
def test_refuses_what_numpy_refuses(dataset, key):
    with pytest.raises(IndexError):
        selection.read(dataset, key)


def test_neighbours_are_read_together(dataset, monkeypatch):
    calls = []
    monkeypatch.setattr(selection, "_GAP_BYTES", 1)
    monkeypatch.setattr(
        selection, "_read_into", lambda dataset, source, *rest: calls.append(source[:2])
    )
    selection.read(dataset, [7, 3, 2, 4, 3, -1])
    assert calls == [(slice(a, b), slice(0, 6)) for a, b in ((2, 5), (7, 8), (12, 13))]
