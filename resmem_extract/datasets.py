"""Public data to try the comparisons on; downloaded when they are asked for, never shipped."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cache import cache_dir, expanded
from .compare import read_npz
from .errors import MissingExtraError, RequestError, WorkError
from .rdm import RDM

__all__ = ["DATA_VARIABLE", "Kriegeskorte92", "kriegeskorte92"]

DATA_VARIABLE = "RESMEM_EXTRACT_DATA"

_NAME = "kriegeskorte92"
_URL = "https://raw.githubusercontent.com/rsagroup/rsatoolbox/v0.3.2/demos/92imageData/"
_PICTURES = "Kriegeskorte_Neuron2008_supplementalData.mat"
_SUBJECTS = "92_brainRDMs.mat"
_SHA256 = {
    _PICTURES: "06f21214399a5d43dc264eed19a7f4b8daf11c8622a59eec3e106064ce5e3504",
    _SUBJECTS: "1743f90a15e895798a94318649e80e1123a7e5943a1703fa1dd7c31ea5780b7c",
}
_COLUMNS = ("category", "human", "face", "animal", "natural")


@dataclass(frozen=True)
class Kriegeskorte92:
    """92 photographs of objects, and how alike inferior temporal cortex finds them.

    References
    ----------
    Kriegeskorte et al. (2008), Matching categorical object representations in inferior temporal
    cortex of man and monkey, Neuron 60, supplemental data.
    """

    images: Path
    """Folder of the photographs, ``01.png`` to ``92.png``, 175 x 175."""
    rdms: Path
    """All RDMs as one npz file, which ``--reference`` takes."""
    columns: Mapping[str, tuple[str, ...]]
    """By name, one value an image: `category`, and 0 or 1 for the others."""
    human_IT: RDM
    """Correlation distance of fMRI patterns, mean of four subjects."""
    monkey_IT: RDM
    """Correlation distance of the responses of 674 neurons, two monkeys."""
    human_IT_subjects: RDM
    """The four subjects, each the mean of two sessions."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the images."""
        return self.human_IT.ids or ()


def kriegeskorte92() -> Kriegeskorte92:
    """Return the 92 images and their RDMs.

    They are looked for in the folder `kriegeskorte92` of ``$RESMEM_EXTRACT_DATA``, and else
    downloaded once into the user cache (4 MB, from rsatoolbox's repository).

    Raises
    ------
    RequestError
        If the variable is set and the folder is not there.
    WorkError
        If they cannot be downloaded.
    MissingExtraError
        If they have to be, and pooch is missing.

    Examples
    --------
    >>> data = kriegeskorte92()                                             # doctest: +SKIP
    >>> extract("resmem", "features.avgpool", data.images, out="k92.h5")    # doctest: +SKIP
    """
    own = os.environ.get(DATA_VARIABLE)
    folder = expanded(own) / _NAME if own else cache_dir() / _NAME
    if not (folder / "rdms.npz").is_file():
        if own:
            raise RequestError(
                f"{folder / 'rdms.npz'} does not exist; unset {DATA_VARIABLE} to download the data"
            )
        _download(folder)
    named = {record.name: record for record in read_npz(folder / "rdms.npz")}
    with (folder / "images.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return Kriegeskorte92(
        images=folder / "images",
        rdms=folder / "rdms.npz",
        columns={name: tuple(line[name] for line in lines) for name in _COLUMNS},
        human_IT=named["human_IT"],
        monkey_IT=named["monkey_IT"],
        human_IT_subjects=named["human_IT_subjects"],
    )


def _download(folder: Path) -> None:
    """Fetch the two MATLAB files and unpack them; the folder appears when it is whole."""
    try:
        import pooch
    except ImportError:
        raise MissingExtraError(
            "downloading needs pooch: pip install 'resmem-extract[rsa]'"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{_NAME}.") as scratch:
        try:
            pictures, subjects = (
                Path(pooch.retrieve(_URL + name, f"sha256:{sha256}", name, scratch))
                for name, sha256 in _SHA256.items()
            )
        except (OSError, ValueError) as error:
            raise WorkError(
                f"{_URL}{_PICTURES} cannot be downloaded; where there is no internet, set "
                f"{DATA_VARIABLE} to a folder that holds {_NAME}/ ({' '.join(str(error).split())})"
            ) from error
        unpacked = Path(scratch) / _NAME
        unpack(pictures, subjects, unpacked)
        if folder.exists():
            return  # another process was faster
        unpacked.rename(folder)


def unpack(pictures: Path, subjects: Path, folder: Path) -> None:
    """Turn the files of the paper's supplement into images, a table and RDMs.

    Parameters
    ----------
    pictures : Path
        MATLAB file of the photographs, their categories and the mean RDMs.
    subjects : Path
        MATLAB file of the RDMs of four subjects in two sessions.
    folder : Path
        To be made: ``images/01.png`` and so on, ``images.csv``, ``rdms.npz``.
    """
    from PIL import Image
    from scipy.io import loadmat
    from scipy.spatial.distance import squareform

    content = loadmat(pictures, squeeze_me=True)
    stimuli = content["stimuli_92objs"]
    ids = [f"{k + 1:02d}.png" for k in range(len(stimuli))]
    (folder / "images").mkdir(parents=True)
    for image_id, stimulus in zip(ids, stimuli, strict=True):
        Image.fromarray(stimulus["image"]).save(folder / "images" / image_id)
    with (folder / "images.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["image_id", *_COLUMNS])
        writer.writerows(
            [image_id, *(str(stimulus[name]) for name in _COLUMNS)]
            for image_id, stimulus in zip(ids, stimuli, strict=True)
        )
    means = {str(record["name"]): record["RDM"] for record in content["RDMs_mIT_hIT_fig1"]}
    names, stack = _mean_sessions(loadmat(subjects, squeeze_me=True)["RDMs"])
    np.savez(
        folder / "rdms.npz",
        human_IT=squareform(_one(means, "hIT")),
        monkey_IT=squareform(_one(means, "mIT")),
        image_id=ids,
        human_IT_subjects=stack,
        subject=names,
    )


def _one(named: Mapping[str, Any], start: str) -> npt.NDArray[np.float64]:
    (found,) = (value for name, value in named.items() if name.startswith(start))
    return np.asarray(found, dtype=np.float64)


def _mean_sessions(records: Any) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return subjects and their RDMs ``[S, N, N]``; names are such as ``hIT | BE | Session: 1``."""
    sessions: dict[str, list[npt.NDArray[np.float64]]] = {}
    for record in records.ravel():
        subject = str(record["name"]).split("|")[1].strip()
        sessions.setdefault(subject, []).append(np.asarray(record["RDM"], dtype=np.float64))
    names = sorted(sessions)
    return names, np.stack([np.mean(sessions[name], axis=0) for name in names])
