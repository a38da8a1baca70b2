"""Where a network runs, and with what arithmetic."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import RequestError
from ..types import Precision

__all__ = [
    "arithmetic",
    "autocast_dtype",
    "check_precision",
    "pick_device",
    "split_devices",
    "threads_for_each_batch",
]


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


def split_devices(text: str) -> list[str]:
    """Return the devices of a list such as ``cuda:0,cuda:1``; one alone is a list of one.

    Raises
    ------
    RequestError
        If one is not on this machine, one other than `cpu` is named twice, or they are of
        different kinds: which device gets a batch depends on which is free, and numbers must not.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1:
        return names
    if "" in names or "auto" in names:
        raise RequestError(f"--device {text}: expected names between commas, as in cuda:0,cuda:1")
    devices = [pick_device(name) for name in names]
    if len({device.type for device in devices}) > 1:
        raise RequestError(f"--device {text}: several devices have to be of one kind")
    for i, device in enumerate(devices):
        earlier = {other.index or 0 for other in devices[:i]}
        if device.type != "cpu" and (device.index or 0) in earlier:
            raise RequestError(f"--device {text}: {names[i]} is there twice; name each device once")
    return names


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


class _TF32:
    """Counts who needs TF32 on or off, so that threads do not restore it under one another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = (False, False)

    @contextmanager
    def __call__(self, allowed: bool) -> Iterator[None]:
        """Allow TF32, or forbid it, since cuDNN's convolutions would use it unasked."""
        cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
        with self._lock:
            if self._users == 0:
                self._before = cudnn.allow_tf32, cublas.allow_tf32
                cudnn.allow_tf32 = cublas.allow_tf32 = allowed
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    cudnn.allow_tf32, cublas.allow_tf32 = self._before


_tf32 = _TF32()
_AUTOCAST = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """Return the 16-bit dtype that a precision computes in; None for float32 and TF32."""
    return _AUTOCAST.get(precision)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse an arithmetic that a device does not have.

    Raises
    ------
    RequestError
        For TF32 anywhere but on CUDA, and where this torch cannot autocast.
    """
    if precision == "tf32" and device.type != "cuda":
        raise RequestError(f"--precision tf32 is of CUDA devices, not of {device}; use bfloat16")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older torch warns, and computes in float32
            with arithmetic(precision, device):
                pass
    except (RuntimeError, UserWarning) as error:
        raise RequestError(
            f"--precision {precision} cannot be had on {device} with torch {torch.__version__}"
        ) from error


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in a precision: autocast for 16 bits, TF32 only if it is what was asked for."""
    dtype = autocast_dtype(precision)
    with _tf32(precision == "tf32"):
        if dtype is None:
            yield
        else:
            with torch.autocast(device.type, dtype):
                yield


@contextmanager
def threads_for_each_batch(n: int) -> Iterator[None]:
    """Let every operation use `n` threads of the processor, and restore the number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
