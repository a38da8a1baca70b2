"""References from files: RDMs of brains and behaviour, or measured patterns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..compare import Kernel, crossnobis, kernel, rdm, read_rsatoolbox
from ..compare.files import ABOUT_KEY, ID_KEY, SUBJECT_KEY, npz_arrays, read_npz
from ..errors import RequestError, nearest
from ..rdm import RDM
from ..store import is_rdm_file, read_rdms
from ..weights import file_sha256

__all__ = ["Reference", "read_id_list", "read_references"]

_RUN_KEY, _PRECISION_KEY = "run", "noise_precision"
_NO_REFERENCES = (ID_KEY, SUBJECT_KEY, ABOUT_KEY, _RUN_KEY, _PRECISION_KEY)
"""Keys that tell something of the others."""


@dataclass(frozen=True)
class Reference:
    """One reference: an RDM, or patterns measured for each image."""

    name: str
    rdm: RDM | None = None
    patterns: npt.NDArray[Any] | None = None
    """`[N, channels]`, or `[subjects, N, channels]`."""
    ids: tuple[str, ...] = ()
    """Of the images of the patterns."""
    sha256: str = ""
    """Of the file."""
    subjects: tuple[str, ...] = field(default=())

    def called(self, name: str) -> Reference:
        """Return the same under another name."""
        record = None if self.rdm is None else replace(self.rdm, name=name)
        return replace(self, name=name, rdm=record)

    def rdm_of(self, metric: str, memory: int | str) -> RDM:
        """Return the RDM: as it was given, or of the patterns."""
        if self.rdm is not None:
            return self.rdm
        assert self.patterns is not None
        stack = self.patterns if self.patterns.ndim == 3 else self.patterns[None]
        made = [
            rdm(patterns, metric, ids=self.ids, name=self.name, memory=memory) for patterns in stack
        ]
        if self.patterns.ndim == 2:
            return made[0]
        return RDM(
            np.stack([one.dissimilarities for one in made]),
            self.ids,
            metric,
            self.name,
            self.subjects,
        )

    def kernel(self, memory: int | str) -> Kernel | None:
        """Return the inner products of the patterns of one subject, if there are any."""
        if self.patterns is None or self.patterns.ndim == 3:
            return None
        return kernel(self.patterns, ids=self.ids, name=self.name, memory=memory)


def read_references(text: str, ids: Sequence[str] | None = None) -> list[Reference]:
    """Read all references of a file.

    Parameters
    ----------
    text : str
        Of the file, ``it.npz``, or of one of its keys, ``it.npz:human_IT``.
    ids : sequence of str, optional
        Of the images, where the file has none.

    Returns
    -------
    list of Reference

    Raises
    ------
    RequestError
        If there is no such file or key, it cannot be read, or holds no reference.
    """
    path, key = _split(text)
    suffix = path.suffix.lower()
    readers = {".npz": _npz, ".npy": _npy, ".mat": _mat, ".csv": _csv, ".h5": _hdf5}
    reader = {**readers, ".hdf5": _hdf5, ".tsv": _csv}.get(suffix)
    if reader is None:
        raise RequestError(
            f"{path}: expected npz, npy, mat, csv, or h5 of this package or of rsatoolbox, got "
            f"{suffix or 'no ending'}"
        )
    found = reader(path, None if ids is None else tuple(ids), key)
    if key is not None:
        names = [reference.name for reference in found]
        if key not in names:
            close = nearest(key, names) or names
            raise RequestError(f"{path} has no reference {key!r}; it has {', '.join(close)}")
        found = [reference for reference in found if reference.name == key]
    sha256 = file_sha256(path)
    return [replace(reference, sha256=sha256) for reference in found]


def read_id_list(path: Path) -> tuple[str, ...]:
    """Read ids, one a line.

    Raises
    ------
    RequestError
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the ids {path}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _split(text: str) -> tuple[Path, str | None]:
    if not text:
        raise RequestError("reference '': empty; is a shell variable unset?")
    path = Path(text)
    if path.is_file():
        return path, None
    before, colon, key = text.rpartition(":")
    if colon and Path(before).is_file():
        return Path(before), key
    what = "is a folder" if path.is_dir() else "does not exist"
    raise RequestError(f"reference {text} {what}; name a file, such as human_IT.npz")


def _npz(path: Path, ids: tuple[str, ...] | None, key: str | None) -> list[Reference]:
    arrays = npz_arrays(path)
    if ABOUT_KEY in arrays:
        return [Reference(record.name, record) for record in read_npz(path, ids)]
    return _of_arrays(path, arrays, ids, key)


def _npy(path: Path, ids: tuple[str, ...] | None, key: str | None) -> list[Reference]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    return _of_arrays(path, {path.stem: array}, ids, key)


def _mat(path: Path, ids: tuple[str, ...] | None, key: str | None) -> list[Reference]:
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
    except NotImplementedError:
        raise RequestError(f"{path} is a mat file of version 7.3; save it with -v7") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in content.items():
        array = np.asarray(value)
        if {"RDM", "name"} <= set(array.dtype.names or ()):  # of MATLAB's RSA toolbox
            for record in array.ravel():
                arrays[str(record["name"])] = np.asarray(record["RDM"], dtype=np.float64)
        elif not name.startswith("__"):
            arrays[name] = array
    return _of_arrays(path, arrays, ids, key)


def _hdf5(path: Path, _ids: tuple[str, ...] | None, _key: str | None) -> list[Reference]:
    if is_rdm_file(path):
        return [Reference(record.name, record) for record in read_rdms(path)]
    if not h5py.is_hdf5(path):
        raise RequestError(f"{path} is not an HDF5 file")
    with h5py.File(path, "r") as file:
        theirs = "rsatoolbox_version" in file.attrs
    if not theirs:
        raise RequestError(
            f"{path} holds no RDMs: expected a file of this package (rdms.h5) or of rsatoolbox; a "
            "feature store is given as STORE, not as --reference"
        )
    return [Reference(path.stem, read_rsatoolbox(path))]


