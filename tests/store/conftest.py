from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_data import LAYER, OUTPUT, RELU, N, write


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    specs = (LAYER, RELU, OUTPUT)
    return {s.path: rng.standard_normal((N, *s.shape)).astype(np.float32) for s in specs}


@pytest.fixture
def store_path(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    return write(
        tmp_path / "f.h5",
        (LAYER, RELU, OUTPUT),
        arrays,
        columns={
            "score": np.linspace(0, 1, N),
            "label": ["Katze", "Hündin"] * 18 + ["x"],
            "row": np.arange(N),
            "seen": [True] * N,
        },
        skipped=[("kaputt ü.jpg", "truncated")],
        provenance={"model": "resmem", "command": "extract --images Bücher", "batch_size": 16},
    )
