"""Measured responses: one row a measurement, joined to activations by the ids of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted, stem_advice

__all__ = ["Grid", "Responses"]

Values = npt.NDArray[np.floating]
_SHOWN = 3
_LARGEST = 1e15
"""Of a response: single precision bears the squares of many such."""


@dataclass(frozen=True)
class Grid:
    """Where targets lie in a volume or on a plane, for flat maps."""

    shape: tuple[int, ...]
    places: npt.NDArray[np.intp]
    """`[t, axes]`."""


@dataclass(frozen=True)
class Responses:
    """Responses of `t` targets in `n` measurements."""

    values: Values
    """`[n, t]`, finite."""
    ids: tuple[str, ...]
    """Of the image of each measurement; an image may be there several times."""
    targets: tuple[str, ...]
    """Names of the targets, no two alike."""
    rois: tuple[str, ...] = ()
    """Region of each target; empty texts where there is none."""
    labels: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)
    """What else is known of measurements, each `[n]`: session, subject, split."""
    ncsnr: npt.NDArray[np.float64] | None = None
    """Noise-ceiling signal-to-noise ratio of each target, if it was given, `[t]`."""
    ceiling: npt.NDArray[np.float64] | None = None
    """Largest r that any model could reach, if it was given, `[t]`."""
    grid: Grid | None = None
    name: str = "the responses"
    """Of the file, for messages."""
    sha256: str = ""

    def __post_init__(self) -> None:
        n, t = self.values.shape
        if not n or not t:
            raise RequestError(f"{self.name}: no responses, {n} rows of {t} targets")
        if len(self.ids) != n:
            raise RequestError(
                f"{self.name}: {n} rows of responses and {counted(len(self.ids), 'id')} of images; "
                "expected one id a row"
            )
        if len(self.targets) != t or len(set(self.targets)) < t:
            double = next((x for x in self.targets if self.targets.count(x) > 1), None)
            what = f"{double!r} is there twice" if double else f"{len(self.targets)} names"
            raise RequestError(f"{self.name}: {t} targets need {t} different names; {what}")
        for what, given in (("roi", self.rois), ("ncsnr", self.ncsnr), ("ceiling", self.ceiling)):
            if given is not None and len(given) not in ((0, t) if what == "roi" else (t,)):
                raise RequestError(
                    f"{self.name}: {what} has {len(given)} values, expected {t}: one a target"
                )
        self._check_possible()
        self._check_finite()
        largest = max(float(self.values.max()), -float(self.values.min()))
        if largest > _LARGEST:
            raise RequestError(
                f"{self.name}: values up to {largest:.3g}, whose squares single precision does not "
                f"hold; expected {_LARGEST:g} at most, give them in a larger unit"
            )

    def _check_possible(self) -> None:
        """Raise if a noise ceiling, or what one is made of, cannot be; NaN stands for none."""
        ratio, ceiling = (
            np.empty(0) if given is None else given for given in (self.ncsnr, self.ceiling)
        )
        for what, wrong, expected in (
            ("ncsnr", ratio[(ratio < 0) | np.isinf(ratio)], "a ratio, 0 or above"),
            ("ceiling", ceiling[(ceiling <= 0) | (ceiling > 1)], "the largest r, above 0, up to 1"),
        ):
            if len(wrong):
                raise RequestError(
                    f"{self.name}: {what} holds {wrong[0]:g}; expected {expected} (no percent), or "
                    "NaN for a target that has none"
                )

    def _check_finite(self) -> None:
        if np.isfinite(self.values.sum(dtype=np.float64)):
            return
        wrong = ~np.isfinite(self.values)
        rows, columns = np.flatnonzero(wrong.any(axis=1)), np.flatnonzero(wrong.any(axis=0))
        if not len(rows):
            return
        names = ", ".join(self.targets[k] for k in columns[:_SHOWN])
        names += ", ..." if len(columns) > _SHOWN else ""
        raise RequestError(
            f"{self.name}: NaN or infinite in {counted(len(columns), 'target')} ({names}), first "
            f"of image {self.ids[rows[0]]!r}; leave these targets or images out of the file"
        )

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.targets)

    @property
    def repeated(self) -> bool:
        """Whether some image was measured several times."""
        return len(set(self.ids)) < len(self.ids)

    def of_images(self, ids: Sequence[str], *, skip_missing: bool = False) -> Responses:
        """Return the measurements of some images, in the order of these; repeats side by side.

        Parameters
        ----------
        ids : sequence of str
            Of the images that there are activations of.
        skip_missing : bool
            Leave responses to other images out; they are an error otherwise.

        Raises
        ------
        RequestError
            If there are responses to images without activations, or to none of these images.
        """
        place = {image_id: k for k, image_id in enumerate(ids)}
        missing = list(dict.fromkeys(image for image in self.ids if image not in place))
        if len(missing) == len(set(self.ids)):
            raise RequestError(
                f"{self.name} and the store have no image in common: one has {missing[0]!r}, the "
                f"other {ids[0]!r}; "
                + stem_advice(self.ids, ids, "give responses to its images, under the same ids")
            )
        if missing and not skip_missing:
            names = ", ".join(map(repr, missing[:_SHOWN]))
            names += ", ..." if len(missing) > _SHOWN else ""
            raise RequestError(
                f"{self.name}: responses to {counted(len(missing), 'image')} without activations "
                f"({names}); extract them too, or give --missing skip"
            )
        kept = [k for k, image in enumerate(self.ids) if image in place]
        kept.sort(key=lambda k: (place[self.ids[k]], k))
        return self.rows(np.array(kept, dtype=np.intp))

    def rows(self, rows: npt.NDArray[np.intp]) -> Responses:
        """Return some measurements."""
        return replace(
            self,
            values=self.values[rows],
            ids=tuple(self.ids[k] for k in rows),
            labels={name: column[rows] for name, column in self.labels.items()},
        )

    def averaged(self) -> Responses:
        """Return the mean of the repeats of each image, in the order of their first.

        Labels that differ between the repeats of an image are dropped.
        """
        unique = tuple(dict.fromkeys(self.ids))
        if len(unique) == len(self.ids):
            return self
        place = {image: k for k, image in enumerate(unique)}
        number = np.array([place[image] for image in self.ids], dtype=np.intp)
        sums = np.zeros((len(unique), self.n_targets))
        np.add.at(sums, number, self.values)
        means = sums / np.bincount(number)[:, None]
        first = np.unique(number, return_index=True)[1]
        labels = {
            name: column[first]
            for name, column in self.labels.items()
            if (column == column[first][number]).all()
        }
        values = means.astype(self.values.dtype)
        return replace(self, values=values, ids=unique, labels=labels)

    def describe(self) -> dict[str, Any]:
        """Return what is recorded of the file, as JSON values."""
        return {"file": self.name, "sha256": self.sha256}
