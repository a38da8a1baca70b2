"""Responses from files: npy, npz, HDF5, CSV, parquet, NIfTI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..encoding import Grid, Responses
from ..errors import DAMAGE, MissingExtraError, RequestError, given_path
from ..store import Store, is_rdm_file
from ..weights import file_sha256
from .array_files import (
    ID_KEY,
    OF_MEASUREMENTS,
    OF_TARGETS,
    PLACES_KEY,
    ROI_KEY,
    TARGET_KEY,
    GivenIds,
    check_named,
    check_real,
    column_numbers,
    hdf5_format,
    holds_rdm,
    holds_texts,
    ids_of,
    read_arrays,
    read_table,
)
from .id_lists import read_id_list

__all__ = ["read_responses", "responses_of_column"]

_NO_NUMBERS = (
    " (a column that tells sessions, subjects or the split is named by --groups, --subjects or "
    "--split)"
)
_ENDINGS = "npy, npz, h5, csv, tsv, parquet or nii"
_PLACE = 1e-3
"""How far affines may be apart, mm: headers keep them in single precision, or as quaternions."""


def read_responses(
    path: Path,
    ids: Path | None = None,
    mask: Path | None = None,
    labels: Sequence[str] = (),
) -> Responses:
    """Read measured responses.

    Parameters
    ----------
    path : Path
        The ending tells the format: npy, npz, h5, csv, tsv, parquet, nii or nii.gz.
    ids : Path, optional
        Ids of the images, one a line, where the file has none.
    mask : Path, optional
        Of a NIfTI file: voxels where it is not 0 are targets, its numbers are regions.
    labels : sequence of str
        Further columns that say something of a measurement and are no targets: ``category``.

    Returns
    -------
    Responses

    Raises
    ------
    RequestError
        If there is no such file, it cannot be read, or its parts do not go together.
    MissingExtraError
        If the package that reads the format is not installed.
    """
    path = given_path(str(path), "responses")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise RequestError(f"responses {path} {what}; name a file: {_ENDINGS}")
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    ending = ending.lower()
    given = GivenIds(None if ids is None else read_id_list(ids), "--response-ids")
    if mask is not None and not ending.startswith(".nii"):
        raise RequestError(f"{path}: a mask is of NIfTI files; got {ending or 'no ending'}")
    if ending in (".csv", ".tsv"):
        found = _of_columns(path, _csv_columns(path), given, labels)
    elif ending == ".parquet":
        found = _of_columns(path, _parquet_columns(path), given, labels)
    elif ending in (".nii", ".nii.gz"):
        found = _nifti(path, mask, given.ids)
    elif ending in (".npy", ".npz", ".h5", ".hdf5"):
        found = _of_arrays(path, _arrays(path, ending), given, labels)
    else:
        raise RequestError(f"{path}: expected {_ENDINGS}, got {ending or 'no ending'}")
    return replace(found, name=path.name, sha256=file_sha256(path))


def responses_of_column(store: Store, names: Sequence[str]) -> Responses:
    """Return columns of the images of a store as responses: ratings in their CSV.

    Raises
    ------
    RequestError
        If there is no such column, or it holds no numbers.
    """
    columns = [
        column_numbers(store.path, name, store.column(name).tolist(), _NO_NUMBERS) for name in names
    ]
    ids = tuple(store.image_ids.tolist())
    return Responses(np.stack(columns, axis=1), ids, tuple(names), name=str(store.path.name))


# Arrays


def _arrays(path: Path, ending: str) -> dict[str, npt.NDArray[Any]]:
    if ending in (".h5", ".hdf5"):
        format_ = hdf5_format(path)
        if format_ == "resmem-extract":
            raise RequestError(f"{path} is a feature store; responses are measured")
        if format_ == "rsatoolbox" or is_rdm_file(path):
            raise RequestError(_given_an_rdm(path, "it"))
    return read_arrays(path, npy_name="responses")


def _given_an_rdm(path: Path, what: str) -> str:
    return (
        f"{path}: {what} is an RDM; expected responses, a column a target (an RDM is compared by "
        f"resmem-extract rsa STORE --reference {path})"
    )


def _of_arrays(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    given: GivenIds,
    labels: Sequence[str],
) -> Responses:
    ids = ids_of(path, arrays, given)
    n, rows_of = len(ids), {}
    parts: dict[str, npt.NDArray[Any]] = {}
    for key, array in arrays.items():
        if key == ID_KEY or key in OF_TARGETS:
            continue
        of_rows = array.ndim == 1 and (array.dtype.kind in "OSU" or key in OF_MEASUREMENTS)
        if key in labels or of_rows:
            rows_of[key] = np.asarray(array).astype(str)
            if rows_of[key].shape != (n,):
                raise RequestError(f"{path}: {key} of shape {array.shape}; expected ({n},)")
            continue
        parts[key] = _checked(path, key, array, n)
    if not parts:
        raise RequestError(f"{path} holds no responses, only {', '.join(arrays)}")
    repeats = {len(part) for part in parts.values()}
    if len(repeats) > 1:
        raise RequestError(
            f"{path}: its arrays have {sorted(repeats)} repeats; expected one number"
        )
    (n_repeats,) = repeats
    names, rois = _names(parts)
    stacked = np.concatenate(list(parts.values()), axis=2) if len(parts) > 1 else parts.popitem()[1]
    values = stacked.reshape(n_repeats * n, -1)
    t = values.shape[1]
    if TARGET_KEY in arrays:
        names = [str(name) for name in np.ravel(arrays[TARGET_KEY])]
    if ROI_KEY in arrays:
        rois = [str(roi) for roi in np.ravel(arrays[ROI_KEY])]

    def of_targets(key: str) -> npt.NDArray[np.float64] | None:
        if key not in arrays:
            return None
        check_real(path, key, arrays[key])
        return np.asarray(arrays[key], dtype=np.float64).ravel()

    return Responses(
        values,
        ids * n_repeats,
        tuple(names),
        tuple(rois),
        {key: np.tile(column, n_repeats) for key, column in rows_of.items()},
        ncsnr=of_targets("ncsnr"),
        ceiling=of_targets("ceiling"),
        grid=_grid(path, arrays[PLACES_KEY], t) if PLACES_KEY in arrays else None,
        name=path.name,
    )


def _checked(path: Path, key: str, array: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """Return responses as `[repeats, n, targets]`, in the precision that they have."""
    check_real(path, key, array)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim not in (2, 3) or array.shape[-2] != n:
        hint = "; transpose it" if array.ndim == 2 and array.shape[1] == n else ""
        raise RequestError(
            f"{path}: {key} of shape {array.shape}; expected [{n}, targets], or "
            f"[repeats, {n}, targets], for the {n} ids{hint}"
        )
    if holds_rdm(array):
        what = f"{key} of shape {array.shape}, symmetric with a zero diagonal,"
        raise RequestError(_given_an_rdm(path, what))
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return array if array.ndim == 3 else array[None]


def _names(parts: Mapping[str, npt.NDArray[Any]]) -> tuple[list[str], list[str]]:
    """Name targets after their array; several arrays are regions."""
    names, rois = [], []
    for key, part in parts.items():
        t = part.shape[2]
        plain = len(parts) == 1 and key == "responses"
        names += [key] if t == 1 else [str(k) if plain else f"{key}.{k}" for k in range(t)]
        rois += [""] * t if t == 1 or plain else [key] * t
    return names, rois


def _grid(path: Path, places: npt.NDArray[Any], t: int) -> Grid:
    where = np.asarray(places)
    if where.ndim != 2 or where.shape[0] != t or where.shape[1] not in (2, 3):
        raise RequestError(
            f"{path}: {PLACES_KEY} of shape {where.shape}; expected [{t}, 2] or [{t}, 3]"
        )
    if where.dtype.kind not in "iuf":
        raise RequestError(f"{path}: {PLACES_KEY} holds {where.dtype}; expected voxel indices")
    wrong = where[(where < 0) | (where != np.rint(where))]  # NaN too, which equals nothing
    if wrong.size:
        raise RequestError(
            f"{path}: {PLACES_KEY} holds {wrong[0]:g}; expected voxel indices, whole numbers from "
            "0. Of places in mm these are numpy.rint(nibabel.affines.apply_affine("
            "numpy.linalg.inv(image.affine), mm)).astype(int), with the affine of the volume"
        )
    return Grid(tuple(int(k) + 1 for k in where.max(axis=0)), where.astype(np.intp))


# Tables


def _csv_columns(path: Path) -> dict[str, list[Any]]:
    head, lines = read_table(path)
    return {name: [line[k] for line in lines] for k, name in enumerate(head)}


def _parquet_columns(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            "parquet needs pyarrow: pip install 'resmem-extract[parquet]'; or save it as CSV"
        ) from None
    import pyarrow

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(f"{path} cannot be read as parquet: {error}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _of_columns(
    path: Path, columns: dict[str, list[Any]], given: GivenIds, labels: Sequence[str]
) -> Responses:
    if ID_KEY not in columns:
        raise RequestError(
            f"{path} has no column {ID_KEY!r}; expected it, and then one column a target; its "
            f"columns are {', '.join(list(columns)[:5])}"
        )
    check_named(path, list(columns))
    ids = tuple(str(value).strip() for value in columns.pop(ID_KEY))
    given.beside(path, ids)
    texts: dict[str, npt.NDArray[np.str_]] = {}
    numbers: dict[str, npt.NDArray[np.float64]] = {}
    for name, cells in columns.items():
        if name in labels or name in OF_MEASUREMENTS or holds_texts(cells):
            texts[name] = np.array([str(cell) for cell in cells])
        else:
            numbers[name] = column_numbers(path, name, cells, _NO_NUMBERS)
    if not numbers:
        raise RequestError(f"{path}: no column of responses beside {', '.join([ID_KEY, *texts])}")
    _refuse_rdm(path, ids, numbers)
    values = np.stack(list(numbers.values()), axis=1)
    return Responses(values, ids, tuple(numbers), labels=texts, name=path.name)


def _refuse_rdm(
    path: Path, ids: tuple[str, ...], columns: Mapping[str, npt.NDArray[np.float64]]
) -> None:
    """Raise if a table is an RDM, its columns in the order of lines or named as the images are."""
    if len(columns) == len(ids):
        order = ids if set(ids) == set(columns) else columns
        if holds_rdm(np.stack([columns[name] for name in order], axis=1)):
            raise RequestError(_given_an_rdm(path, "the table, symmetric with a zero diagonal,"))


# NIfTI


def _nifti(path: Path, mask: Path | None, ids: tuple[str, ...] | None) -> Responses:
    """Read a series of volumes, one a measurement; voxels of a mask are targets."""
    if ids is None:
        raise RequestError(
            f"{path}: NIfTI files have no ids of images; give --response-ids FILE, one a line"
        )
    if mask is None:
        raise RequestError(f"{path}: give --mask FILE, which says which voxels are targets")
    series = _volumes(path)
    regions = _volumes(mask)
    with _read_as_nifti(mask):
        chosen = np.asarray(regions.dataobj)
    if len(series.shape) != 4 or series.shape[3] != len(ids):
        raise RequestError(
            f"{path} has shape {series.shape}; expected [x, y, z, {len(ids)}]: a volume an id"
        )
    if chosen.shape != series.shape[:3]:
        raise RequestError(
            f"mask {mask} has shape {chosen.shape}; expected {series.shape[:3]}, as {path} has"
        )
    if not np.allclose(regions.affine, series.affine, atol=_PLACE):
        own, other = (np.round(image.affine[:3], 3).tolist() for image in (regions, series))
        raise RequestError(
            f"mask {mask} has the affine {own}, and {path} has {other}: their voxels are other "
            "places; resample the mask to these volumes"
        )
    where = np.argwhere(chosen != 0)
    if not len(where):
        raise RequestError(f"mask {mask}: 0 everywhere; expected voxels that are not")
    x, y, z = where.T
    # A volume at a time: the whole series as float64 may be far larger than the voxels wanted.
    with _read_as_nifti(path):
        rows = [np.asarray(series.dataobj[..., k])[x, y, z] for k in range(len(ids))]
    values = np.stack(rows).astype(np.float32)
    numbers = chosen[x, y, z]
    several = len(np.unique(numbers)) > 1
    return Responses(
        values,
        ids,
        tuple(f"{a}-{b}-{c}" for a, b, c in where.tolist()),
        tuple(f"{number:g}" for number in numbers) if several else (),
        grid=Grid(tuple(chosen.shape), where),
        name=path.name,
    )


def _volumes(path: Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise MissingExtraError(
            "NIfTI files need nibabel: pip install 'resmem-extract[nifti]'"
        ) from None
    with _read_as_nifti(path):
        return nibabel.load(path)


@contextmanager
def _read_as_nifti(path: Path) -> Iterator[None]:
    """Say in one line that a file cannot be read: its volumes are only read when they are used."""
    from nibabel.filebasedimages import ImageFileError

    try:
        yield
    except (*DAMAGE, ImageFileError) as error:
        raise RequestError(f"{path} cannot be read as NIfTI: {error}") from error
