"""Class probabilities of images, from the stored outputs of a classifier."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted, given_path
from ..gram import not_finite
from ..models.categories import category_names
from ..store import FeatureArray, Store, open_store
from ..types import Reduction
from .table_file import table_path, write_table

if TYPE_CHECKING:
    from ..models.base import Model

__all__ = ["FORMATS", "ClassProbabilities", "check_classes", "classify"]

FORMATS = (".csv", ".json")


@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """The most probable classes of each image, the first one first."""

    image_ids: tuple[str, ...]
    """`N` of them."""
    indices: npt.NDArray[np.intp]
    """Numbers of the classes, `[N, top]`."""
    probabilities: npt.NDArray[np.float64]
    """Of these, `[N, top]`, between 0 and 1."""
    names: tuple[str, ...]
    """Of all classes, in the order of their numbers."""

    def rows(self) -> list[dict[str, Any]]:
        """Return one record an image and class: image_id, rank from 1, index, class, probability.

        Probabilities have eight decimals, as float32 has seven.
        """
        return [
            {
                "image_id": image_id,
                "rank": rank,
                "index": int(index),
                "class": self.names[index],
                "probability": round(float(value), 8),
            }
            for image_id, indices, values in zip(
                self.image_ids, self.indices, self.probabilities, strict=True
            )
            for rank, (index, value) in enumerate(zip(indices, values, strict=True), start=1)
        ]

    def to_csv(self) -> str:
        """Return the table `image_id,rank,index,class,probability`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image_id", "rank", "index", "class", "probability"))
        for row in self.rows():
            writer.writerow([*list(row.values())[:-1], f"{row['probability']:.8f}"])
        return text.getvalue()

    def to_json(self) -> str:
        """Return the same as a list of records."""
        return json.dumps(self.rows(), indent=2, ensure_ascii=False) + "\n"


def check_classes(model: Model, reduction: Reduction) -> None:
    """Raise if class probabilities cannot be had of a network's outputs, before they are computed.

    Parameters
    ----------
    model : Model
        Its structure is enough.
    reduction : Reduction
        What is to be done to the outputs before they are stored.

    Raises
    ------
    RequestError
        If they are no classifier's, or there are no names for so many classes.
    """
    from ..capture import reduced_shape

    (output,) = model.list_modules("output")
    shape, _ = reduced_shape(output.shape or (), model.adapt(reduction))
    category_names(model.source, _n_classes(output.path, shape))


def classify(
    store: str | os.PathLike[str],
    *,
    module: str = "output",
    top: int = 5,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> ClassProbabilities:
    """Turn a classifier's stored outputs into probabilities: a softmax over its classes.

    Parameters
    ----------
    store : path
        A feature store that has the module.
    module : str
        The outputs before any softmax, `[N, classes]`.
    top : int
        How many classes to keep of each image.
    classes : path or sequence of str, optional
        Names of the classes in their order, or a text file of them, one a line; by default what
        `resmem_extract.models.categories` knows, such as the thousand of ImageNet.
    out : path, optional
        A .csv or .json to write.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    RequestError
        If there is no such module, it is no classifier's output, or `out` has another extension
        or holds something else.
    WorkError
        If the stored outputs are damaged.
    """
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise RequestError(f"top {top!r}: expected a number of classes, such as 5")
    place = None if out is None else table_path(out, FORMATS)
    with open_store(given_path(store, "store")) as opened:
        outputs = opened[module]
        opened.check([outputs.module])
        found = _classify(opened, outputs, top, classes)
    if place is not None:
        is_json = place.suffix.lower() == ".json"
        write_table(place, found.to_json() if is_json else found.to_csv(), overwrite)
    return found


def _classify(
    store: Store,
    outputs: FeatureArray,
    top: int,
    classes: str | os.PathLike[str] | Sequence[str] | None,
) -> ClassProbabilities:
    n_classes = _n_classes(outputs.module, outputs.shape[1:])
    names = _names(classes, store, n_classes)
    top = min(top, n_classes)
    indices = np.empty((len(store), top), np.intp)
    probabilities = np.empty((len(store), top), np.float64)
    for rows, block in outputs.blocks():
        values = block.astype(np.float64)
        if not np.isfinite(values).all():
            raise RequestError(not_finite(values, outputs.module, store.image_ids[rows].tolist()))
        indices[rows] = np.argsort(-values, axis=1, kind="stable")[:, :top]
        probabilities[rows] = np.take_along_axis(_softmax(values), indices[rows], axis=1)
    return ClassProbabilities(tuple(store.image_ids.tolist()), indices, probabilities, names)


def _n_classes(module: str, shape: Sequence[int]) -> int:
    """Return how many classes a module of that shape an image tells apart."""
    if len(shape) != 1 or shape[0] < 2:
        raise RequestError(
            f"{module} has {' x '.join(map(str, shape))} values an image, and class probabilities "
            "need a classifier's output, one number a class"
        )
    return shape[0]


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ``exp(x_j) / sum_k exp(x_k)`` of each row, its largest value taken off first."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _names(
    classes: str | os.PathLike[str] | Sequence[str] | None, store: Store, n: int
) -> tuple[str, ...]:
    if classes is None:
        return category_names(str(store.provenance.get("source", "")), n)
    if isinstance(classes, (str, os.PathLike)):
        path = given_path(classes, "classes")
        try:
            names = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise RequestError(f"{path} cannot be read: {reason}") from error
    else:
        names = tuple(classes)
    if len(names) != n:
        raise RequestError(
            f"{counted(len(names), 'name')} for {n} classes; give one each, in order"
        )
    return names
