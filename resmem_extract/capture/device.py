"""Where a network runs, and with what arithmetic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import RequestError

__all__ = ["exact_float32", "pick_device", "threads_for_each_batch"]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises
    ------
    RequestError
        If there is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(
            f"device {name!r} is not known; expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(_has_mps())}
    if device.type not in there or (device.index or 0) >= there[device.type]:
        have = [kind for kind, count in there.items() if count]
        raise RequestError(f"device {name!r} is not on this machine, which has: {', '.join(have)}")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


class _ExactFloat32:
    """Counts who needs TF32 off, so that threads do not restore it under one another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = (False, False)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Switch TF32 off, which cuDNN convolutions would use unasked, and restore it after."""
        cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
        with self._lock:
            if self._users == 0:
                self._before = cudnn.allow_tf32, cublas.allow_tf32
                cudnn.allow_tf32 = cublas.allow_tf32 = False
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    cudnn.allow_tf32, cublas.allow_tf32 = self._before


exact_float32 = _ExactFloat32()


@contextmanager
def threads_for_each_batch(n: int) -> Iterator[None]:
    """Let every operation use `n` threads of the processor, and restore the number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
