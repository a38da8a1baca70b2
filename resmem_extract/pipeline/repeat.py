"""Whether a result that is there answers the very same request, or may be extended to do so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ExtractOptions, RunOptions
from ..decoding import LoadedImage, hash_images, load_images
from ..errors import RequestError, counted
from ..images import StimulusSet
from ..store import Store
from ..types import ActivationSpec
from .differences import id_difference, only, spec_differences, value_differences
from .plan import choose_workers

__all__ = [
    "image_differences",
    "readable",
    "refuse_if_other",
    "run_differences",
    "store_differences",
]

_COMPARED = (
    "model",
    "state_dict_sha256",
    "preprocessing",
    "exif_orientation",
    "precision",
)


def refuse_if_other(out: Path, differences: Iterable[str], hint: str = "") -> None:
    """Raise if what lies under the name of the result differs from what is asked for.

    Parameters
    ----------
    out : Path
    differences : iterable of str
    hint : str
        What else may be done, such as ``--extend to add them, ``.

    Raises
    ------
    RequestError
        One line that names all differences.
    """
    if found := "; ".join(differences):
        raise RequestError(
            f"{out} exists and is of another request ({found}); "
            f"use {hint}--overwrite to replace it, or another --out"
        )


def run_differences(
    there: Mapping[str, Any], here: Mapping[str, Any], asked: RunOptions
) -> Iterator[str]:
    """Yield, a few words each, in what two provenances differ that has a part in the numbers.

    Engine, device and batch size count where they are asked for.
    """
    chosen = ("engine", "device", "batch_size")
    keys = [*_COMPARED, *(key for key in chosen if getattr(asked, key) not in ("auto", None))]
    yield from value_differences(there, here, keys)


def store_differences(
    store: Store,
    specs: Sequence[ActivationSpec],
    record: Mapping[str, Any],
    stimuli: StimulusSet,
    skipped: Sequence[tuple[str, str]],
    asked: ExtractOptions,
) -> Iterator[str]:
    """Yield, a few words each, in what a store differs from what is asked for.

    Parameters
    ----------
    store : Store
    specs : sequence of ActivationSpec
        What is asked for.
    record : mapping
        Provenance of a run that would begin now.
    stimuli : StimulusSet
        The images that it ought to be of.
    skipped : sequence of (id, reason)
        Those that it leaves out.
    asked : ExtractOptions
    """
    yield from run_differences(store.provenance, record, asked)
    yield from spec_differences(store.specs, specs)
    ids, hashes = store.image_ids.tolist(), store.sha256.tolist()
    begun = [one["row"] for one in store.provenance.get("extended", ())]
    found = list(image_differences(stimuli, ids, hashes, skipped, asked, begun))
    yield from found
    if not found:
        yield from _column_differences(store, stimuli)


def _column_differences(store: Store, stimuli: StimulusSet) -> Iterator[str]:
    row_of = {image_id: row for row, image_id in enumerate(stimuli.ids)}
    rows = [row_of[image_id] for image_id in store.image_ids.tolist()]
    there, here = store.columns, stimuli.columns
    if set(there) != set(here):
        yield f"columns: {only(there)} there, {only(here)} asked"
    elif other := {name for name in here if not _equal(here[name][rows], there[name])}:
        yield f"other values in the columns {only(other)}"


def image_differences(
    stimuli: StimulusSet,
    ids: Sequence[str],
    sha256s: Sequence[str] | None,
    skipped: Sequence[tuple[str, str]],
    asked: RunOptions,
    begun: Sequence[int] = (),
) -> Iterator[str]:
    """Yield, a few words each, in what the images of a result differ from those asked for.

    Parameters
    ----------
    stimuli : StimulusSet
        What is asked for.
    ids, sha256s : sequence of str
        Of the images in the result; hashes are not compared where they are None.
    skipped : sequence of (id, reason)
        Images that the result leaves out.
    asked : RunOptions
    begun : sequence of int
        Rows of the result at which images begin that were added to it later.
    """
    left_out = {image_id for image_id, _ in skipped}
    if left_out and asked.on_error == "stop":
        were = "was" if len(left_out) == 1 else "were"
        yield f"{counted(len(left_out), 'image')} {were} skipped there (--on-error skip)"
        return
    there, here = {*ids, *left_out}, set(stimuli.ids)
    if there != here:
        yield id_difference(there, here)
        return
    row_of = {image_id: row for row, image_id in enumerate(stimuli.ids)}
    rows = [row_of[image_id] for image_id in ids]
    if any(later < row and i not in begun for i, (row, later) in enumerate(pairwise(rows), 1)):
        yield "images: in another order"
        return
    workers = choose_workers(asked)
    if sha256s is not None and hash_images(stimuli.take(rows), workers) != list(sha256s):
        yield "images: the same ids, but other contents"
    for image_id in readable(stimuli, left_out, workers):
        yield f"{image_id} was skipped there and can be read now"


def readable(stimuli: StimulusSet, ids: set[str], workers: int) -> Iterator[str]:
    """Yield which of some images can be read, in the order of `stimuli`."""
    some = stimuli.take([row for row, name in enumerate(stimuli.ids) if name in ids])
    for image in load_images(some, lambda _: np.empty(0), workers=workers, on_error="skip"):
        if isinstance(image, LoadedImage):
            yield image.id


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
