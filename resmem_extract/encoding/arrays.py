"""Where linear algebra is done: NumPy on a processor, PyTorch elsewhere; himalaya's own switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError, RequestError
from ..gram import on_host, placing

__all__ = ["Place", "himalaya_backend", "place_on"]

DType = npt.DTypeLike


@dataclass(frozen=True)
class Place:
    """A device, and the linear algebra of the library that knows it. Made by `place_on`."""

    device: str
    linalg: Any
    """`numpy.linalg` or `torch.linalg`: what is used of them has the same names."""
    dtype: np.dtype[Any]
    """Of the arithmetic."""

    def put(self, array: npt.NDArray[Any]) -> Any:
        """Return an array of NumPy where it is computed with, in the precision of that."""
        return placing(self.device)(np.asarray(array, dtype=self.dtype))

    def empty(self, shape: tuple[int, ...]) -> Any:
        """Return a new array of any contents."""
        if self.device == "cpu":
            return np.empty(shape, dtype=self.dtype)
        import torch

        return torch.empty(shape, dtype=getattr(torch, self.dtype.name), device=self.device)

    @staticmethod
    def get(array: Any) -> npt.NDArray[Any]:
        """Return an array of NumPy."""
        host: npt.NDArray[Any] = on_host(array)
        return host


def place_on(device: str = "cpu", dtype: DType = np.float64) -> Place:
    """Return where to compute.

    Raises
    ------
    RequestError
        If there is no such device here.
    """
    placing(device)
    if device == "cpu":
        return Place(device, np.linalg, np.dtype(dtype))
    import torch

    return Place(device, torch.linalg, np.dtype(dtype))


@contextmanager
def himalaya_backend(device: str = "cpu") -> Iterator[Any]:
    """Have himalaya compute on a device; its switch is global, and set back afterwards.

    Parameters
    ----------
    device : str
        ``"cpu"`` (NumPy), ``"cuda"`` (PyTorch).

    Yields
    ------
    module
        himalaya's backend.

    Raises
    ------
    MissingExtraError
        Without himalaya.
    RequestError
        If himalaya does not know the device, or it is not here.
    """
    try:
        from himalaya.backend import get_backend, set_backend
    except ImportError:
        raise MissingExtraError(
            "banded ridge needs himalaya: pip install 'resmem-extract[encoding]'"
        ) from None
    known = {"cpu": "numpy", "cuda": "torch_cuda", "mps": "torch_mps"}
    if device not in known:
        raise RequestError(f"device {device!r}: himalaya knows {', '.join(known)}")
    before = get_backend().name
    try:
        yield set_backend(known[device])
    except (ImportError, RuntimeError) as error:
        if get_backend().name == known[device]:
            raise
        reason = " ".join(str(error).split())
        raise RequestError(f"device {device!r} cannot be used here: {reason}") from error
    finally:
        set_backend(before)
