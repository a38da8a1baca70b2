"""RDMs in NumPy's own files: square matrices beside the ids of their rows."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DAMAGE, RequestError, StoreError, given_path
from ..partial_files import partial_name
from ..rdm import RDM

__all__ = ["ABOUT_KEY", "ID_KEY", "SUBJECT_KEY", "npz_arrays", "read_npz", "write_npz"]

ID_KEY, SUBJECT_KEY, ABOUT_KEY = "image_id", "subject", "about"


def write_npz(path: str | os.PathLike[str], rdms: Sequence[RDM]) -> None:
    """Write RDMs of the same images to one npz file.

    Its keys are the names of the RDMs, each a square matrix or a stack of them, ``image_id``, and
    ``about``: JSON with metric, subjects and provenance by name.

    Raises
    ------
    RequestError
        If they are of other images, or two have one name.
    OSError
    """
    path = given_path(path, "write_npz")
    if not rdms:
        raise RequestError(f"{path}: no RDM was given")
    names = [record.name for record in rdms]
    for record in rdms:
        if record.ids is None or record.ids != rdms[0].ids:
            raise RequestError(
                f"{record.name} and {rdms[0].name} are not of the same images with the same ids; "
                "write one file each, or use subset"
            )
        if names.count(record.name) > 1 or record.name in (ID_KEY, SUBJECT_KEY, ABOUT_KEY):
            raise RequestError(f"the name {record.name!r} is taken; rename one of the RDMs")
    about = {
        record.name: {
            "metric": record.metric,
            "subjects": list(record.subjects),
            "provenance": dict(record.provenance),
        }
        for record in rdms
    }
    arrays: dict[str, Any] = {record.name: record.square() for record in rdms}
    arrays[ID_KEY] = np.array(rdms[0].ids)
    arrays[ABOUT_KEY] = np.array(json.dumps(about))
    scratch = partial_name(path)
    try:
        with scratch.open("xb") as stream:
            np.savez(stream, **arrays)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike[str], ids: Sequence[str] | None = None) -> list[RDM]:
    """Read all RDMs of an npz file: every key that holds a square matrix or a stack of them.

    Parameters
    ----------
    path : path
    ids : sequence of str, optional
        Of the images, where the file has no ``image_id``.

    Raises
    ------
    StoreError
        If it is no npz file.
    RequestError
        If there are no ids, or no RDM.
    """
    path = given_path(path, "read_npz")
    arrays = npz_arrays(path)
    given = arrays.get(ID_KEY, ids)
    about = json.loads(str(arrays[ABOUT_KEY])) if ABOUT_KEY in arrays else {}
    squares = {key: array for key, array in arrays.items() if _is_square(array)}
    if not squares:
        raise RequestError(f"{path} has no RDM: no square matrix under {', '.join(arrays)}")
    if given is None:
        raise RequestError(
            f"{path} has no key {ID_KEY!r} with the ids of the images, by which everything is "
            "joined; add it, or give --reference-ids FILE"
        )
    return [
        RDM.from_square(
            array,
            [str(image_id) for image_id in given],
            metric=about.get(key, {}).get("metric", ""),
            name=key,
            subjects=_subjects(key, array, arrays, about),
            provenance=about.get(key, {}).get("provenance", {"file": str(path)}),
        )
        for key, array in squares.items()
    ]


def npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of an npz file.

    Raises
    ------
    StoreError
        If it is none.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        # Opened here, because NumPy leaves a file that it cannot read open.
        with path.open("rb") as stream, zipfile.ZipFile(stream):
            content = np.load(stream, allow_pickle=False)
            for key in content.files:
                arrays[key] = content[key]
    except DAMAGE as error:
        reason: object = error
        if "allow_pickle" in str(error):  # NumPy's advice would run code
            key = next(key for key in content.files if key not in arrays)
            reason = f"{key} holds Python objects; save numbers, or texts as {key}.astype(str)"
        raise StoreError(f"{path} cannot be read as an npz file: {reason}") from error
    return arrays


def _is_square(array: npt.NDArray[Any]) -> bool:
    return (
        array.dtype.kind in "fiu"
        and array.ndim in (2, 3)
        and array.shape[-1] == array.shape[-2]
        and array.shape[-1] > 1
    )


def _subjects(
    key: str, array: npt.NDArray[Any], arrays: dict[str, npt.NDArray[Any]], about: dict[str, Any]
) -> tuple[str, ...]:
    if array.ndim == 2:
        return ()
    if known := about.get(key, {}).get("subjects"):
        return tuple(known)
    named = arrays.get(SUBJECT_KEY)
    if named is not None and named.shape == (len(array),):
        return tuple(str(subject) for subject in named)
    return ()
