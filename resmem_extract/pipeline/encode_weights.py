"""Weights of features, of a model of all images, written block by block."""

from __future__ import annotations

import math

import numpy as np

from ..config import EncodeOptions
from ..encoding import (
    FeatureOptions,
    Fold,
    automatic_penalties,
    bases,
    checked_penalties,
    dual,
    place_on,
    ridge,
    standardised,
)
from ..gram import Rows, column_blocks
from ..store import EncodingWriter
from .encode_study import Study

__all__ = ["write_weights"]

_BLOCK = 2**26
"""Bytes of features read at a time."""


def write_weights(
    writer: EncodingWriter, name: str, rows: Rows, study: Study, asked: EncodeOptions
) -> None:
    """Make ridge regression of all images, and write ``X' dual`` as features are read once more.

    Parameters
    ----------
    writer : EncodingWriter
    name : str
        Of the model in the file.
    rows : Rows, `[N, ...]`
    study : Study
    asked : EncodeOptions
    """
    targets = study.responses.values
    everything = np.arange(len(targets))
    fold = Fold("all", everything, everything[:0], study.folds.inner_folds(everything))
    options = FeatureOptions(asked.scale, asked.pca, memory=asked.memory)
    place = place_on(asked.device)
    (basis,) = bases(rows, study.images, [fold], options, place, name=name, ids=study.ids)
    tried = checked_penalties(asked.alpha) if asked.alpha else automatic_penalties(basis)
    chosen = ridge(basis, targets, fold.inner, tried).penalties
    of_rows = dual(basis, targets, chosen)
    of_images = np.zeros((len(study.ids), targets.shape[1]))
    np.add.at(of_images, study.images, of_rows)
    shape = tuple(rows.shape[1:])
    p = math.prod(shape)
    weights = writer.weights(name, (p, targets.shape[1]))
    mean, scale = np.empty(p), np.empty(p)
    intercept = targets.mean(axis=0, dtype=np.float64)
    place_of = np.arange(p).reshape(shape)
    room = max(_BLOCK // (len(study.ids) * rows.dtype.itemsize), 1)
    for key in column_blocks(rows.shape, room, getattr(rows, "chunks", None)):
        block = np.asarray(rows[key]).reshape(len(study.ids), -1)
        columns = place_of[key[1:]].ravel()
        mean[columns], scale[columns] = standardised(block, study.images, asked.scale)
        scaled = (block - mean[columns]) / scale[columns]
        made = scaled.T @ of_images
        start, stop = int(columns[0]), int(columns[-1]) + 1
        if stop - start == len(columns):
            weights[start:stop] = made
        else:
            weights[np.sort(columns)] = made[np.argsort(columns)]
    arrays = {"feature_mean": mean, "feature_scale": scale, "intercept": intercept}
    writer.add(name, {**arrays, "alpha_of_all": chosen})
