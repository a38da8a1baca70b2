"""Targets of images: the folder that each lies in, or another column, as class numbers."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted, given_path
from ..store import open_store
from .table_file import table_path, write_table

__all__ = ["Targets", "targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """The class of each image."""

    image_ids: tuple[str, ...]
    """`N` of them, in the order of the store's rows."""
    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    numbers: npt.NDArray[np.intp]
    """Of each image's class in `classes`, `[N]`."""

    def to_csv(self) -> str:
        """Return the table `image_id,class,target`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image_id", "class", "target"))
        for image_id, number in zip(self.image_ids, self.numbers.tolist(), strict=True):
            writer.writerow((image_id, self.classes[number], number))
        return text.getvalue()


def targets(
    store: str | os.PathLike[str],
    *,
    column: str = "label",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Targets:
    """Return the classes of a store's images, numbered from 0 in the order of their names.

    Parameters
    ----------
    store : path
        A feature store.
    column : str
        `label`, the folder of each image where images lie in folders, or another column of the
        images.
    out : path, optional
        A .csv to write.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    RequestError
        If the store has no such column, an image has nothing in it, or `out` holds something else.
    """
    place = None if out is None else table_path(out, (".csv",))
    with open_store(given_path(store, "store")) as opened:
        opened.check([])
        ids = tuple(opened.image_ids.tolist())
        labels = _labels(opened.column(column), ids, column)
        names, numbers = np.unique(labels, return_inverse=True)
    found = Targets(ids, tuple(names.tolist()), numbers.astype(np.intp))
    if place is not None:
        write_table(place, found.to_csv(), overwrite)
    return found


def _labels(values: npt.NDArray[Any], ids: tuple[str, ...], column: str) -> npt.NDArray[np.str_]:
    """Return a column as text; whole numbers stay whole where one beside them is missing."""
    missing = np.isnan(values) if values.dtype.kind == "f" else values.astype(str) == ""
    if missing.any():
        first = ids[int(missing.argmax())]
        raise RequestError(
            f"{counted(int(missing.sum()), 'image')} of {len(ids)} have no {column}, first "
            f"{first!r}; leave them out, or choose another column"
        )
    if values.dtype.kind == "f" and (values == np.round(values)).all():
        values = values.astype(np.int64)
    return values.astype(np.str_)
