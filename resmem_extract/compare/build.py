"""Make RDMs and kernels of activations, in one reading and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted
from ..gram import Form, Gram, Precision, Rows, grams, working_precision
from ..rdm import RDM
from .kernel import Kernel, centred
from .metrics import METRICS, check_metric, dissimilarities, squared_lengths

__all__ = ["Modules", "kernel", "rdm", "rdms", "read_once"]

_NEAR = 1e-2
"""Of the squared lengths: below that, a squared distance in float32 has lost too many digits."""
_FAINT = 1e-4
"""Of the usual squared length: patterns below that are looked at one by one."""
_ALL_ALIKE = 1e-2
"""Where no angle is larger than that, float32 may not tell them apart."""

Floats = npt.NDArray[np.float64]


class Modules(Protocol):
    """Activations by module path, as an open store has them."""

    def __iter__(self) -> Iterator[str]:
        """Yield canonical module paths."""
        ...

    def __getitem__(self, module: str, /) -> Rows:
        """Return the activations of one."""
        ...


def rdm(
    rows: Rows,
    metric: str = "correlation",
    *,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    memory: int | str = "2GB",
    precision: Precision = "auto",
    device: str = "cpu",
) -> RDM:
    """Compute the RDM of activations.

    Parameters
    ----------
    rows : Rows, `[N, ...]`
        ``store["features.5.4"]``, or an array; all axes after the first count as features.
    metric : {"correlation", "cosine", "euclidean", "sqeuclidean"}
        Defined in `METRICS`.
    ids : sequence of str, optional
        Of the images; a store's array has its own.
    name : str, optional
        By default the module's path.
    memory, precision, device
        As for `resmem_extract.gram.grams`.

    Returns
    -------
    RDM
        Within 1e-6 of a float64 computation, relative to the largest dissimilarity.

    Raises
    ------
    RequestError
        If a pattern is constant (or zero, under cosine), there is but one unit under correlation,
        an activation is NaN, or `memory` does not suffice; the message names layer and images.

    Examples
    --------
    >>> rdm(store["features.5.4"], metric="correlation")     # doctest: +SKIP
    """
    made, _ = read_once(
        rows, [metric], ids=ids, name=name, memory=memory, precision=precision, device=device
    )
    return made[metric]


def rdms(modules: Modules, metric: str = "correlation", **options: Any) -> dict[str, RDM]:
    """Compute the RDMs of all modules of a store, reading each once.

    Parameters
    ----------
    modules : Modules
        An open store, or a dict of arrays.
    metric, **options
        As for `rdm`.

    Returns
    -------
    dict from str to RDM
        In the order of the store.

    Raises
    ------
    RequestError
        As `rdm`.
    """
    return {path: rdm(modules[path], metric, name=path, **options) for path in modules}


def kernel(rows: Rows, **options: Any) -> Kernel:
    """Compute the inner products of activations, for CKA and Procrustes; as `rdm` otherwise."""
    _, made = read_once(rows, [], with_kernel=True, **options)
    assert made is not None
    return made


def read_once(
    rows: Rows,
    metrics: Sequence[str],
    *,
    with_kernel: bool = False,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    memory: int | str = "2GB",
    precision: Precision = "auto",
    device: str = "cpu",
) -> tuple[dict[str, RDM], Kernel | None]:
    """Compute RDMs of several metrics, and the kernel, from one reading; as `rdm` otherwise."""
    for metric in metrics:
        check_metric(metric)
    if with_kernel and precision == "auto" and _n_features(rows) <= rows.shape[0]:
        # Such a kernel has eigenvalues of zero. In float32 they would be noise, whose square
        # root, which Procrustes takes, is not small.
        precision = "float64"
    source = _Source(rows, ids, name, precision, {"memory": memory, "device": device})
    if "correlation" in metrics and source.n_features == 1:
        refuse_one_unit(source.name)
    forms = list(dict.fromkeys(METRICS[metric] for metric in metrics))
    if with_kernel and "plain" not in forms:
        forms.append("plain")
    of_form = source.grams(forms)
    made = {}
    for metric in metrics:
        gram = of_form[METRICS[metric]]
        values = (
            source.angles(gram, metric)
            if metric in ("correlation", "cosine")
            else source.distances(gram, metric)
        )
        provenance = {"module": source.name, "features": source.n_features}
        made[metric] = RDM(values, source.ids, metric, source.name, provenance=provenance)
    if not with_kernel:
        return made, None
    return made, Kernel(centred(of_form["plain"].products), source.ids, source.name)


def refuse_one_unit(name: str) -> NoReturn:
    """Raise because patterns of one number have no correlation."""
    raise RequestError(
        f"{name} has one unit, and patterns of one number have no correlation; "
        "use --metric euclidean, or choose other modules with --module"
    )


def refuse_flat(name: str, images: Sequence[str], metric: str) -> NoReturn:
    """Raise because patterns have no direction."""
    what = "constant" if metric == "correlation" else "zero"
    shown = ", ".join(images[:5])
    raise RequestError(
        f"{name}: all activations of {counted(len(images), 'image')} are {what} "
        f"({shown}{', ...' if len(images) > 5 else ''}), which has no {metric}; leave "
        "these images out, or use --metric euclidean"
    )


def is_flat(
    low: Any, high: Any, dtype: np.dtype[Any], but_for_offset: bool
) -> npt.NDArray[np.bool_]:
    """Tell of which patterns nothing is left: all zero, or constant up to rounding.

    Parameters
    ----------
    low, high : float or array
        Smallest and largest number of each pattern.
    dtype : dtype
        In which they are stored.
    but_for_offset : bool
        Whether the mean of a pattern counts for nothing, as in a correlation.
    """
    size = np.maximum(np.abs(low), np.abs(high))
    if not but_for_offset:
        return np.asarray(size == 0)
    epsilon = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
    return np.asarray(high - low <= 4 * epsilon * size)


def _n_features(rows: Rows) -> int:
    return int(np.prod(rows.shape[1:], dtype=np.int64))


class _Source:
    """Activations that are read, with the names that messages need."""

    def __init__(
        self,
        rows: Rows,
        ids: Sequence[str] | None,
        name: str | None,
        precision: Precision,
        options: dict[str, Any],
    ) -> None:
        own_ids = getattr(rows, "image_ids", None)
        given = own_ids if ids is None else ids
        self.rows = rows
        self.ids = None if given is None else tuple(str(image_id) for image_id in given)
        self.name = str(getattr(rows, "module", "features") if name is None else name)
        self.n_features = _n_features(rows)
        self._precision = working_precision(rows.shape, rows.dtype, precision, self.name)
        self._options = options
        if self.ids is not None and len(self.ids) != rows.shape[0]:
            raise RequestError(
                f"{self.name}: {len(self.ids)} ids for {counted(rows.shape[0], 'image')}"
            )

    def grams(self, forms: Sequence[Form], precision: Precision = "auto") -> dict[Form, Gram]:
        """Return the inner products, in each form."""
        return grams(
            self.rows,
            forms,
            precision=self._precision if precision == "auto" else precision,
            name=self.name,
            ids=self.ids,
            **self._options,
        )

    def angles(self, gram: Gram, metric: str) -> Floats:
        """Return dissimilarities that depend on the directions of patterns alone.

        Raises
        ------
        RequestError
            If a pattern has no direction.
        """
        form, is_correlation = METRICS[metric], metric == "correlation"
        lengths = squared_lengths(gram, centred=is_correlation)
        faint = np.flatnonzero(lengths < _FAINT * np.median(lengths))
        faint = np.arange(len(lengths)) if not np.median(lengths) > 0 else faint
        if len(faint):
            flat = [row for row in faint.tolist() if self._is_flat(row, is_correlation)]
            if flat:
                refuse_flat(self.name, [self._label(row) for row in flat], metric)
            gram = self.grams([form], "float64")[form]
        found = dissimilarities(gram, metric)
        if self._precision == "float32" and not len(faint) and found.max() < _ALL_ALIKE:
            found = dissimilarities(self.grams([form], "float64")[form], metric)
        return found

    def _is_flat(self, row: int, but_for_offset: bool) -> bool:
        pattern = np.asarray(self.rows[row : row + 1], dtype=np.float64)
        return bool(is_flat(pattern.min(), pattern.max(), self.rows.dtype, but_for_offset))

    def _label(self, row: int) -> str:
        return self.ids[row] if self.ids else f"row {row}"

    def distances(self, gram: Gram, metric: str) -> Floats:
        """Return distances; those of images that are nearly alike are computed in float64."""
        found = dissimilarities(gram, "sqeuclidean")
        if self._precision != "float64":
            self._mend_small(found, np.diagonal(gram.products))
        return np.sqrt(found, out=found) if metric == "euclidean" else found

    def _mend_small(self, squared: Floats, norms: Floats) -> None:
        """Replace squared distances that are small beside the patterns by exact ones."""
        n = len(norms)
        starts = np.cumsum([0, *range(n - 1, 0, -1)])
        near = [
            np.flatnonzero(squared[start : start + n - 1 - i] < _NEAR * (norms[i] + norms[i + 1 :]))
            for i, start in enumerate(starts[:-1])
        ]
        first = np.repeat(np.arange(n - 1), [len(row) for row in near])
        second = first + 1 + np.concatenate(near)
        alike = np.unique(np.concatenate([first, second]))
        if len(alike) == 0:
            return
        few = _Source(_Part(self.rows, alike), None, self.name, "float64", self._options)
        exact = few.grams(["plain"])["plain"].products
        i, j = np.searchsorted(alike, first), np.searchsorted(alike, second)
        squared[starts[first] + second - first - 1] = np.maximum(
            exact[i, i] + exact[j, j] - 2 * exact[i, j], 0.0
        )


class _Part:
    """Some rows of others, read as they are indexed."""

    def __init__(self, rows: Rows, chosen: npt.NDArray[np.intp]) -> None:
        self._rows, self._chosen = rows, chosen
        self.shape = (len(chosen), *rows.shape[1:])
        self.dtype = rows.dtype

    def __getitem__(self, key: Any) -> Any:
        """Return what is asked for of all of the chosen rows."""
        return self._rows[(self._chosen, *key[1:])]
