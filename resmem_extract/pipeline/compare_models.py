"""Networks compared with each other by one call: what is missing is extracted first."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare import DEFAULT_COMPARATOR
from ..config import ExtractOptions, ModelOptions, RsaOptions, validated
from ..errors import MissingExtraError, RequestError, given_path
from ..images import StimulusSet
from ..store import Store, open_store
from ..types import Progress
from .extract import extract
from .repeat import image_differences, refuse_if_other, run_differences
from .rsa import compare_stores
from .run import Images, Tell, as_model, choose_stimuli

if TYPE_CHECKING:
    import pandas

    from ..models.base import Model

__all__ = ["compare_models"]


def compare_models(
    models: Sequence[Model | str],
    modules: str | Sequence[str],
    images: Images = None,
    *,
    metric: str | None = None,
    compare: str = DEFAULT_COMPARATOR,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> pandas.DataFrame:
    """Return how alike the modules of networks are, as a square matrix with their names.

    Parameters
    ----------
    models : sequence of Model or str
        All of different names.
    modules : str or sequence of str
        Module paths; ``resmem:conv1`` is of the network `resmem` alone, a path without a name is
        of every network.
    images : path, list of paths or StimulusSet, optional
        As for `extract`.
    metric : str, optional
        Of dissimilarity, by default correlation; comparators of features take none.
    compare : str
        Comparator, such as `spearman` or `cka`.
    folder : path, optional
        Where feature stores lie, one a network: activations of the same images that are there are
        used, others are extracted and kept. Without it nothing is kept.
    progress, tell
        As for `extract`.
    **options
        The fields of `resmem_extract.config.ExtractOptions` and `RsaOptions`.

    Returns
    -------
    pandas.DataFrame
        ``frame.loc["resmem:conv1", "resmem:features.layer2.4"]``; 1 on the diagonal.

    Raises
    ------
    RequestError
        If the request is wrong.
    WorkError
        If an image cannot be read, or the disk fills up.
    MissingExtraError
        Without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtraError(
            "compare_models returns a pandas.DataFrame: pip install 'resmem-extract[rsa]'"
        ) from None
    of_rsa = {key: options.pop(key) for key in list(options) if key in _RSA_ONLY}
    asked: ExtractOptions = validated(ExtractOptions, options, "compare_models")
    loaded = [as_model(model, asked) for model in models]
    names = [model.name for model in loaded]
    if len(set(names)) < len(names) or not names:
        raise RequestError(f"expected networks of different names, got {', '.join(names) or None}")
    stimuli = choose_stimuli(images, asked, tell or (lambda _line: None))
    texts = [modules] if isinstance(modules, str) else list(modules)
    paths: list[Path] = []
    wanted: list[str] = []
    with _place(folder) as place:
        for model in loaded:
            own = _own(model, names, texts)
            wanted += [f"{model.name}:{text}" for text in own]
            paths += _stores(model, own, stimuli, place, asked, progress, tell)
        of_rsa |= {} if metric is None else {"metric": metric}
        result = compare_stores(paths, wanted, compare=compare, tell=tell, **of_rsa)
    labels = [entity.name for entity in result.models]
    frame = pandas.DataFrame(np.eye(len(labels)), index=labels, columns=labels)
    for row in result.table.rows:
        frame.loc[row.a, row.b] = frame.loc[row.b, row.a] = row.value
    return frame


_RSA_ONLY = set(RsaOptions.model_fields) - set(ExtractOptions.model_fields)


@contextmanager
def _place(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    if folder is not None:
        yield given_path(folder, "folder")
        return
    with tempfile.TemporaryDirectory(prefix="resmem_extract-") as scratch:
        yield Path(scratch)


def _own(model: Model, names: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the modules of one network, those that a pattern matches by name."""
    own: dict[str, None] = {}
    for text in texts:
        owner = next((name for name in names if text.startswith(f"{name}:")), model.name)
        if owner != model.name:
            continue
        text = text.removeprefix(f"{model.name}:")
        found = model.paths.resolve(text)
        if any(address.from_glob for address in found):
            own |= dict.fromkeys(address.module for address in found)
        else:
            own[text] = None
    return list(own)


def _stores(
    model: Model,
    modules: Sequence[str],
    stimuli: StimulusSet,
    folder: Path,
    asked: ExtractOptions,
    progress: Progress | None,
    tell: Tell | None,
) -> list[Path]:
    """Return stores that hold the modules of a network, what is missing extracted."""
    if not modules:
        raise RequestError(f"no module of {model.name} was asked for")
    name = model.name.replace("/", "_")
    first = folder / f"{name}.h5"
    missing, there = list(modules), []
    if first.exists() and not asked.overwrite:
        with open_store(first) as store:
            refuse_if_other(first, _differences(store, model, stimuli, asked))
            missing = [text for text in modules if text not in store]
        there = [first] if len(missing) < len(modules) else []
    if not missing:
        return there
    digest = hashlib.sha256("\n".join(missing).encode()).hexdigest()[:8]
    out = folder / f"{name}.{digest}.h5" if first.exists() and not asked.overwrite else first
    # The network is loaded, and takes no options of loading any more.
    kept = {
        key: getattr(asked, key)
        for key in ExtractOptions.model_fields
        if key not in ModelOptions.model_fields
    }
    extract(model, missing, stimuli, out=out, progress=progress, tell=tell, **kept)
    return [*there, out]


def _differences(
    store: Store, model: Model, stimuli: StimulusSet, asked: ExtractOptions
) -> Iterator[str]:
    """Yield, a few words each, in what a store differs from what is asked for, modules apart."""
    here = {
        "model": model.name,
        "state_dict_sha256": model.state_dict_sha256,
        "preprocessing": model.preprocessing.describe(),
        "exif_orientation": asked.exif_orientation,
        "precision": asked.precision,
    }
    yield from run_differences(store.provenance, {**store.provenance, **here}, asked)
    ids, hashes = store.image_ids.tolist(), store.sha256.tolist()
    yield from image_differences(stimuli, ids, hashes, store.skipped, asked)
    wanted = asked.reduction.describe()
    for spec in store.specs.values():
        there = dict(spec.reduce)
        if there != wanted or spec.dtype != asked.dtype:
            yield f"{spec.path}: {spec.dtype} {there} there, {asked.dtype} {wanted} asked"
            return
