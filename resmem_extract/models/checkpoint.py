"""State dicts: out of files of every form, into a network, and their hash."""

from __future__ import annotations

import hashlib
import inspect
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import MissingExtraError, WeightsError, reason_of
from .entries import Wanted

__all__ = [
    "State",
    "fill",
    "fill_from",
    "first_line",
    "make",
    "on_meta",
    "read_state_dict",
    "state_dict_sha256",
]

State = OrderedDict[str, torch.Tensor]
_Network = TypeVar("_Network", bound=nn.Module)

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module",
          "weights", "teacher", "student", "encoder",
          "classy_state_dict", "base_model", "trunk")  # fmt: skip
"""Keys under which training programs keep a network among other things, likelier ones first."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "encoder.")
"""What wrappers put in front of every name: DataParallel, torch.compile, Lightning."""


def make(constructor: Callable[[], _Network], wanted: Wanted) -> _Network:
    """Return a network, filled as a source is asked to.

    For a checkpoint it is built on the meta device, so that nothing is initialised in vain and the
    file can stay mapped, if all that it computes with is in its state dict.
    """
    if wanted.init == "random":
        return constructor().eval()
    network = on_meta(constructor)
    if network is None or (wanted.init == "pretrained" and not _is_all_state(network)):
        network = constructor()
    if wanted.file is not None:
        fill(network, wanted.file.path, trust=wanted.trust)
    return network.eval()


def on_meta(constructor: Callable[[], _Network]) -> _Network | None:
    """Return a network without numbers; None if its constructor reads some."""
    try:
        with torch.device("meta"):
            return constructor()
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def _is_all_state(network: nn.Module) -> bool:
    """Tell whether a state dict fills all tensors of a network, and none stay on meta."""
    buffers = {name for name, _ in network.named_buffers()}
    loose = (value for m in network.modules() for value in vars(m).values())
    return buffers <= set(network.state_dict()) and not any(
        isinstance(value, torch.Tensor) for value in loose
    )


def fill(network: nn.Module, path: Path, *, trust: bool = False) -> None:
    """Fill a network from a checkpoint in a file; see `read_state_dict` and `fill_from`."""
    fill_from(network, read_state_dict(path, trust=trust), path)


def read_state_dict(path: Path, *, trust: bool = False) -> State:
    """Return the tensors of a checkpoint by name.

    Understood are safetensors, and what torch.save writes: a state dict, or one among other
    things (``{"epoch": 3, "state_dict": {...}}``), at any depth. The file is mapped into memory
    where torch can, so that weights which are never used are never read.

    Parameters
    ----------
    path : Path
    trust : bool
        Unpickle whatever the file holds, which may run code. By default only tensors and plain
        containers are.

    Raises
    ------
    WeightsError
        If the file is no checkpoint, holds none, or holds more than tensors and is not trusted.
    MissingExtraError
        For safetensors without the package of that name.
    """
    # By its name alone torch.load, too, takes a file for one.
    safe = path.suffix == ".safetensors" or _is_safetensors(path)
    content = _read_safetensors(path) if safe else _unpickle(path, trust)
    if isinstance(content, nn.Module):  # trusted
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict")
    found = _nested(content)
    if found is None:
        raise WeightsError(f"{path} holds no state dict, but {_keys(content)}")
    return found


def fill_from(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fill a network from a state dict; on the meta device it takes the tensors as they are.

    Prefixes that wrappers have put in front of all names are taken away. Counters of batch norms,
    which old checkpoints lack, are left at 0. The network computes in float32, whatever the
    checkpoint holds, and is not trained.

    Raises
    ------
    WeightsError
        If names or shapes differ; the message names the first ones.
    """
    expected = network.state_dict()
    state = _without_prefix(state, expected)
    counters = (name for name in expected if name.endswith("num_batches_tracked"))
    state.update({name: torch.tensor(0) for name in counters if name not in state})
    if not hasattr(state, "_metadata"):  # the versions of modules, which some of them ask for
        state._metadata = expected._metadata  # type: ignore[attr-defined]
    if problem := _misfit(expected, state):
        raise WeightsError(
            f"{path} holds the weights of another network than {type(network).__name__}: {problem}"
        )
    if "assign" in inspect.signature(network.load_state_dict).parameters:
        on_meta = any(tensor.is_meta for tensor in expected.values())
        network.load_state_dict(state, assign=on_meta)
    else:  # torch 2.0
        if any(tensor.is_meta for tensor in expected.values()):
            network.to_empty(device="cpu")
        network.load_state_dict(state)
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


