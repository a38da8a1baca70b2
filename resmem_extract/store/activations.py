"""`split_activations` and `merge_activations`, as thingsvision has them, but exact inverses.

For arrays in memory or in ``.npy`` files, without ids; a store brings its own, and is split and
merged by `split_store` and `merge_stores`, to which these two hand it on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DAMAGE, RequestError, given_path
from ..partial_files import make_folders, partial_name
from .merge import Merged, merge_stores
from .reader import Store
from .split import Part, split_store

__all__ = ["merge_activations", "split_activations"]

Array = npt.NDArray[Any]
Arrays = Array | Mapping[str, Array]
"""Activations `[N, ...]` of one module, or of several by name."""

_STORE = {".h5", ".hdf5"}
_NAME = "activations.part-{number:0{width}d}-of-{parts}"
_NUMBERED = re.compile(r"(.+)\.part-(\d+)-of-(\d+)")


def split_activations(
    activations: Arrays | str | os.PathLike[str] | Store,
    n_splits: int,
    out: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """Split activations along the images into exactly `n_splits` parts.

    Parameters
    ----------
    activations : array `[N, ...]`, mapping of such arrays, or path of a store
    n_splits : int
        At most `N`; sizes differ by one image at most (in a store by whole chunks).
    out : path, optional
        A folder for files: ``activations.part-01-of-10.npy``, ``.npz`` for a mapping, or the parts
        of the store. Without it parts stay in memory, as views.

    Returns
    -------
    list
        Of arrays, of mappings, of paths, or of `Part`.

    Raises
    ------
    RequestError
        If there are fewer images than parts, arrays differ in length, or a store is to be split
        without `out`.

    Examples
    --------
    >>> parts = split_activations(np.arange(10.0), 3)
    >>> [len(part) for part in parts]
    [4, 3, 3]
    >>> merge_activations(parts).tolist() == list(range(10))
    True
    """
    if isinstance(activations, Store):
        activations = activations.path
    if isinstance(activations, (str, os.PathLike)):
        if out is None:
            raise RequestError("split_activations: the parts of a store need a folder; give out")
        stores: list[Part] = split_store(activations, out, parts=n_splits)
        return stores
    arrays = _as_arrays(activations)
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1:
        raise RequestError(f"split_activations: arrays of {sorted(lengths)} images, not of one N")
    (n_images,) = lengths
    if not 1 <= n_splits <= n_images:
        raise RequestError(f"{n_images} images cannot be split into {n_splits} parts")
    pieces = {name: np.array_split(array, n_splits) for name, array in arrays.items()}
    parts = [{name: piece[i] for name, piece in pieces.items()} for i in range(n_splits)]
    made: list[Arrays] = (
        list(parts) if isinstance(activations, Mapping) else [part[""] for part in parts]
    )
    return made if out is None else _save(made, given_path(out, "out"))


def _as_arrays(activations: Arrays) -> dict[str, Array]:
    """Return arrays by name; one alone has the empty name."""
    if isinstance(activations, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in activations.items()}
    else:
        arrays = {"": np.asarray(activations)}
    for name, array in arrays.items():
        if array.ndim == 0 or array.dtype == object:
            raise RequestError(
                f"{name or 'activations'}: expected an array [N, ...], got {array!r}"
            )
    return arrays


def _save(parts: Sequence[Arrays], folder: Path) -> list[Path]:
    paths = []
    for number, part in enumerate(parts, start=1):
        name = _NAME.format(number=number, width=len(str(len(parts))), parts=len(parts))
        path = folder / f"{name}{'.npz' if isinstance(part, Mapping) else '.npy'}"
        if path.exists():
            raise RequestError(f"{path} exists; remove it, or give another folder")
        make_folders(path)
        scratch = partial_name(path)
        try:
            with scratch.open("xb") as stream:
                if isinstance(part, Mapping):
                    np.savez(stream, **part)  # type: ignore[arg-type]
                else:
                    np.save(stream, part)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        paths.append(path)
    return paths


def merge_activations(
    parts: Sequence[Arrays | str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
) -> Arrays | Merged:
    """Merge activations that were split; the inverse of `split_activations`.

    Parameters
    ----------
    parts : sequence, or path of a folder
        Arrays or mappings of arrays, in order; or files that `split_activations` wrote, in any
        order, or the folder that holds them; or stores.
    out : path, optional
        The file to write, where the parts are stores.

    Returns
    -------
    array, mapping of arrays, or `Merged`

    Raises
    ------
    RequestError
        If parts are missing, or do not fit together.
    """
    if isinstance(parts, (str, os.PathLike)):
        folder = given_path(parts, "parts")
        if not folder.is_dir():
            raise RequestError(f"{folder} is no folder; give the folder of the parts, or a list")
        parts = sorted(
            path for path in folder.iterdir() if path.suffix in {".npy", ".npz", *_STORE}
        )
    if not parts:
        raise RequestError("merge_activations: no parts were given")
    if not all(isinstance(part, (str, os.PathLike)) for part in parts):
        return _concatenated([part for part in parts if not isinstance(part, (str, os.PathLike))])
    paths = [given_path(part, "parts") for part in parts]
    if {path.suffix for path in paths} <= _STORE:
        if out is None:
            raise RequestError("merge_activations: stores are merged into a file; give out")
        return merge_stores(paths, out)
    return _concatenated([_load(path) for path in _in_order(paths)])


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """Return files of one split by their numbers, all of them.

    Raises
    ------
    RequestError
        If names have no numbers, a number is missing or there twice, or names belong to two splits.
    """
    numbered: dict[int, Path] = {}
    wholes = set()
    for path in paths:
        found = _NUMBERED.fullmatch(path.stem)
        if not found:
            raise RequestError(f"{path} is not named as a part, as in activations.part-1-of-3.npy")
        wholes.add((found[1], int(found[3])))
        if int(found[2]) in numbered:
            raise RequestError(f"{path} and {numbered[int(found[2])]} have the same number")
        numbered[int(found[2])] = path
    if len(wholes) > 1:
        raise RequestError(
            f"{paths[0]} and the others come from {len(wholes)} splits, not from one"
        )
    ((_, n_parts),) = wholes
    if missing := [number for number in range(1, n_parts + 1) if number not in numbered]:
        raise RequestError(f"part {', '.join(map(str, missing))} of {n_parts} is missing")
    return [numbered[number] for number in sorted(numbered)]


def _load(path: Path) -> Arrays:
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except DAMAGE as error:
        raise RequestError(f"{path} cannot be read: {error}") from error


def _concatenated(parts: Sequence[Arrays]) -> Arrays:
    if not isinstance(parts[0], Mapping):
        single = [_as_arrays(part) for part in parts]
        if any("" not in part for part in single):
            raise RequestError("merge_activations: some parts are arrays, others mappings")
        return _joined([part[""] for part in single], "activations")
    named = [_as_arrays(part) for part in parts]
    for part in named:
        if part.keys() != named[0].keys():
            raise RequestError(f"parts have {', '.join(named[0])} and {', '.join(part)}")
    return {name: _joined([part[name] for part in named], name) for name in named[0]}


def _joined(arrays: Sequence[Array], name: str) -> Array:
    first = arrays[0]
    for array in arrays:
        if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
            raise RequestError(
                f"{name}: {first.dtype} {first.shape[1:]} in one part, {array.dtype} "
                f"{array.shape[1:]} in another"
            )
    return np.concatenate(arrays)
