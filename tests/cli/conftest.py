from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Result, draw

from resmem_extract.cli import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a/1.jpg", "b/2.png", "b/3.jpg")):
        draw(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run `resmem-extract` in this process: as a subprocess, but without loading torch anew."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["resmem-extract", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code, *capfd.readouterr())

    return invoke
