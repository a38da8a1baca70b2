"""RDMs to and from rsatoolbox, and its crossvalidated distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError, RequestError, counted
from ..rdm import RDM

__all__ = ["crossnobis", "from_rsatoolbox", "read_rsatoolbox", "to_rsatoolbox"]

_ID = "image_id"


def _rsatoolbox() -> Any:
    try:
        import rsatoolbox
    except ImportError:
        raise MissingExtraError(
            "this needs rsatoolbox: pip install 'resmem-extract[rsa]'"
        ) from None
    return rsatoolbox


def to_rsatoolbox(rdms: RDM | Sequence[RDM]) -> Any:
    """Return RDMs as one object of rsatoolbox, the numbers unchanged.

    Parameters
    ----------
    rdms : RDM or sequence of RDM
        Of the same images in the same order, and of one metric.

    Returns
    -------
    rsatoolbox.rdm.RDMs
        Ids are the pattern descriptor ``image_id``, names and subjects the RDM descriptors ``name``
        and ``subject``.

    Raises
    ------
    RequestError
        If they are of other images or of several metrics.
    MissingExtraError
        Without rsatoolbox.
    """
    records = [rdms] if isinstance(rdms, RDM) else list(rdms)
    if not records:
        raise RequestError("no RDM was given")
    first = records[0]
    for record in records[1:]:
        if record.ids != first.ids or record.n_images != first.n_images:
            raise RequestError(
                f"{record.name} and {first.name} are not of the same images in the same order; "
                "use subset"
            )
        if record.metric != first.metric:
            raise RequestError(
                f"{record.name} is of metric {record.metric!r}, {first.name} of {first.metric!r}"
            )
    names = [record.name for record in records for _ in range(record.n_subjects)]
    subjects = [subject for record in records for subject in record.subjects or ("",)]
    return _rsatoolbox().rdm.RDMs(
        np.concatenate([record.stack for record in records]),
        dissimilarity_measure=first.metric or None,
        rdm_descriptors={"name": names, "subject": subjects},
        pattern_descriptors={_ID: list(first.ids)} if first.ids else None,
    )


def from_rsatoolbox(rdms: Any, *, name: str | None = None, ids: str | None = None) -> RDM:
    """Return RDMs of rsatoolbox as one record, the numbers unchanged.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs
        Several are taken for those of several subjects.
    name : str, optional
        By default the RDM descriptor ``name``, if there is one of that.
    ids : str, optional
        Pattern descriptor that holds the ids of the images: by default ``image_id``, or the only
        one that tells all patterns apart.

    Returns
    -------
    RDM

    Raises
    ------
    RequestError
        If no pattern descriptor, or several, can be the ids; or as `RDM`.
    """
    own_names = {str(value) for value in rdms.rdm_descriptors.get("name", ())}
    if name is None:
        name = own_names.pop() if len(own_names) == 1 else "rdm"
    values = np.asarray(rdms.get_vectors(), dtype=np.float64)
    subjects = [str(subject) for subject in rdms.rdm_descriptors.get("subject", ())]
    descriptor = _id_descriptor(rdms.pattern_descriptors, name, ids)
    record = RDM(
        values if len(values) > 1 else values[0],
        tuple(str(value) for value in rdms.pattern_descriptors[descriptor]),
        str(rdms.dissimilarity_measure or ""),
        name,
        tuple(subjects) if len(values) > 1 and len(set(subjects)) == len(values) else (),
    )
    return replace(record, provenance={"source": "rsatoolbox", "ids": descriptor})


def read_rsatoolbox(path: Path, ids: Sequence[str] | None = None) -> RDM:
    """Read an HDF5 file that rsatoolbox saved; the stem of its name is the reference's.

    Parameters
    ----------
    path : Path
    ids : sequence of str, optional
        Of the images, where no pattern descriptor of the file, or several, can hold them.

    Raises
    ------
    RequestError
        As `from_rsatoolbox`.
    MissingExtraError
        Without rsatoolbox.
    """
    rdms = _rsatoolbox().rdm.load_rdm(str(path), file_type="hdf5")
    if ids is not None and len(_candidates(rdms.pattern_descriptors)) != 1:
        rdms.pattern_descriptors[_ID] = list(ids)
    return from_rsatoolbox(rdms, name=path.stem)


def _id_descriptor(descriptors: dict[str, Any], name: str, asked: str | None) -> str:
    if asked is not None:
        if asked not in descriptors:
            raise RequestError(
                f"{name} has no pattern descriptor {asked!r}; it has {', '.join(descriptors)}"
            )
        return asked
    distinct = _candidates(descriptors)
    if len(distinct) != 1:
        found = ", ".join(distinct) if distinct else "none"
        raise RequestError(
            f"{name}: which pattern descriptor holds the ids of the images? Candidates: {found}; "
            f"add one named {_ID!r}, or give --reference-ids FILE"
        )
    return distinct[0]


def _candidates(descriptors: dict[str, Any]) -> list[str]:
    """Return the pattern descriptors that can hold the ids: `image_id`, or what is distinct."""
    if _ID in descriptors:
        return [_ID]
    return [
        key
        for key, values in descriptors.items()
        if key != "index" and len({str(value) for value in values}) == len(values)
    ]


def crossnobis(
    responses: npt.ArrayLike,
    ids: Sequence[str],
    runs: Sequence[Any],
    *,
    noise_precision: npt.ArrayLike | None = None,
    name: str = "responses",
) -> RDM:
    """Compute crossvalidated distances of repeated measurements, by rsatoolbox.

    Parameters
    ----------
    responses : array, `[n_measurements, n_channels]`
    ids : sequence of str, `[n_measurements]`
        Which image each measurement is of.
    runs : sequence, `[n_measurements]`
        What is left out together in crossvalidation; each run has measured every image.
    noise_precision : array, `[n_channels, n_channels]`, optional
        Inverse covariance of the noise; by default the identity.
    name : str

    Returns
    -------
    RDM
        Squared distances divided by the number of channels, zero on average where two images do
        not differ; single ones may be negative. Images are sorted by id.

    Raises
    ------
    RequestError
        If there are fewer than two runs, or a run lacks an image.
    MissingExtraError
        Without rsatoolbox.

    References
    ----------
    Walther et al. (2016), Reliability of dissimilarity measures for multi-voxel pattern analysis,
    NeuroImage 137.
    """
    values = np.asarray(responses, dtype=np.float64)
    labels, run_of = [str(image_id) for image_id in ids], [str(run) for run in runs]
    if values.ndim != 2 or not len(values) == len(labels) == len(run_of):
        raise RequestError(
            f"{name}: expected measurements [n, channels] with n ids and n runs, got shape "
            f"{values.shape}, {len(labels)} ids and {len(run_of)} runs"
        )
    if not np.isfinite(values).all():
        bad = labels[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise RequestError(f"{name}: a measurement of {bad} is NaN or infinite")
    images, distinct_runs = sorted(set(labels)), sorted(set(run_of))
    if len(distinct_runs) < 2:
        raise RequestError(
            f"{name}: {counted(len(distinct_runs), 'run')}; crossvalidation takes two"
        )
    measured = set(zip(run_of, labels, strict=True))
    for run in distinct_runs:
        for image_id in images:
            if (run, image_id) not in measured:
                raise RequestError(
                    f"{name}: run {run} has no measurement of {image_id}; crossvalidated distances "
                    "need every image in every run"
                )
    toolbox = _rsatoolbox()
    dataset = toolbox.data.Dataset(values, obs_descriptors={_ID: labels, "run": run_of})
    made = toolbox.rdm.calc_rdm(
        dataset,
        method="crossnobis",
        descriptor=_ID,
        cv_descriptor="run",
        noise=None if noise_precision is None else np.asarray(noise_precision, dtype=np.float64),
    )
    return replace(from_rsatoolbox(made, name=name), metric="crossnobis")
