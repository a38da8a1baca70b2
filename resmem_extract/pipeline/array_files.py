"""Arrays, tables and ids of images as files hold them: what references and responses share."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..compare.files import ID_KEY, SUBJECT_KEY, npz_arrays
from ..errors import DAMAGE, RequestError, reason_of

__all__ = [
    "ID_KEY",
    "OF_MEASUREMENTS",
    "OF_TARGETS",
    "PLACES_KEY",
    "ROI_KEY",
    "RUN_KEY",
    "TARGET_KEY",
    "GivenIds",
    "check_named",
    "check_real",
    "column_numbers",
    "hdf5_format",
    "holds_rdm",
    "holds_texts",
    "ids_of",
    "read_arrays",
    "read_table",
    "repeated",
    "with_both_triangles",
]

Array = npt.NDArray[Any]

TARGET_KEY, ROI_KEY, PLACES_KEY = "target", "roi", "coordinates"
OF_TARGETS = (TARGET_KEY, ROI_KEY, PLACES_KEY, "ncsnr", "ceiling")
"""Keys with one value a target, which tell something of the responses."""
_UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
"""What a column without a name is called in a CSV, one that was read back, or a parquet file."""
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
RUN_KEY = "run"
OF_MEASUREMENTS = (RUN_KEY, "session", "split", SUBJECT_KEY)
"""Keys and columns that tell something of measurements also where they hold numbers."""


# Ids


@dataclass(frozen=True)
class GivenIds:
    """Ids of images that were given for files that have none."""

    ids: tuple[str, ...] | None
    option: str
    """Of the command line, by which they are given."""

    def beside(self, path: Path, own: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Return the ids that a file has, or else those given.

        Raises
        ------
        RequestError
            If there are both, and they differ: which of them is right is not known.
        """
        if own is None or self.ids is None or own == self.ids:
            return self.ids if own is None else own
        pairs = enumerate(zip(own, self.ids, strict=False))
        differ = (f"{a!r} and {b!r} in row {k}" for k, (a, b) in pairs if a != b)
        raise RequestError(
            f"{path} has ids of images, other ones than {self.option} gives: "
            f"{next(differ, f'{len(own)} and {len(self.ids)} of them')}; leave {self.option} out, "
            f"or write {ID_KEY!r} into the file that needs it"
        )


def ids_of(path: Path, arrays: Mapping[str, Array], given: GivenIds) -> tuple[str, ...]:
    """Return the ids of the images that a file has, or else those given.

    Blanks around an id do not count: MATLAB pads the rows of a text to one length.

    Raises
    ------
    RequestError
        If there are none, or both, and they differ.
    """
    own = None
    if ID_KEY in arrays:
        values = np.ravel(arrays[ID_KEY]).tolist()
        texts = (value.decode() if isinstance(value, bytes) else str(value) for value in values)
        own = tuple(text.strip() for text in texts)
    ids = given.beside(path, own)
    if ids is None:
        raise RequestError(
            f"{path} has no {ID_KEY!r} with the ids of the images, by which everything is joined; "
            f"add it, or give {given.option} FILE, one id a line"
        )
    return ids