def _of_arrays(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    ids: tuple[str, ...] | None,
    chosen: str | None,
) -> list[Reference]:
    """Tell apart RDMs and measured patterns by their shapes."""
    if ID_KEY in arrays:
        ids = tuple(_text(value) for value in np.ravel(arrays[ID_KEY]))
    if ids is None:
        raise RequestError(
            f"{path} has no {ID_KEY!r} with the ids of the images, by which everything is joined; "
            "add it, or give --reference-ids FILE, one id a line"
        )
    own = {key: array for key, array in arrays.items() if key not in _NO_REFERENCES}
    if chosen in own:
        own = {chosen: own[chosen]}
    if not own:
        raise RequestError(f"{path} holds no reference, only {', '.join(arrays) or 'nothing'}")
    if len(set(ids)) < len(ids):
        return _of_repeats(path, own, ids, arrays)
    subjects = arrays.get(SUBJECT_KEY)
    return [_one_array(path, key, array, ids, subjects) for key, array in own.items()]


def _text(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def _one_array(
    path: Path, name: str, array: npt.NDArray[Any], ids: tuple[str, ...], named: Any
) -> Reference:
    n = len(ids)
    pairs = n * (n - 1) // 2
    if array.shape == (n,):  # one rating an image
        array = array[:, None]
    condensed = array.shape[-1:] == (pairs,) and array.ndim <= 2 and array.shape != (n, pairs)
    of_images = array.ndim in (2, 3) and array.shape[-2] == n
    if array.dtype.kind not in "fiu":
        raise RequestError(
            f"{path}: {name} holds {array.dtype}; expected real numbers; {path.name}:KEY takes one "
            "key alone"
        )
    if not (condensed or of_images):
        raise RequestError(
            f"{path}: {name} of shape {array.shape} is neither an RDM [{n}, {n}] (or its {pairs} "
            f"pairs) nor patterns [{n}, channels] of the {n} images, nor several of them "
            f"[subjects, ...]; {path.name}:KEY takes one key alone"
        )
    subjects: tuple[str, ...] = ()
    if array.ndim == (2 if condensed else 3):
        subjects = tuple(str(k) for k in range(len(array)))
        if named is not None:
            subjects = tuple(_text(value) for value in np.ravel(named))
            if len(subjects) != len(array) or len(set(subjects)) < len(subjects):
                raise RequestError(
                    f"{path}: {SUBJECT_KEY!r} names {', '.join(subjects[:6])}; expected "
                    f"{len(array)} different names, one for each subject of {name}"
                )
    if condensed:
        return Reference(name, RDM(array, ids, "", name, subjects))
    if array.shape[-1] == n:
        return Reference(name, RDM.from_square(array, ids, name=name, subjects=subjects))
    return Reference(name, patterns=array, ids=ids, subjects=subjects)


def _of_repeats(
    path: Path,
    own: Mapping[str, npt.NDArray[Any]],
    ids: tuple[str, ...],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> list[Reference]:
    """Make crossvalidated RDMs of measurements that repeat images."""
    if _RUN_KEY not in arrays:
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise RequestError(
            f"{path}: the image id {twice!r} is there twice; if images were measured repeatedly, "
            f"a key {_RUN_KEY!r} has to tell which measurements belong together"
        )
    runs = [_text(value) for value in np.ravel(arrays[_RUN_KEY])]
    precision = arrays.get(_PRECISION_KEY)
    return [
        Reference(key, crossnobis(array, ids, runs, noise_precision=precision, name=key))
        for key, array in own.items()
    ]


def _csv(path: Path, _ids: tuple[str, ...] | None, _key: str | None) -> list[Reference]:
    """Read a square table with ids at its head and its side, or one line of numbers an image."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [line for line in csv.reader(stream, delimiter=delimiter) if line]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as CSV: {error}") from error
    if len(lines) < 2:
        raise RequestError(f"{path}: expected a head line, then an id and numbers in each line")
    head = lines.pop(0)
    if len(head) < 2:
        raise RequestError(f"{path}: one column; expected columns parted by {delimiter!r}")
    ids = tuple(line[0] for line in lines)
    runs = [line.pop(1) for line in lines] if head[1:2] == [_RUN_KEY] else None
    head = head if runs is None else [head[0], *head[2:]]
    try:
        numbers = np.array([[float(cell) for cell in line[1:]] for line in lines])
    except ValueError as error:
        raise RequestError(
            f"{path}: expected a head line, then an id and numbers in each line; {error}"
        ) from error
    if numbers.ndim != 2 or numbers.shape[1] != len(head) - 1:
        raise RequestError(f"{path}: expected {len(head) - 1} numbers in each line")
    if runs is not None:
        return [Reference(path.stem, crossnobis(numbers, ids, runs, name=path.stem))]
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise RequestError(
            f"{path}: the image id {twice!r} is there twice; if images were measured repeatedly, "
            f"a second column {_RUN_KEY!r} has to tell which measurements belong together"
        )
    if len(head) - 1 == len(ids) and set(head[1:]) == set(ids):  # in any order
        place = {image_id: column for column, image_id in enumerate(head[1:])}
        numbers = numbers[:, [place[image_id] for image_id in ids]]
        return [Reference(path.stem, RDM.from_square(numbers, ids, name=path.stem))]
    return [Reference(path.stem, patterns=numbers, ids=ids)]
