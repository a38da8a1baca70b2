"""Running the commands, in this process or as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def command(name: str) -> str:
    """Return the installed program beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> Result:
    """Run an installed command: `run("extract", "--help")`."""
    name, *rest = map(str, arguments)
    done = subprocess.run(
        [command(name), *rest],
        capture_output=True,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(path)


def names(folder: Path) -> list[str]:
    """Return all that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())
