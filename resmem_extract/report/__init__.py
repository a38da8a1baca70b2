"""Figures of a comparison, as files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..compare import compare
from ..compare.table import Entity, Row
from ..errors import RequestError
from ..images import StimulusSet
from .comparisons import draw_map, draw_matrix, draw_profile, similarity_matrix
from .rdm_figure import draw_rdm
from .style import axis_label, save

__all__ = ["draw_all"]


def draw_all(
    folder: Path,
    rows: Sequence[Row],
    models: Sequence[Entity],
    references: Sequence[Entity],
    formats: Sequence[str],
    *,
    groups: Mapping[str, str] | None = None,
    images: StimulusSet | None = None,
) -> list[Path]:
    """Draw everything that a comparison allows.

    Parameters
    ----------
    folder : Path
    rows : sequence of Row
    models, references : sequence of Entity
        In the order of depth.
    formats : sequence of str
        ``png``, ``svg``, ``pdf``.
    groups : mapping from id to name, optional
        What puts images into blocks.
    images : StimulusSet, optional
        For thumbnails, by id.

    Returns
    -------
    list of Path

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    WorkError
        If the disk fails or is full.
    """
    written: list[Path] = []
    for entity in (*models, *references):
        for rdm in {id(rdm): rdm for rdm in entity.rdms.values()}.values():
            stem = f"rdm {entity.name} {rdm.metric}".strip()
            figure = draw_rdm(rdm, groups=groups, images=images)
            written += save(figure, folder / _file_name(stem), formats)
    names = [model.name for model in models]
    sources = {model.name: model.source for model in models}
    for (metric, method), own in itertools.groupby(rows, key=lambda row: (row.metric, row.compare)):
        case = list(own)
        ending = f"{method} {metric}".strip()
        for reference in references:
            if any(row.b == reference.name for row in case):
                stem = _file_name(f"profile {reference.name} {ending}")
                figure = draw_profile(
                    case, reference.name, subjects=_subjects(reference), sources=sources
                )
                written += save(figure, folder / stem, formats)
        if len(models) > 1:
            written += save(
                draw_matrix(case, names), folder / _file_name(f"matrix {ending}"), formats
            )
        everyone = [*names, *(reference.name for reference in references)]
        matrix = similarity_matrix([*case, *_between(references, metric, method)], everyone)
        if len(everyone) > 2 and np.isfinite(matrix).all():
            figure = draw_map(
                matrix,
                everyone,
                axis_label(method),
                references=everyone[len(names) :],
                sources=sources,
            )
            written += save(figure, folder / _file_name(f"map {ending}"), formats)
    return written


def _subjects(reference: Entity) -> int:
    """Return the number of subjects; where features are compared, there is one."""
    return max((rdm.n_subjects for rdm in reference.rdms.values()), default=1)


def _between(references: Sequence[Entity], metric: str, method: str) -> list[Row]:
    """Return how alike references are, where they have RDMs, and images in common."""
    rows = []
    known = [reference for reference in references if reference.rdms or reference.kernel]
    for a, b in itertools.combinations(known, 2):
        try:
            found = compare(a.side(metric, method), b.side(metric, method), method)
        except RequestError:  # no images in common: the map is left out
            continue
        rows.append(Row(a.name, b.name, metric, method, found.n_images, found.value))
    return rows


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_@" else "_" for c in text)
