"""References from files: RDMs of brains and behaviour, or measured patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..compare import Kernel, crossnobis, kernel, rdm, read_rsatoolbox
from ..compare.files import ABOUT_KEY, SUBJECT_KEY, read_npz
from ..errors import DAMAGE, RequestError, counted, nearest
from ..rdm import RDM
from ..store import is_rdm_file, read_rdms
from ..weights import file_sha256
from .array_files import (
    ID_KEY,
    OF_TARGETS,
    PLACES_KEY,
    RUN_KEY,
    TARGET_KEY,
    GivenIds,
    check_real,
    column_numbers,
    hdf5_format,
    holds_rdm,
    ids_of,
    read_arrays,
    read_table,
    repeated,
    with_both_triangles,
)

__all__ = ["Reference", "file_and_key", "read_references"]

_PRECISION_KEY = "noise_precision"
_NO_REFERENCES = (ID_KEY, SUBJECT_KEY, ABOUT_KEY, RUN_KEY, _PRECISION_KEY)
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
    note: str = ""
    """What the user may not expect of how it was read."""

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
    path, key = file_and_key(text)
    suffix = path.suffix.lower()
    readers = {".npz": _npz, ".npy": _npy, ".mat": _mat, ".csv": _csv, ".h5": _hdf5}
    reader = {**readers, ".hdf5": _hdf5, ".tsv": _csv}.get(suffix)
    if reader is None:
        raise RequestError(
            f"{path}: expected npz, npy, mat, csv, or h5 of this package or of rsatoolbox, got "
            f"{suffix or 'no ending'}"
        )
    found = reader(path, GivenIds(None if ids is None else tuple(ids), "--reference-ids"), key)
    if key is not None:
        names = [reference.name for reference in found]
        if key not in names:
            close = nearest(key, names) or names
            raise RequestError(f"{path} has no reference {key!r}; it has {', '.join(close)}")
        found = [reference for reference in found if reference.name == key]
    sha256 = file_sha256(path)
    return [replace(reference, sha256=sha256) for reference in found]


def file_and_key(text: str) -> tuple[Path, str | None]:
    """Return the parts of ``it.npz:human_IT``; the key is None where there is none.

    Raises
    ------
    RequestError
        If there is no such file.
    """
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


def _npz(path: Path, given: GivenIds, key: str | None) -> list[Reference]:
    arrays = read_arrays(path)
    if ABOUT_KEY in arrays:
        return _of_rdms(path, read_npz(path, given.ids), given)
    return _of_arrays(path, arrays, given, key)


def _of_rdms(path: Path, records: Sequence[RDM], given: GivenIds) -> list[Reference]:
    for record in records:
        given.beside(path, record.ids)
    return [Reference(record.name, record) for record in records]


def _npy(path: Path, given: GivenIds, key: str | None) -> list[Reference]:
    return _of_arrays(path, read_arrays(path, npy_name=path.stem), given, key)


def _mat(path: Path, given: GivenIds, key: str | None) -> list[Reference]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if h5py.is_hdf5(path):
        raise RequestError(f"{path} is a mat file of version 7.3; save it with -v7")
    try:
        content = loadmat(path, squeeze_me=True)
    except (*DAMAGE, MatReadError, IndexError) as error:  # the last where the header is cut short
        raise RequestError(f"{path} cannot be read as a mat file: {error}") from error
    named: list[tuple[str, npt.NDArray[Any]]] = []
    for name, value in content.items():
        array = np.asarray(value)
        if {"RDM", "name"} <= set(array.dtype.names or ()):  # of MATLAB's RSA toolbox
            named += [(str(one["name"]), np.asarray(one["RDM"])) for one in array.ravel()]
        elif not name.startswith("__"):
            named.append((name, array))
    if (twice := repeated([name for name, _ in named])) is not None:
        raise RequestError(f"{path}: two references are named {twice!r}; rename one in the file")
    return _of_arrays(path, dict(named), given, key)


def _hdf5(path: Path, given: GivenIds, key: str | None) -> list[Reference]:
    format_ = hdf5_format(path)
    if is_rdm_file(path):
        return _of_rdms(path, read_rdms(path), given)
    if format_ == "rsatoolbox":
        return _of_rdms(path, [read_rsatoolbox(path, given.ids)], given)
    arrays = {} if format_.startswith("resmem-extract") else read_arrays(path)
    if not arrays:
        raise RequestError(
            f"{path} holds no references: expected RDMs of this package (rdms.h5) or of "
            f"rsatoolbox, or arrays [N, channels] beside {ID_KEY!r}; a feature store is given as "
            "STORE, not as --reference"
        )
    return _of_arrays(path, arrays, given, key)


def _of_arrays(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    given: GivenIds,
    chosen: str | None,
) -> list[Reference]:
    """Tell apart RDMs and measured patterns by their shapes."""
    ids = ids_of(path, arrays, given)
    own = {
        key: array
        for key, array in arrays.items()
        if key == chosen or not _tells_of_others(key, array, len(ids))
    }
    n_own = len(own)
    if chosen in own:
        own = {chosen: own[chosen]}
    if not own:
        raise RequestError(f"{path} holds no reference, only {', '.join(arrays) or 'nothing'}")
    for key, array in own.items():
        hint = f"; {path.name}:KEY takes one key alone" if n_own > 1 else ""
        check_real(path, key, array, hint)
    if (twice := repeated(ids)) is not None:
        return _of_repeats(path, own, ids, twice, arrays)
    return [_one_array(path, key, array, ids, arrays) for key, array in own.items()]


def _tells_of_others(key: str, array: npt.NDArray[Any], n: int) -> bool:
    """Tell whether an array says something of images, subjects or channels, and is no reference."""
    if key in OF_TARGETS:
        return array.ndim == (2 if key == PLACES_KEY else 1)
    return key in _NO_REFERENCES or (array.shape == (n,) and array.dtype.kind in "OSU")


def _one_array(
    path: Path,
    name: str,
    array: npt.NDArray[Any],
    ids: tuple[str, ...],
    beside: Mapping[str, npt.NDArray[Any]],
) -> Reference:
    """Return an array of a file as a reference, `beside` being all that the file holds."""
    n = len(ids)
    pairs = n * (n - 1) // 2
    if array.shape == (n,):  # one rating an image
        array = array[:, None]
    condensed = array.shape[-1:] == (pairs,) and array.ndim <= 2 and array.shape != (n, pairs)
    of_images = array.ndim in (2, 3) and array.shape[-2] == n
    if not (condensed or of_images):
        raise RequestError(
            f"{path}: {name} of shape {array.shape} is neither an RDM [{n}, {n}] (or its {pairs} "
            f"pairs) nor patterns [{n}, channels] of the {n} images, nor several of them "
            f"[subjects, ...]; {path.name}:KEY takes one key alone"
        )
    several = array.ndim == (2 if condensed else 3)
    subjects = _subjects(path, name, len(array), beside.get(SUBJECT_KEY)) if several else ()
    if condensed:
        return Reference(name, RDM(array, ids, "", name, subjects))
    has_channels = any(key in beside for key in OF_TARGETS)  # of which RDMs have none
    if array.shape[-1] == n and (holds_rdm(array) or not has_channels):
        hint = f"; if its {n} columns are channels, name them in the file, under {TARGET_KEY!r}"
        return Reference(name, _of_square(path, name, array, ids, subjects, hint))
    patterns = array.astype(np.float64) if array.dtype.kind == "b" else array
    note = ""
    if len(subjects) > 1 and SUBJECT_KEY not in beside:  # encode takes them for repeats
        note = (
            f"{path}: {name} {list(array.shape)} is taken for {len(subjects)} subjects; if they are"
            f" repeats, average them, or give measurements [{len(subjects) * n}, channels] with "
            f"{ID_KEY!r} and {RUN_KEY!r}"
        )
    return Reference(name, patterns=patterns, ids=ids, subjects=subjects, note=note)


def _subjects(path: Path, name: str, n: int, named: Any) -> tuple[str, ...]:
    if named is None:
        return tuple(str(k) for k in range(n))
    subjects = tuple(str(value) for value in np.ravel(named))
    if len(subjects) != n:
        raise RequestError(
            f"{path}: {SUBJECT_KEY!r} has {counted(len(subjects), 'name')}, {name} has "
            f"{counted(n, 'subject')}; name each of them, or leave {SUBJECT_KEY!r} out"
        )
    if (twice := repeated(subjects)) is not None:
        raise RequestError(
            f"{path}: {SUBJECT_KEY!r} has {twice!r} twice; expected {n} different names, one for "
            f"each subject of {name}; rename them, or leave {SUBJECT_KEY!r} out"
        )
    return subjects


def _of_square(
    path: Path,
    name: str,
    square: npt.NDArray[Any],
    ids: tuple[str, ...],
    subjects: tuple[str, ...] = (),
    hint: str = "",
) -> RDM:
    try:
        return RDM.from_square(with_both_triangles(square), ids, name=name, subjects=subjects)
    except RequestError as error:
        raise RequestError(f"{path}: {error}{hint}") from error


def _of_repeats(
    path: Path,
    own: Mapping[str, npt.NDArray[Any]],
    ids: tuple[str, ...],
    twice: str,
    arrays: Mapping[str, npt.NDArray[Any]],
) -> list[Reference]:
    """Make crossvalidated RDMs of measurements that repeat images."""
    for key, array in own.items():
        if holds_rdm(array):
            raise RequestError(
                f"{path}: the image id {twice!r} is there twice, and {key} is an RDM, of which "
                f"each row is another image; correct {ID_KEY!r}"
            )
    if RUN_KEY not in arrays:
        raise RequestError(_no_runs(path, twice, f"a key {RUN_KEY!r}"))
    runs = [str(value) for value in np.ravel(arrays[RUN_KEY])]
    precision = arrays.get(_PRECISION_KEY)
    return [
        Reference(key, crossnobis(array, ids, runs, noise_precision=precision, name=key))
        for key, array in own.items()
    ]


def _no_runs(path: Path, twice: str, where: str) -> str:
    return (
        f"{path}: the image id {twice!r} is there twice; if images were measured repeatedly, "
        f"{where} has to tell which measurements belong together"
    )


def _csv(path: Path, given: GivenIds, _key: str | None) -> list[Reference]:
    """Read a square table with ids at its head and its side, or one line of numbers an image."""
    (_, *names), lines = read_table(path)
    if not names:
        parted = "a tab" if path.suffix.lower() == ".tsv" else "','"
        raise RequestError(f"{path}: one column; expected columns parted by {parted}")
    if ID_KEY in names:
        raise RequestError(
            f"{path}: {ID_KEY!r} is column {2 + names.index(ID_KEY)}; expected the ids first: "
            "pandas writes no numbers of rows with index=False"
        )
    name = path.stem
    ids = tuple(line[0].strip() for line in lines)
    given.beside(path, ids)
    cells = {column: [line[k] for line in lines] for k, column in enumerate(names, start=1)}
    runs = cells.pop(RUN_KEY, None)
    columns = {column: column_numbers(path, column, own) for column, own in cells.items()}
    if not columns:
        raise RequestError(f"{path}: no numbers beside {RUN_KEY!r}; expected a column a channel")
    numbers = np.stack(list(columns.values()), axis=1)
    if runs is not None:
        return [Reference(name, crossnobis(numbers, ids, runs, name=name))]
    if (twice := repeated(ids)) is not None:
        raise RequestError(_no_runs(path, twice, f"a column {RUN_KEY!r}"))
    if {column.strip() for column in columns} == set(ids):
        of_image = {column.strip(): own for column, own in columns.items()}
        square = np.stack([of_image[image_id] for image_id in ids], axis=1)
        return [Reference(name, _of_square(path, name, square, ids))]
    if holds_rdm(numbers):
        strange = next(column for column in columns if column.strip() not in ids)
        raise RequestError(
            f"{path}: the numbers are an RDM, symmetric with a zero diagonal, but its head has "
            f"{strange!r}, which is no id at its side; expected the same ids at head and side"
        )
    return [Reference(name, patterns=numbers, ids=ids)]
