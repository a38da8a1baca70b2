"""How stores fit together, and what their merger holds; no activations are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, counted
from ..types import ActivationSpec
from .contents import Contents
from .layout import Layout, choose_layouts
from .origin import Origin, before_split, origin_of, with_parts
from .same import (
    check_columns,
    check_disjoint_images,
    check_same_images,
    check_same_making,
    refusal,
    same_values,
)

__all__ = ["Merger", "plan_merger"]

Rows = npt.NDArray[np.intp]
Skipped = tuple[tuple[str, str], ...] | None


@dataclass(frozen=True)
class Merger:
    """What is to be written, and from where."""

    kind: Literal["parts", "images", "modules"]
    """Parts of one split, different images, or different modules of the same images."""
    sources: Sequence[Contents]
    orders: Sequence[Rows]
    """For each source and each of its rows, where it comes to lie."""
    side_by_side: bool
    """Whether each source gives some modules of all images, instead of some images."""
    contents: Contents
    """Of the file to be written, but for its digest."""
    restores: str | None
    """The digest of the file that was split, if all its parts are there."""


def plan_merger(sources: Sequence[Contents], *, partial: bool = False) -> Merger:
    """Find out how stores fit together.

    Parameters
    ----------
    sources : sequence of Contents
        At least one.
    partial : bool
        Merge parts of one split although some are missing.

    Raises
    ------
    RequestError
        If they do not fit; one line that names two files and the difference.
    """
    check_same_making(sources)
    origins = [origin_of(source.provenance) for source in sources]
    of_split = [origin for origin in origins if origin]
    if len({origin.digest for origin in of_split}) == 1 and len(of_split) == len(sources):
        return _of_parts(sources, of_split, partial)
    sources = [_as_whole(source) for source in sources]
    return _of_images(sources) if _have_same_modules(sources) else _of_modules(sources)


def _as_whole(source: Contents) -> Contents:
    """Return a part as a file of its own, for one that stands beside other files."""
    while origin_of(source.provenance):
        provenance, columns = before_split(source.provenance, source.columns)
        source = replace(source, provenance=provenance, columns=columns)
    return source


def _have_same_modules(sources: Sequence[Contents]) -> bool:
    """Tell whether all have the same modules; otherwise no two may share one.

    Raises
    ------
    RequestError
    """
    first, *others = sources
    if all(set(other.modules) == set(first.modules) for other in others):
        return True
    owner: dict[str, Contents] = {}
    for source in sources:
        for module in source.modules:
            if module in owner:
                raise refusal(owner[module], source, _overlap(module, owner[module], source))
            owner[module] = source
    return False


def _overlap(module: str, a: Contents, b: Contents) -> str:
    if only := sorted(set(a.modules) ^ set(b.modules)):
        return f"both have {module}, but only one has {only[0]}"
    return "they have the same modules, and another file has others; first merge these alone"


# Parts of one split


def _of_parts(sources: Sequence[Contents], origins: Sequence[Origin], partial: bool) -> Merger:
    origin = origins[0]
    check_columns(sources)
    lacking = [m for m in origin.modules if not any(m in source.specs for source in sources)]
    if lacking and not partial:
        raise RequestError(
            f"{origin.file} has {counted(len(lacking), 'module')} that no part here has "
            f"({', '.join(lacking[:3])}); give all parts, or use --partial"
        )
    side_by_side = not _have_same_modules(sources)
    if side_by_side:
        for source in sources[1:]:
            check_same_images(sources[0], source)
        orders = [_all_rows(source, origin) for source in sources]
        contents = _side_by_side(sources, orders)
    else:
        orders = _rows_of_parts(sources, origins, partial)
        contents = _stacked(sources, orders)
    specs = {module: contents.specs[module] for module in origin.modules if module not in lacking}
    layouts = {m: Layout(origin.modules[m], contents.layouts[m].compression) for m in specs}
    whole = replace(contents, specs=specs, layouts=layouts, skipped=sources[0].skipped)
    if lacking or len(whole.ids) < origin.images:
        whole = replace(
            whole,
            layouts={module: layout.fitted(len(whole.ids)) for module, layout in layouts.items()},
            provenance=with_parts(whole.provenance, origins),
        )
        return Merger("parts", sources, orders, side_by_side, whole, restores=None)
    provenance, columns = before_split(whole.provenance, whole.columns)
    whole = replace(whole, provenance=provenance, columns=columns)
    return Merger("parts", sources, orders, side_by_side, whole, restores=origin.digest)


def _rows_of_parts(
    sources: Sequence[Contents], origins: Sequence[Origin], partial: bool
) -> list[Rows]:
    """Return where the rows of parts come to lie.

    Raises
    ------
    RequestError
        If a row is there twice, or rows are missing and may not.
    """
    origin = origins[0]
    owner = np.full(origin.images, -1)
    for number, source in enumerate(sources):
        taken = source.columns["row"]
        if twice := np.flatnonzero(owner[taken] >= 0).tolist():
            known = sources[int(owner[taken[twice[0]]])]
            raise refusal(
                known, source, f"both have row {taken[twice[0]]} of {origin.file}; give each once"
            )
        owner[taken] = number
    missing = int(np.count_nonzero(owner < 0))
    if missing and not partial:
        raise RequestError(
            f"{counted(missing, 'image')} of {origin.file} "
            f"{'is' if missing == 1 else 'are'} in no file given"
            f"{_missing_parts(origins)}; give all parts, or use --partial"
        )
    place = np.cumsum(owner >= 0) - 1  # where a row comes to lie when the missing ones are left out
    return [place[source.columns["row"]] for source in sources]


def _missing_parts(origins: Sequence[Origin]) -> str:
    """Return which numbers are missing, if all come from one way of cutting."""
    if len({(origin.by, origin.parts) for origin in origins}) > 1:
        return ""
    there = {number for origin in origins for number in origin.part}
    missing = [str(number) for number in range(1, origins[0].parts + 1) if number not in there]
    names = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
    return f" (part {names} of {origins[0].parts})" if missing else ""


def _all_rows(source: Contents, origin: Origin) -> Rows:
    rows: Rows = source.columns["row"]
    if not np.array_equal(np.sort(rows), np.arange(origin.images)):
        raise RequestError(
            f"{source.path} has {len(rows)} of the {origin.images} images of {origin.file} and "
            "other modules than the other parts; merge the parts with the same modules first"
        )
    return rows


# Other files


def _of_images(sources: Sequence[Contents]) -> Merger:
    check_disjoint_images(sources)
    check_columns(sources)
    ends = np.cumsum([len(source.ids) for source in sources])
    orders = [
        np.arange(end - len(source.ids), end) for source, end in zip(sources, ends, strict=True)
    ]
    contents = _stacked(sources, orders)
    layouts = choose_layouts(list(contents.specs.values()), len(contents.ids))
    layouts = {
        module: replace(layout, compression=contents.layouts[module].compression)
        for module, layout in layouts.items()
    }
    contents = replace(contents, layouts=layouts, provenance=_merged_provenance(sources))
    return Merger("images", sources, orders, False, contents, restores=None)


def _of_modules(sources: Sequence[Contents]) -> Merger:
    first, *others = sources
    for other in others:
        check_same_images(first, other)
    row_of = {image_id: row for row, image_id in enumerate(first.ids)}
    orders = [np.array([row_of[i] for i in source.ids], np.intp) for source in sources]
    contents = replace(_side_by_side(sources, orders), provenance=_merged_provenance(sources))
    return Merger("modules", sources, orders, True, contents, restores=None)


def _merged_provenance(sources: Sequence[Contents]) -> dict[str, Any]:
    """Return the provenance of the first, and of every file what it was and what is its own."""
    first = sources[0].provenance
    return {
        **first,
        "merged": [
            {
                "file": str(source.path.absolute()),
                "digest": source.digest,
                "images": len(source.ids),
                "modules": list(source.modules),
                "provenance": {k: v for k, v in source.provenance.items() if first.get(k) != v},
            }
            for source in sources
        ],
    }


# Contents put together


def _stacked(sources: Sequence[Contents], orders: Sequence[Rows]) -> Contents:
    """Return images of one source after the other, or between one another."""
    first = sources[0]
    order = np.argsort(np.concatenate(orders), kind="stable")
    ids = [image_id for source in sources for image_id in source.ids]
    sha256s = [sha256 for source in sources for sha256 in source.sha256s]
    return replace(
        first,
        ids=tuple(ids[i] for i in order),
        sha256s=tuple(sha256s[i] for i in order),
        columns={
            name: np.concatenate([source.columns[name] for source in sources])[order]
            for name in first.columns
        },
        skipped=_skipped(sources, set(ids)),
    )


def _side_by_side(sources: Sequence[Contents], orders: Sequence[Rows]) -> Contents:
    """Return the modules of all sources.

    Raises
    ------
    RequestError
        If columns of the images differ.
    """
    first = sources[0]
    columns: dict[str, npt.NDArray[Any]] = {}
    owner: dict[str, Contents] = {}
    specs: dict[str, ActivationSpec] = {}
    layouts: dict[str, Layout] = {}
    for source, order in zip(sources, orders, strict=True):
        back = np.argsort(order)
        for name, values in source.columns.items():
            known = owner.setdefault(name, source)
            if not same_values(columns.setdefault(name, values[back]), values[back]):
                raise refusal(known, source, f"column {name!r} has other values in each")
        specs |= source.specs
        layouts |= source.layouts
    order = np.argsort(orders[0])
    return replace(
        first,
        specs=specs,
        layouts=layouts,
        ids=tuple(first.ids[i] for i in order),
        sha256s=tuple(first.sha256s[i] for i in order),
        columns=columns,
        skipped=_skipped(sources, set(first.ids)),
    )


def _skipped(sources: Sequence[Contents], ids: set[str]) -> Skipped:
    """Return what every source left out and none has, None where nothing may be left out."""
    lists = [source.skipped for source in sources if source.skipped is not None]
    found = dict.fromkeys(pair for pairs in lists for pair in pairs if pair[0] not in ids)
    return tuple(found) if lists else None
