"""Encoding models: measured responses predicted from activations (``rx.encoding``).

It sees arrays, or what reads like one, and never a network or a file format.
"""

from .arrays import himalaya_backend, place_on
from .banded import Banded, BandedOptions, banded_ridge, product_measure
from .ceiling import ceiling_of_ncsnr, ncsnr, split_half
from .estimators import BandedRidgeCV, RidgeCV
from .features import FeatureOptions, Picked, bases, standardised
from .folds import Fold, Folds, crossed_folds, given_folds, group_folds, kfolds
from .models import (
    METHODS,
    Heard,
    Method,
    banded_models,
    linear_models,
    pls_models,
    ridge_models,
)
from .partition import Partition, partition_variance
from .responses import Grid, Responses
from .scores import correlation, r_squared
from .solver import automatic_penalties, checked_penalties, dual, ridge
from .validate import Chance, Validated, cross_validate, mean_over_folds

__all__ = [
    "METHODS",
    "Banded",
    "BandedOptions",
    "BandedRidgeCV",
    "Chance",
    "FeatureOptions",
    "Fold",
    "Folds",
    "Grid",
    "Heard",
    "Method",
    "Partition",
    "Picked",
    "Responses",
    "RidgeCV",
    "Validated",
    "automatic_penalties",
    "banded_models",
    "banded_ridge",
    "bases",
    "ceiling_of_ncsnr",
    "checked_penalties",
    "correlation",
    "cross_validate",
    "crossed_folds",
    "dual",
    "given_folds",
    "group_folds",
    "himalaya_backend",
    "kfolds",
    "linear_models",
    "mean_over_folds",
    "ncsnr",
    "partition_variance",
    "place_on",
    "pls_models",
    "product_measure",
    "r_squared",
    "ridge",
    "ridge_models",
    "split_half",
    "standardised",
]
