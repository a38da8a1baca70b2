"""Whether what lies under the name of the result answers the very same request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunOptions
from ..decoding import LoadedImage, hash_images, load_images
from ..errors import RequestError, counted
from ..images import StimulusSet
from .plan import choose_workers

__all__ = ["image_differences", "refuse_if_other", "run_differences"]

_COMPARED = (
    "model",
    "state_dict_sha256",
    "preprocessing",
    "exif_orientation",
    "precision",
)


def refuse_if_other(out: Path, differences: Iterable[str]) -> None:
    """Raise if what lies under the name of the result differs from what is asked for.

    Raises
    ------
    RequestError
        One line that names all differences.
    """
    if found := "; ".join(differences):
        raise RequestError(
            f"{out} exists and is of another request ({found}); "
            "use --overwrite to replace it, or another --out"
        )


def run_differences(
    there: Mapping[str, Any], here: Mapping[str, Any], asked: RunOptions
) -> Iterator[str]:
    """Yield, a few words each, in what two provenances differ that has a part in the numbers.

    Engine, device and batch size count where they are asked for.
    """
    chosen = ("engine", "device", "batch_size")
    keys = [*_COMPARED, *(key for key in chosen if getattr(asked, key) not in ("auto", None))]
    for key in keys:
        if there.get(key) != here[key]:
            old, new = _short(there.get(key)), _short(here[key])
            yield f"{key.replace('_', ' ')}: {old} there, {new} asked"


def image_differences(
    stimuli: StimulusSet,
    ids: Sequence[str],
    sha256s: Sequence[str] | None,
    skipped: Sequence[tuple[str, str]],
    asked: RunOptions,
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
    """
    left_out = {image_id for image_id, _ in skipped}
    if left_out and asked.on_error == "stop":
        were = "was" if len(left_out) == 1 else "were"
        yield f"{counted(len(left_out), 'image')} {were} skipped there (--on-error skip)"
        return
    kept = [row for row, image_id in enumerate(stimuli.ids) if image_id not in left_out]
    if [stimuli.ids[row] for row in kept] != list(ids) or not left_out <= set(stimuli.ids):
        there, here = len(ids) + len(left_out), len(stimuli)
        yield f"images: {there} there, {here} asked, or other ids, or another order"
        return
    workers = choose_workers(asked)
    if sha256s is not None and hash_images(stimuli.take(kept), workers) != list(sha256s):
        yield "images: the same ids, but other contents"
    bad = stimuli.take([row for row, name in enumerate(stimuli.ids) if name in left_out])
    for image in load_images(bad, lambda _: np.empty(0), workers=workers, on_error="skip"):
        if isinstance(image, LoadedImage):
            yield f"{image.id} was skipped there and can be read now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
