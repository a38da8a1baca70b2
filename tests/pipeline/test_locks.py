"""Locks are of processes: held until they end, however they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resmem_extract.pipeline.locks import Busy, Lock


def test_one_holds_it_and_is_named(tmp_path):
    lock = Lock(tmp_path / "lock")
    with pytest.raises(Busy, match=f"^process {os.getpid()} on .*, since 20"):
        Lock(tmp_path / "lock")
    with pytest.raises(Busy):
        Lock(tmp_path / "lock", shared=True)
    lock.release()
    lock.release()
    Lock(tmp_path / "lock").release()


def test_several_share_it_and_keep_others_out(tmp_path):
    shared = [Lock(tmp_path / "lock", shared=True) for _ in range(3)]
    for lock in shared:
        with pytest.raises(Busy):
            Lock(tmp_path / "lock")
        lock.release()
    Lock(tmp_path / "lock").release()


def test_a_file_that_was_removed_is_nobodys(tmp_path):
    first = Lock(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    second = Lock(tmp_path / "lock")
    with pytest.raises(Busy):
        Lock(tmp_path / "lock")
    first.release()
    second.release()


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "gone" / "lock")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    script = (
        "import sys, time, pathlib\n"
        "from resmem_extract.pipeline.locks import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(Busy, match=f"^process {process.pid} on "):
        Lock(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    for _ in range(100):
        try:
            Lock(tmp_path / "lock").release()
            break
        except Busy:
            time.sleep(0.05)
    else:
        pytest.fail("the lock outlived its process")
