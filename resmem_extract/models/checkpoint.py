"""State dicts: into a network, and their hash."""

from __future__ import annotations

import hashlib
import inspect
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError

__all__ = ["load_into", "state_dict_sha256"]


def load_into(network: nn.Module, path: Path) -> None:
    """Fill a network that was built on the meta device from a state dict in a file.

    The file is mapped into memory, so that weights which are never used are never read, and only
    tensors are unpickled. torch 2.0 cannot map; there the file is read whole. The network computes
    in float32, whatever the checkpoint holds.

    Raises
    ------
    WeightsError
        If the file is no checkpoint of tensors alone, or is one of another network.
    """
    try:
        # Only the zip format, torch's own since 1.6, can be mapped.
        mapped = _if_known(mmap=zipfile.is_zipfile(path))
        state = torch.load(path, map_location="cpu", weights_only=True, **mapped)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        # torch's own words may advise to unpickle anything, which runs code.
        unsafe = isinstance(error, UnpicklingError) or "weights_only" in str(error)
        reason = "it is no file of tensors alone" if unsafe else _first_line(error)
        raise WeightsError(
            f"{path} cannot be read as a checkpoint ({reason}); expected a state dict "
            "saved by torch.save"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}; expected a state dict")
    try:
        if "assign" in inspect.signature(network.load_state_dict).parameters:
            network.load_state_dict(state, assign=True)
        else:
            network.to_empty(device="cpu").load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} holds the weights of another network than {type(network).__name__} "
            f"({_first_line(error)})"
        ) from error
    network.float().requires_grad_(False)


def state_dict_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of the numbers themselves, whatever file they came in.

    SHA-256 over the entries in the order of their names: name, dtype and shape as text
    (``conv1.bias float32 [48]``), a newline, then the values in C order, little-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _if_known(**options: Any) -> dict[str, Any]:
    """Return those options that this version of `torch.load` has."""
    known = inspect.signature(torch.load).parameters
    return {name: value for name, value in options.items() if name in known}


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(text[:2])[:200]
