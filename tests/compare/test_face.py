"""``rx.rsa``, as a user meets it."""

from __future__ import annotations

import numpy as np

import resmem_extract as rx
from resmem_extract import compare
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec


def test_rsa_is_there_and_reads_a_store(tmp_path, rng):
    assert rx.rsa is compare
    assert "rsa" in dir(rx)
    spec = ActivationSpec(
        "features.layer2.4",
        "features.5.4",
        (8, 3, 3),
        ("image", "channel", "height", "width"),
        links=("features.5.4",),
    )
    values = rng.random((5, 8, 3, 3), dtype=np.float32)
    with StoreWriter(tmp_path / "f.h5", [spec], 5) as writer:
        writer.append(list("abcde"), ["0" * 64] * 5, {spec.path: values})
        writer.finish(provenance={"model": "resmem"})
    with rx.open_store(tmp_path / "f.h5") as store:
        rdm = rx.rsa.rdm(store["features.5.4"], metric="correlation")
    expected = 1 - np.corrcoef(values.reshape(5, -1).astype(np.float64))
    np.testing.assert_allclose(rdm.square(), expected, atol=1e-6)
    assert rdm.ids == tuple("abcde")
