"""Workers of joblib, which encoding models run on, read one store at the same time."""

from __future__ import annotations

import os

import numpy as np
import pytest
from joblib import Parallel, delayed
from store_data import LAYER, N, names, write

from resmem_extract.store import COMPRESSIONS, open_store


def read_by_id(array, ids):
    return array.rows(ids), os.getpid()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
@pytest.mark.parametrize("compression", [None, next(iter(COMPRESSIONS))])
def test_many_readers_at_once(tmp_path, arrays, backend, compression):
    path = write(
        tmp_path / "f.h5", [LAYER], {LAYER.path: arrays[LAYER.path]}, compression=compression
    )
    rng = np.random.default_rng(0)
    jobs = [rng.permutation(N)[:9] for _ in range(24)]
    with open_store(path) as store:
        array = store["features.5.4"]
        _ = array[0]  # the file is open here when workers start
        found = Parallel(n_jobs=2, backend=backend)(
            delayed(read_by_id)(array, [names(N)[row] for row in rows]) for rows in jobs
        )
        for rows, (values, _) in zip(jobs, found, strict=True):
            np.testing.assert_array_equal(values, arrays[LAYER.path][rows])
        pids = {pid for _, pid in found}
        assert (os.getpid() in pids) == (backend == "threading")
