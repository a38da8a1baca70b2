"""Runs that are killed, on disks that fail; `benchmarks/kill.py` is the long form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_or_spoilt_by_kills(tmp_path):
    script = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--kills", "6"],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    tally = json.loads(done.stdout)
    assert sum(tally["kills"].values()) >= 6
    assert tally["finished"] >= 1
