"""Banded ridge: several feature spaces at once, each with a penalty of its own for every target.

himalaya does the solving: random search over the relative weights of the bands (Nunez-Elizalde et
al., 2019; Dupré la Tour et al., 2022), on kernels that were streamed out of the stores. Each
kernel is brought to a mean eigenvalue of 1 over the training rows first, so that a band's share
does not depend on the size of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import himalaya_backend
from .folds import Fold
from .solver import FACTORS

__all__ = ["Banded", "BandedOptions", "banded_ridge", "centred_kernels", "product_measure"]

Floats = npt.NDArray[np.float64]
_BATCH = 256


@dataclass(frozen=True)
class BandedOptions:
    """How the weights of bands are searched for."""

    iterations: int = 60
    """Weights that are tried: equal ones, each band alone, then random ones."""
    penalties: Floats | None = None
    """In units of the mean eigenvalue; by default `FACTORS`."""
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Banded:
    """Predictions of the test rows of a fold, and what each band has to do with them."""

    bands: npt.NDArray[np.floating]
    """Predictions of each band, about the mean, `[bands, m, t]`."""
    dual: Floats
    """Of training rows, `[n, t]`: band b predicts ``(weight_b / penalty) K_b dual``."""
    means: Floats
    """Of the training rows, `[t]`."""
    weights: Floats
    """Of bands, `[bands, t]`; they add up to 1."""
    penalties: Floats
    """`[t]`."""

    @property
    def predicted(self) -> npt.NDArray[np.floating]:
        """Sum of all bands, `[m, t]`."""
        total: npt.NDArray[np.floating] = self.bands.sum(axis=0) + self.means
        return total


def centred_kernels(
    products: Sequence[Floats], rows: npt.NDArray[np.intp], fold: Fold
) -> tuple[Floats, Floats]:
    """Return training and test kernels of all bands, about the training rows, mean eigenvalue 1.

    Parameters
    ----------
    products : sequence of array, `[N, N]`
    rows : int array, `[n]`
        Image of each row.
    fold : Fold

    Returns
    -------
    array, `[bands, n_train, n_train]`
    array, `[bands, n_test, n_train]`
    """
    train, test = rows[fold.train], rows[fold.test]
    squares, crosses = [], []
    for one in products:
        square, cross = one[np.ix_(train, train)], one[np.ix_(test, train)]
        means = square.mean(axis=0)
        square = square - means[:, None] - (means - means.mean())
        cross = cross - cross.mean(axis=1, keepdims=True) - (means - means.mean())
        size = np.trace(square) / len(train)
        size = size if size > 0 else 1.0
        squares.append(square / size)
        crosses.append(cross / size)
    return np.stack(squares), np.stack(crosses)


def banded_ridge(
    kernels: Floats,
    crossed: Floats | None,
    targets: npt.NDArray[np.floating],
    inner: Sequence[npt.NDArray[np.intp]],
    options: BandedOptions,
) -> Banded:
    """Choose weights of bands and penalties on training rows, and predict test rows.

    Parameters
    ----------
    kernels : array, `[bands, n, n]`
    crossed : array, `[bands, m, n]`, optional
        None for no test rows.
    targets : array, `[n, t]`
        Of the training rows.
    inner : sequence of int array
        Training rows that are held out in turn.
    options : BandedOptions

    Raises
    ------
    MissingExtraError
        Without himalaya.
    """
    means = targets.mean(axis=0, dtype=np.float64)
    about_mean = targets - means
    # himalaya's scores take a small variance for none: volts and tesla are brought to size 1.
    sizes = about_mean.std(axis=0)
    sizes[sizes == 0] = 1.0
    # himalaya centres within its inner folds; its refit needs kernels and targets about the mean.
    weights_tried = _weights(len(kernels), options)
    penalties = FACTORS if options.penalties is None else options.penalties
    # It takes the logarithm of weights, and a band alone has others of 0.
    with himalaya_backend(options.device) as backend, np.errstate(divide="ignore"):
        from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

        found = solve_multiple_kernel_ridge_random_search(
            backend.asarray(kernels),
            backend.asarray(about_mean / sizes),
            n_iter=backend.asarray(weights_tried),
            alphas=backend.asarray(penalties),
            cv=_splitter(inner, len(targets)),
            fit_intercept=True,
            return_weights="dual",
            n_targets_batch=_BATCH,
            n_targets_batch_refit=_BATCH,
            n_alphas_batch=1,
            progress_bar=False,
            return_alphas=True,
        )
        deltas, dual, _, chosen, intercept = map(backend.to_numpy, found)
    dual, intercept = dual * sizes, intercept * sizes
    scales = np.exp(deltas)  # weight / penalty, [bands, t]
    tests = np.empty((len(kernels), 0, len(targets))) if crossed is None else crossed
    bands = (tests @ dual) * scales[:, None]
    return Banded(bands, dual, means + intercept, scales * chosen, chosen)


def product_measure(
    measured: npt.NDArray[np.floating], bands: npt.NDArray[np.floating], means: Floats
) -> Floats:
    """Return the share of each band in R2; shares add up to the R2 of the whole prediction.

    ``sum_i f_b (2 y - f) / sum_i y^2``, all about the mean of y, as himalaya's `r2_score_split`.

    Parameters
    ----------
    measured : array, `[m, t]`
    bands : array, `[bands, m, t]`
    means : array, `[t]`
        What has to be added to the sum of all bands.

    Returns
    -------
    array, `[bands, t]`
    """
    y = measured - measured.mean(axis=0)
    offset = means - measured.mean(axis=0)
    # The intercept belongs to no band: it is dealt out to all alike.
    parts = bands + offset / len(bands)
    whole = parts.sum(axis=0)
    total = np.maximum((y * y).sum(axis=0), np.finfo(np.float64).tiny)
    shares: Floats = (parts * (2 * y - whole)).sum(axis=1) / total
    return shares


def _weights(n_bands: int, options: BandedOptions) -> Floats:
    """Return weights of bands to try: equal ones, each band alone, then random ones."""
    rng = np.random.default_rng([options.seed, 3])
    corners = [np.full((1, n_bands), 1 / n_bands), np.eye(n_bands)]
    n_random = max(options.iterations - 1 - n_bands, 0) if n_bands > 1 else 0
    # Half of them near the corners, half all over, as himalaya's own default.
    near = rng.dirichlet([0.1] * n_bands, size=(n_random + 1) // 2)
    far = rng.dirichlet([1.0] * n_bands, size=n_random // 2)
    return np.concatenate([*corners[: 2 if n_bands > 1 else 1], near, far])


def _splitter(inner: Sequence[npt.NDArray[np.intp]], n: int) -> Any:
    from sklearn.model_selection import PredefinedSplit

    number = np.full(n, -1)
    for k, held in enumerate(inner):
        number[held] = k
    return PredefinedSplit(number)
