"""How well any model could do: noise ceilings from repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted

__all__ = ["ceiling_of_ncsnr", "ncsnr", "split_half"]

Floats = npt.NDArray[np.float64]

_LEAST = 3
"""Images measured repeatedly; fewer do not tell signal from noise."""
_TINY = np.finfo(np.float64).tiny


def split_half(
    trials: npt.NDArray[np.floating],
    images: Sequence[int] | npt.NDArray[np.intp],
    *,
    splits: int = 100,
    seed: int = 0,
) -> Floats:
    """Return the ceiling of r with the mean of all repeats, from halves of the repeats.

    The repeats of each image are dealt out to two halves by chance, the means of both correlated
    over images, and the mean r over splits is stepped up to all repeats (Spearman, 1910; Brown,
    1910): the reliability is ``2 r / (1 + r)``, its square root the ceiling.

    Parameters
    ----------
    trials : array, `[n, t]`
        One measurement a row.
    images : int array, `[n]`
        Of which image each is. Images measured once are left out.
    splits : int
    seed : int

    Returns
    -------
    array, `[t]`
        NaN where the halves are not positively correlated: there is no ceiling to speak of.

    Raises
    ------
    RequestError
        If too few images are repeated.
    """
    trials, images, counts = _repeated(trials, images)
    rng = np.random.default_rng(seed)
    total = np.zeros(trials.shape[1])
    order = np.argsort(images, kind="stable")
    trials, images = trials[order], images[order]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    first_half = counts // 2
    for _ in range(splits):
        within = np.lexsort((rng.random(len(images)), images))
        rank = np.arange(len(images)) - starts[images]
        # Of an odd number of repeats, one half gets one more: chance says which.
        extra = rng.integers(0, 2, len(counts)) * (counts % 2)
        is_first = rank < (first_half + extra)[images]
        a = _means(trials[within], images, is_first, len(counts))
        b = _means(trials[within], images, ~is_first, len(counts))
        total += _columnwise_r(a, b)
    r = total / splits
    ceiling: Floats = np.full(r.shape, np.nan)
    np.sqrt(2 * r / (1 + np.maximum(r, 0)), out=ceiling, where=r > 0)
    return ceiling


def ncsnr(trials: npt.NDArray[np.floating], images: Sequence[int] | npt.NDArray[np.intp]) -> Floats:
    """Return the noise-ceiling signal-to-noise ratio of Allen et al. (2022), section 'ncsnr'.

    The standard deviation of the signal over that of the noise. The noise variance is the mean over
    images of the variance of an image's repeats; the signal variance is what the variance of the
    images' means has beyond the share of noise that is left in them.

    Parameters
    ----------
    trials : array, `[n, t]`
    images : int array, `[n]`

    Returns
    -------
    array, `[t]`

    Raises
    ------
    RequestError
        If too few images are repeated.
    """
    trials, images, counts = _repeated(trials, images)
    everything = np.ones(len(images), dtype=bool)
    means = _means(trials, images, everything, len(counts))
    squares = np.zeros_like(means)
    np.add.at(squares, images, (trials - means[images]) ** 2)
    noise = (squares / (counts - 1)[:, None]).mean(axis=0)
    signal = means.var(axis=0, ddof=1) - noise * (1 / counts).mean()
    ratio: Floats = np.sqrt(np.maximum(signal, 0) / np.maximum(noise, _TINY))
    return ratio


def ceiling_of_ncsnr(ratio: Floats, repeats: float) -> Floats:
    """Return the ceiling of r with the mean of repeats: ``sqrt(s / (s + 1/repeats))``, s = ncsnr².

    Parameters
    ----------
    ratio : array, `[t]`
    repeats : float
        Measurements that were averaged; where images differ, their harmonic mean.
    """
    signal = np.asarray(ratio, dtype=np.float64) ** 2
    ceiling: Floats = np.full(signal.shape, np.nan)
    np.sqrt(signal / (signal + 1 / repeats), out=ceiling, where=signal > 0)
    return ceiling


def _repeated(
    trials: npt.NDArray[np.floating], images: Sequence[int] | npt.NDArray[np.intp]
) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the trials of images with two or more, these numbered from 0, and their counts."""
    _, number, count = np.unique(np.asarray(images), return_inverse=True, return_counts=True)
    kept = count[number] > 1
    if (count > 1).sum() < _LEAST:
        raise RequestError(
            f"a noise ceiling takes {_LEAST} images that were measured repeatedly, got "
            f"{counted(int((count > 1).sum()), 'image')}"
        )
    _, dense, counts = np.unique(number[kept], return_inverse=True, return_counts=True)
    return np.asarray(trials, dtype=np.float64)[kept], dense, counts


def _means(
    trials: Floats, images: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_], n: int
) -> Floats:
    sums = np.zeros((n, trials.shape[1]))
    np.add.at(sums, images[chosen], trials[chosen])
    means: Floats = sums / np.bincount(images[chosen], minlength=n)[:, None]
    return means


def _columnwise_r(a: Floats, b: Floats) -> Floats:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    r: Floats = (a * b).sum(axis=0) / np.maximum(size, _TINY)
    return r
