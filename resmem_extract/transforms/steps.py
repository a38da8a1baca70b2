"""What can be done to a vector of activations, as it is written: ``center``, ``pca=50``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import RequestError, did_you_mean

__all__ = ["STEPS", "Step", "parse_steps"]

Maker = Callable[[int, int], Any]
"""From number and seed to an estimator of scikit-learn."""


def _center(_number: int, _seed: int) -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler(with_std=False)


def _zscore(_number: int, _seed: int) -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler()


def _l2(_number: int, _seed: int) -> Any:
    from sklearn.preprocessing import Normalizer

    return Normalizer("l2")


def _pca(number: int, _seed: int) -> Any:
    from sklearn.decomposition import IncrementalPCA

    return IncrementalPCA(number)


def _project(number: int, seed: int) -> Any:
    from sklearn.random_projection import SparseRandomProjection

    return SparseRandomProjection(number, random_state=seed)


@dataclass(frozen=True)
class _Kind:
    make: Maker
    description: str
    numbered: bool = False
    """Whether it has a number: how many values it leaves."""


STEPS: Mapping[str, _Kind] = MappingProxyType(
    {
        "center": _Kind(_center, "take off each value's mean over images"),
        "zscore": _Kind(
            _zscore, "take off the mean and divide by the standard deviation over images"
        ),
        "l2": _Kind(_l2, "divide each image's vector by its length"),
        "pca": _Kind(_pca, "the first principal components", numbered=True),
        "project": _Kind(_project, "sparse random projection", numbered=True),
    }
)
"""All steps by name; read-only."""


@dataclass(frozen=True)
class Step:
    """One step of a chain."""

    name: str
    """One of `STEPS`."""
    number: int = 0
    """How many values it leaves; 0 where it leaves as many as there were."""

    def __str__(self) -> str:
        return f"{self.name}={self.number}" if self.number else self.name

    def make(self, seed: int) -> Any:
        """Return the estimator of scikit-learn that does it, not fitted yet."""
        return STEPS[self.name].make(self.number, seed)

    @property
    def needs_fit(self) -> bool:
        """Whether it depends on other images than the one it is applied to."""
        return self.name in ("center", "zscore", "pca")

    @property
    def rows_at_a_time(self) -> int:
        """Images that it has to see at once when it is fitted.

        The incremental PCA needs as many as it has components; twice as many make it better.
        """
        return 2 * self.number if self.name == "pca" else 1


def parse_steps(texts: Sequence[str]) -> tuple[Step, ...]:
    """Return the steps that are written, ``["center", "pca=50"]``.

    Raises
    ------
    RequestError
        If one is not known, lacks its number, or has one too many.
    """
    return tuple(map(_parse, texts))


def _parse(text: str) -> Step:
    name, equals, number = text.strip().partition("=")
    if name not in STEPS:
        written = [f"{key}=N" if kind.numbered else key for key, kind in STEPS.items()]
        hint = did_you_mean(name, list(STEPS), f"expected {', '.join(written)}")
        raise RequestError(f"no step {text!r}: {hint}")
    if not STEPS[name].numbered:
        if equals:
            raise RequestError(f"step {text!r}: {name} takes no number")
        return Step(name)
    if not number.isdecimal() or not int(number):
        raise RequestError(f"step {text!r}: expected how many values to keep, such as {name}=50")
    return Step(name, int(number))