def repeated(names: Sequence[str]) -> str | None:
    """Return the first name that is there twice, if there is one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


# Arrays


def read_arrays(path: Path, npy_name: str = "") -> dict[str, Array]:
    """Read all arrays of an npy, npz or HDF5 file; of the latter, those that are in no group.

    Parameters
    ----------
    path : Path
        The ending tells the format.
    npy_name : str
        What the array of an npy file is called.

    Raises
    ------
    RequestError
        If it cannot be read.
    """
    ending = path.suffix.lower()
    if ending == ".npz":
        return npz_arrays(path)
    if ending != ".npy":
        return _hdf5_arrays(path)
    try:
        return {npy_name: np.load(path, allow_pickle=False)}
    except DAMAGE as error:
        objects = "allow_pickle" in str(error)  # NumPy's advice would run code
        reason = "it holds Python objects; save an array of numbers" if objects else error
        raise RequestError(f"{path} cannot be read as an npy file: {reason}") from error


def hdf5_format(path: Path) -> str:
    """Return whose an HDF5 file is: ``rsatoolbox``, or what its attribute `format` says, if any.

    Raises
    ------
    RequestError
        If it is no HDF5 file, or a damaged one.
    """
    if not h5py.is_hdf5(path):
        raise RequestError(f"{path} is not an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            theirs = "rsatoolbox_version" in file.attrs
            return "rsatoolbox" if theirs else str(file.attrs.get("format", ""))
    except OSError as error:
        raise RequestError(f"{path} cannot be read as HDF5: {reason_of(error)}") from error


def _hdf5_arrays(path: Path) -> dict[str, Array]:
    hdf5_format(path)
    try:
        with h5py.File(path, "r") as file:
            found = {key: item for key, item in file.items() if isinstance(item, h5py.Dataset)}
            return {
                key: np.asarray(item.asstr()[()]).astype(str)
                if h5py.check_string_dtype(item.dtype)
                else np.asarray(item[()])
                for key, item in found.items()
            }
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as HDF5: {reason_of(error)}") from error


def check_real(path: Path, key: str, array: Array, hint: str = "") -> None:
    """Raise unless an array holds real numbers, or truth values."""
    kind = array.dtype.kind
    if kind not in "fiub":
        what = {"U": "text", "S": "text", "O": "objects", "V": "records"}
        raise RequestError(
            f"{path}: {key} holds {what.get(kind, array.dtype.name)}; expected real numbers{hint}"
        )


# Tables


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV, or a TSV: its line of names, and the lines after it, all of one length.

    Raises
    ------
    RequestError
        If it cannot be read, has no line of names, no second line, lines of different length, a
        column without a name but for the first, or a name twice.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            numbered = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read as a table: {error}") from error
    if len(numbered) < 2:
        what = "one line" if numbered else "empty"
        raise RequestError(f"{path}: {what}; expected a line of names, then one line an image")
    (_, head), *rest = numbered
    for number, line in rest:
        if len(line) != len(head):
            raise RequestError(
                f"{path}, line {number}: {len(line)} cells; expected {len(head)}, one a column"
            )
    check_named(path, head[1:], 2)
    if _is_data(head, [line[0] for _, line in rest]):
        raise RequestError(
            f"{path}: the first line is {', '.join(head[:2])}, ..., as that of an image; expected "
            f"a line of names before it, such as {ID_KEY}, a, b"
        )
    if (double := repeated(head)) is not None:
        raise RequestError(f"{path}: two columns are named {double!r}; rename one")
    return head, [line for _, line in rest]


def _is_data(head: Sequence[str], side: Sequence[str]) -> bool:
    """Tell whether a first line is that of an image already: its id, and numbers.

    Names may be numbers too: those of channels after ``image_id`` or an empty cell, as pandas
    writes them, and those of images, as in a square table.
    """
    corner, *names = (cell.strip() for cell in head)
    if corner == ID_KEY or _UNNAMED.fullmatch(corner):
        return False
    if set(names) == {cell.strip() for cell in side}:
        return False
    return bool(names) and None not in map(_as_number, names)


def check_named(path: Path, names: Sequence[str], first: int = 1) -> None:
    """Raise if a column has no name, or one that pandas gives to those without: row numbers.

    Parameters
    ----------
    path : Path
    names : sequence of str
    first : int
        Which column of the file the first name is of.

    Raises
    ------
    RequestError
    """
    for number, name in enumerate(names, start=first):
        if _UNNAMED.fullmatch(name.strip()):
            raise RequestError(
                f"{path}: column {number} has no name (it is {name!r}); give it one, or leave it "
                "out: pandas writes no numbers of rows with index=False"
            )


def column_numbers(
    path: Path, name: str, cells: Sequence[Any], hint: str = ""
) -> npt.NDArray[np.float64]:
    """Return a column as numbers; an empty cell is NaN, of which the caller complains.

    Raises
    ------
    RequestError
        If a cell holds something else.
    """
    values = [_as_number(cell) for cell in cells]
    if None in values:
        wrong = cells[values.index(None)]
        raise RequestError(f"{path}: column {name!r} holds {wrong!r}; expected numbers{hint}")
    return np.array(values, dtype=np.float64)


def holds_texts(cells: Sequence[Any]) -> bool:
    """Tell whether no cell of a column is a number, be it one with a decimal comma, or empty."""
    texts = all(isinstance(cell, str) and _as_number(cell) is None for cell in cells)
    return texts and not all(map(_DECIMAL_COMMA.fullmatch, cells))


def _as_number(cell: Any) -> float | None:
    """Return a cell as a number, NaN for an empty one; None if it holds something else."""
    try:
        return np.nan if cell is None or cell == "" else float(cell)
    except (TypeError, ValueError):
        return None


# RDMs


def with_both_triangles(square: Array) -> Array:
    """Return matrices of which one triangle is empty with the other one in its place.

    Parameters
    ----------
    square : array, `[..., N, N]`

    Returns
    -------
    array, `[..., N, N]`
        `square` itself where both triangles hold something, or neither. Empty is what holds
        nothing but zeros and NaN.
    """
    numbers = np.asarray(square, dtype=np.float64)
    rows, columns = np.tril_indices(square.shape[-1], -1)
    for i, j in ((rows, columns), (columns, rows)):
        filled, other = numbers[..., i, j], numbers[..., j, i]
        if not np.nan_to_num(other).any() and np.nan_to_num(filled).any():
            numbers = numbers.copy()
            numbers[..., j, i] = filled
            return numbers
    return square


def holds_rdm(array: Array) -> bool:
    """Tell whether numbers are an RDM by what they are: square, symmetric, zero on the diagonal.

    One triangle, and the diagonal, may be empty. A stack `[..., N, N]` has to be one throughout.
    Zeros alone, and fewer than three images, tell nothing.
    """
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.shape[-1] < 3:
        return False
    square = with_both_triangles(np.asarray(array, dtype=np.float64))
    scale = np.nanmax(np.abs(square), initial=0.0)
    diagonal = np.diagonal(square, axis1=-2, axis2=-1)
    return bool(
        scale > 0
        and np.nanmax(np.abs(diagonal), initial=0.0) <= 1e-6 * scale
        and np.allclose(
            square, np.swapaxes(square, -1, -2), rtol=1e-5, atol=1e-6 * scale, equal_nan=True
        )
    )
