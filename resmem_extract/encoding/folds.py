"""Which rows are predicted from which: folds of all kinds, and the folds inside of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted

__all__ = [
    "TRAIN_ONLY",
    "Fold",
    "Folds",
    "crossed_folds",
    "given_folds",
    "group_folds",
    "kfolds",
]

Rows = npt.NDArray[np.intp]

TRAIN_ONLY = -1
"""Number of the fold of rows that are never predicted."""
_LEAST = 3
"""Rows of a fold: fewer have no correlation worth the name."""


@dataclass(frozen=True)
class Fold:
    """One fold: the rows that are predicted, and those that the model is made of."""

    name: str
    train: Rows
    test: Rows
    inner: tuple[Rows, ...]
    """Positions within `train` that are held out in turn to choose the penalty."""


@dataclass(frozen=True)
class Folds:
    """A partition of rows. Rows of one block always stay together, inside folds too."""

    numbers: npt.NDArray[np.intp]
    """Fold in which each row is predicted, `[n]`; `TRAIN_ONLY` for none."""
    names: tuple[str, ...]
    blocks: npt.NDArray[np.intp]
    """Rows of one number are not independent of each other, `[n]`: repeats of an image, a group."""
    inner: int = 5
    seed: int = 0
    apart: tuple[Rows, ...] = ()
    """Rows that have a number in common with a test row are not trained on, `[n]` each; by default
    those of its fold alone."""

    def __iter__(self) -> Iterator[Fold]:
        for number, name in enumerate(self.names):
            test = np.flatnonzero(self.numbers == number)
            alike = [np.isin(rows, rows[test]) for rows in self.apart or (self.numbers,)]
            train = np.flatnonzero(~np.any(alike, axis=0))
            yield Fold(name, train, test, self.inner_folds(train))

    def __len__(self) -> int:
        return len(self.names)

    def inner_folds(self, train: Rows) -> tuple[Rows, ...]:
        """Return positions within `train`, a fold each, whole blocks."""
        own = np.unique(self.blocks[train])
        n = min(self.inner, len(own))
        if n < 2:
            raise RequestError(
                "the penalty is chosen within the rows that a model is made of, and those are of "
                "one group alone; give groups of which each fold has two at least"
            )
        fold_of = _dealt(own, n, np.random.default_rng([self.seed, 1]))
        of_rows = fold_of[np.searchsorted(own, self.blocks[train])]
        return tuple(np.flatnonzero(of_rows == k) for k in range(n))


def kfolds(ids: Sequence[str], n: int = 5, *, inner: int = 5, seed: int = 0) -> Folds:
    """Deal images out to folds of nearly one size, by chance.

    Parameters
    ----------
    ids : sequence of str
        Of the image of each row; rows of one image stay together. Their order has no influence.
    n : int
    inner : int
        Folds inside of each.
    seed : int

    Raises
    ------
    RequestError
        If there are too few images.
    """
    unique, blocks = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
    if n < 2 or len(unique) < _LEAST * n:
        raise RequestError(
            f"{n} folds of {counted(len(unique), 'image')}: expected two folds or more, "
            f"each of {_LEAST} images or more"
            + (f"; give --folds {len(unique) // _LEAST}" if len(unique) >= 2 * _LEAST else "")
        )
    numbers = _dealt(np.arange(len(unique)), n, np.random.default_rng([seed, 0]))[blocks]
    return Folds(numbers, tuple(map(str, range(n))), blocks, inner, seed)


def group_folds(
    groups: Sequence[str], n: int | None = None, *, inner: int = 5, seed: int = 0
) -> Folds:
    """Keep groups together: categories, sessions, subjects.

    Parameters
    ----------
    groups : sequence of str
        Of each row.
    n : int, optional
        Folds; by default one a group, which is then left out alone and gives the fold its name.
    inner, seed
        As for `kfolds`; groups stay together inside of folds too.

    Raises
    ------
    RequestError
        If there are too few groups or rows.
    """
    names, blocks = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 3:
        raise RequestError(
            f"group folds need three groups: one to predict and two to choose the penalty with; "
            f"got {', '.join(names)}"
        )
    if n is None or n == len(names):
        return _checked(Folds(blocks.astype(np.intp), tuple(names.tolist()), blocks, inner, seed))
    if not 2 <= n <= len(names):
        raise RequestError(f"{n} folds of {counted(len(names), 'group')}: expected 2 or more")
    # The largest group first, each to the smallest fold: sizes differ as little as they can.
    sizes = np.bincount(blocks)
    order = np.random.default_rng([seed, 0]).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.zeros(len(names), dtype=np.intp), np.zeros(n)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return _checked(Folds(fold_of[blocks], tuple(map(str, range(n))), blocks, inner, seed))


def crossed_folds(
    groups: Sequence[str], ids: Sequence[str], n: int, *, inner: int = 5, seed: int = 0
) -> Folds:
    """Leave out one group and some images at a time: neither a group nor an image is on both sides.

    Subjects who saw the same images tell of each other's responses to them. What is said of new
    subjects and new images takes a fold for each group and each of `n` folds of images, named
    ``group/fold``; a model is made of the other groups' responses to the other images, and chooses
    its penalty on images held out.

    Parameters
    ----------
    groups : sequence of str
        Of each row: its subject.
    ids : sequence of str
        Of the image of each row.
    n, inner, seed
        As for `kfolds`.

    Raises
    ------
    RequestError
        If there are too few groups, images or rows.
    """
    names, of_group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise RequestError(f"leaving one out takes two groups or more; got {', '.join(names)}")
    images = kfolds(ids, n, inner=inner, seed=seed)
    numbers = of_group * n + images.numbers
    crossed = tuple(f"{name}/{fold}" for name in names.tolist() for fold in images.names)
    folds = Folds(numbers, crossed, images.blocks, inner, seed, (of_group, images.numbers))
    return _checked(folds)


def given_folds(
    labels: Sequence[str], ids: Sequence[str], *, inner: int = 5, seed: int = 0
) -> Folds:
    """Follow a split that is given.

    Parameters
    ----------
    labels : sequence of str
        Of each row: ``train`` and ``test``, or the name of the fold in which it is predicted.
    ids : sequence of str
        Of the image of each row.
    inner, seed
        As for `kfolds`.

    Raises
    ------
    RequestError
        If an image is on both sides, or one side is missing or too small.
    """
    given = np.asarray(labels, dtype=str)
    unique, blocks = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
    sides = np.unique(given, return_inverse=True)[1]
    of_images = np.unique(np.stack([blocks, sides]), axis=1)[0]
    if len(twice := np.flatnonzero(np.bincount(of_images) > 1)):
        image = unique[twice[0]]
        both = " and in ".join(np.unique(given[blocks == twice[0]]))
        raise RequestError(
            f"image '{image}' is in {both}: a model must not be tested on what it was made of"
        )
    names = sorted(set(given.tolist()))
    if "train" in names:
        names.remove("train")
    if not names or (len(names) == 1 and "train" not in given):
        raise RequestError(f"the split has {sorted(set(given))}; expected train and test, or folds")
    numbers = np.full(len(given), TRAIN_ONLY, dtype=np.intp)
    for number, name in enumerate(names):
        numbers[given == name] = number
    return _checked(Folds(numbers, tuple(names), blocks, inner, seed))


def _dealt(blocks: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Return a fold for each block, all folds of nearly one size."""
    fold_of = np.empty(len(blocks), dtype=np.intp)
    fold_of[rng.permutation(len(blocks))] = np.arange(len(blocks)) % n
    return fold_of


def _checked(folds: Folds) -> Folds:
    for number, name in enumerate(folds.names):
        size = int((folds.numbers == number).sum())
        if size < _LEAST:
            raise RequestError(
                f"fold {name!r} has {counted(size, 'row')}; expected {_LEAST} or more: fewer "
                "have no correlation; give fewer folds"
            )
        if len(folds.numbers) - size < 2 * _LEAST:
            raise RequestError(f"fold {name!r} leaves too few rows to make a model of")
    return folds