def _is_safetensors(path: Path) -> bool:
    """Tell by the content: eight bytes of length, then a JSON object."""
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK"


def _read_safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is in the safetensors format; run: pip install safetensors"
        ) from error
    try:
        return OrderedDict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({first_line(error)}); expected a whole file of "
            "that format"
        ) from error


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        # Only the zip format, torch's own since 1.6, can be mapped.
        mapped = _if_known(mmap=zipfile.is_zipfile(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch itself does not write
            return torch.load(path, map_location="cpu", weights_only=not trust, **mapped)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError, ImportError,
            AttributeError, KeyError, IndexError, TypeError, struct.error) as error:  # fmt: skip
        reason, advice = _what_it_seems(path, error), ""
        # torch's own words may advise to unpickle anything, which runs code.
        unsafe = isinstance(error, UnpicklingError) or "weights_only" in str(error)
        if reason is None and unsafe and not trust:
            reason = "it is no file of tensors alone"
            advice = ", or --trust if you made it yourself"
        raise WeightsError(
            f"{path} cannot be read as a checkpoint ({reason or first_line(error)}); expected a "
            f"state dict saved by torch.save{advice}"
        ) from error


def _what_it_seems(path: Path, error: Exception) -> str | None:
    """Say in a few words why a file is no checkpoint, None if torch's error has to tell.

    That of a file which is cut off, or is something else, may be a number or a name alone.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
        if not head:
            return "it is empty"
        cut_off = "it is cut off, as an interrupted download or copy leaves a file"
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                is_torchs = any(name.endswith("/data.pkl") for name in archive.namelist())
            return None if is_torchs else "it is a zip file of other things"
    except zipfile.BadZipFile:
        return cut_off
    except OSError as why:
        return reason_of(why)
    if not head.startswith(b"\x80"):  # of a pickle
        return f"it begins with {head!r}"
    ends = isinstance(error, (EOFError, IndexError)) or re.search("EOF|truncated", str(error))
    return cut_off if ends else None


def _nested(content: Mapping[Any, Any]) -> State | None:
    """Return the state dict that a mapping is, or that lies in it."""
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return _like(content, {str(name): tensor for name, tensor in content.items()})
    for key in _NESTS:
        if isinstance(inner := content.get(key), Mapping) and (found := _nested(inner)):
            return found
    return None


def _without_prefix(state: Mapping[str, torch.Tensor], expected: Mapping[str, Any]) -> State:
    """Return the state under the names of a network, if a known prefix is all that differs."""
    names, removed = dict(state), ""
    while not names.keys() & expected.keys():
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None or not names:
            return _like(state, state)
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
        removed += prefix
    return _like(state, names, removed)


def _like(
    original: Mapping[Any, Any], tensors: Mapping[str, torch.Tensor], removed: str = ""
) -> State:
    """Return a state dict with the versions of modules that another one has, if it has any."""
    state: State = OrderedDict(tensors)
    if (versions := getattr(original, "_metadata", None)) is not None:
        inner = {f"{name}."[len(removed) :].rstrip("."): value for name, value in versions.items()
                 if f"{name}.".startswith(removed)}  # fmt: skip
        state._metadata = OrderedDict(inner)  # type: ignore[attr-defined]
    return state


def _misfit(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """Say in a few words how a state dict does not fit; nothing where it does."""
    problems = []
    for what, names in (
        ("lacks", [name for name in expected if name not in state]),
        ("has besides", [name for name in state if name not in expected]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"it {what} {', '.join(names[:3])}{more}")
    for name in (name for name in expected if name in state):
        here, there = list(expected[name].shape), list(state[name].shape)
        if here != there:
            problems.append(f"{name} is {there} there, {here} here")
            break
    return "; ".join(problems)


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"the keys {', '.join(map(str, list(content)[:8]))}" if content else "nothing"


def _if_known(**options: Any) -> dict[str, Any]:
    """Return those options that this version of `torch.load` has."""
    known = inspect.signature(torch.load).parameters
    return {name: value for name, value in options.items() if name in known}


def first_line(error: BaseException) -> str:
    """Return an error of a library as the middle of a line of ours."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(text[:2])[:200]
