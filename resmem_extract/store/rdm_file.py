"""RDMs in an HDF5 file, readable with plain h5py: ``rdms.h5``.

The layout::

    /                                  attributes format, format_version
    /rdms/<name>/<metric>              group; attributes name and metric
    /rdms/<name>/<metric>/dissimilarities   float64 [pairs] or [subjects, pairs]
    /rdms/<name>/<metric>/image_id     fixed-length UTF-8 [N]
    /rdms/<name>/<metric>/subject      fixed-length UTF-8 [subjects], where there are several
    /rdms/<name>/<metric>/provenance   scalar JSON

Pairs are the upper triangle row by row, as `scipy.spatial.distance.squareform` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from ..errors import RequestError, StoreError
from ..partial_files import partial_name
from ..rdm import RDM
from .new_file import abandon, close, create
from .schema import create_strings, decode_strings, object_name, provenance_of, write_provenance

__all__ = ["RDM_FORMAT", "is_rdm_file", "read_rdms", "write_rdms"]

RDM_FORMAT = "resmem-extract-rdms"
_VERSION = 1
_UNKNOWN = "unknown"


def write_rdms(path: Path, rdms: Sequence[RDM]) -> None:
    """Write RDMs, of the same images or not; the file appears under its name when complete.

    Raises
    ------
    RequestError
        If two are of the same name and metric, or one has no ids.
    OSError
    """
    scratch = partial_name(path)
    file = create(scratch)
    try:
        file.attrs["format"] = RDM_FORMAT
        file.attrs["format_version"] = _VERSION
        for record in rdms:
            _write(file, record)
        close(file)
        scratch.replace(path)
    finally:
        abandon(file)
        scratch.unlink(missing_ok=True)


def _write(file: h5py.File, record: RDM) -> None:
    if record.ids is None:
        raise RequestError(f"{record.name} has no ids of images and cannot be saved; give ids")
    place = f"rdms/{object_name(record.name)}/{object_name(record.metric or _UNKNOWN)}"
    if place in file:
        raise RequestError(f"{record.name} is there twice under {record.metric}; rename one")
    group = file.create_group(place)
    group.attrs["name"], group.attrs["metric"] = record.name, record.metric
    group.create_dataset("dissimilarities", data=record.dissimilarities)
    create_strings(group, "image_id", record.ids)
    if record.subjects:
        create_strings(group, "subject", record.subjects)
    write_provenance(group, record.provenance)


def is_rdm_file(path: Path) -> bool:
    """Tell whether a file is one that `write_rdms` wrote."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return bool(file.attrs.get("format") == RDM_FORMAT)


def read_rdms(path: Path) -> list[RDM]:
    """Read all RDMs of a file that `write_rdms` wrote.

    Raises
    ------
    StoreError
        If it is no such file, or of a newer version.
    """
    if not is_rdm_file(path):
        raise StoreError(f"{path} is not a file of RDMs (format = {RDM_FORMAT!r} was expected)")
    with h5py.File(path, "r") as file:
        if int(file.attrs["format_version"]) > _VERSION:
            raise StoreError(f"{path} is of a newer version; pip install -U resmem-extract")
        return [_read(group) for named in file["rdms"].values() for group in named.values()]


def _read(group: h5py.Group) -> RDM:
    return RDM(
        group["dissimilarities"][()],
        tuple(decode_strings(group["image_id"][()]).tolist()),
        str(group.attrs["metric"]),
        str(group.attrs["name"]),
        tuple(decode_strings(group["subject"][()]).tolist()) if "subject" in group else (),
        provenance_of(group),
    )
