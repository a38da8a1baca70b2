"""What networks there are: listed without importing any library that was listed before.

A source's listing is kept in the user cache together with the versions of the packages that it
depends on, since importing torchvision, timm and open_clip to read names takes many seconds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .._version import __version__
from ..cache import cache_dir
from ..errors import UnknownModelError, nearest
from ..partial_files import write_text
from ..weights import WeightsFile
from .entries import ModelEntry, SourceEntry
from .names import ModelName
from .registry import all_sources, get_source, missing_packages, source_entry, versions

__all__ = ["find_entry", "list_models", "models_of"]


def list_models(source: str | None = None, match: str | None = None) -> list[ModelEntry]:
    """Return the networks that can be loaded here.

    Parameters
    ----------
    source : str, optional
        Only those of this source; one whose packages are missing has none.
    match : str, optional
        Only those whose name, with or without its source, contains this text, or matches it as a
        pattern with ``*`` and ``?``; upper and lower case are the same.

    Raises
    ------
    UnknownModelError
        If there is no such source.
    """
    entries = [source_entry(source)] if source is not None else all_sources().values()
    found = (model for entry in entries for model in models_of(entry))
    return [model for model in found if match is None or _matches(model.name, match)]


def _matches(name: str, match: str) -> bool:
    name, match = name.lower(), match.lower()
    if "*" in match or "?" in match:
        return fnmatchcase(name, match) or fnmatchcase(name.partition("/")[2], match)
    return match in name


def find_entry(name: ModelName) -> ModelEntry:
    """Return the network that a name stands for.

    Raises
    ------
    UnknownModelError
        If there is none, or a bare name stands for several.
    MissingExtraError
        If the packages of its source are missing.
    """
    if name.source:
        entry = source_entry(name.source)
        get_source(entry.name)  # which says what is missing
        known = {model.name: model for model in models_of(entry)}
        if name.base in known:
            return known[name.base]
        raise _unknown(name, known, f"--source {entry.name} ")
    if name.base in all_sources():  # `resmem`: a source of one network of its own name
        alone = models_of(source_entry(name.base))
        if [model.name for model in alone] == [name.base]:
            return alone[0]
    everything = list_models()
    found = [m for m in everything if name.base in (m.name, m.name.partition("/")[2])]
    if len(found) > 1:
        names = " or ".join(model.name for model in found)
        raise UnknownModelError(f"{name.base!r} is the name of several networks; write {names}")
    if found:
        return found[0]
    raise _unknown(name, [text for m in everything for text in _names_of(m)], "")


def _names_of(model: ModelEntry) -> list[str]:
    return list(dict.fromkeys((model.name, model.name.rpartition("/")[2])))


def _unknown(name: ModelName, known: Iterable[str], option: str) -> UnknownModelError:
    known = list(known)
    same = [text for text in known if text.lower() == name.base.lower()]
    close = same or nearest(name.base, known)
    hint = f": did you mean {', '.join(close)}?" if close else ""
    return UnknownModelError(
        f"no model {name.base!r}{hint}; `resmem-extract models {option}`".rstrip("` ")
        + "` lists all"
    )


def models_of(entry: SourceEntry) -> Sequence[ModelEntry]:
    """Return the networks of a source; none where its packages are missing."""
    if missing_packages(entry):
        return []
    key = {"us": __version__, "loader": entry.loader, **versions(entry), "file": _stamp(entry)}
    path = cache_dir() / "catalogue" / f"{entry.name}.json"
    known = _read(path, key)
    if known is None:
        known = list(get_source(entry.name).entries())
        _write(path, key, known)
    return known


def _stamp(entry: SourceEntry) -> str:
    """Return what changes with the file that defines a source, as it does under development."""
    import importlib.util

    with contextlib.suppress(ImportError, OSError, ValueError):
        spec = importlib.util.find_spec(entry.loader.split(":")[0])
        if spec is not None and spec.origin:
            status = Path(spec.origin).stat()
            return f"{status.st_size} {status.st_mtime_ns}"
    return ""


def _read(path: Path, key: dict[str, str]) -> list[ModelEntry] | None:
    """Return a listing that was written under the same key; None where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [_entry(record) for record in kept["models"]]
    return None


def _entry(record: dict[str, Any]) -> ModelEntry:
    weights = {tag: WeightsFile(**file) for tag, file in record["weights"].items()}
    return ModelEntry(**{**record, "weights": weights})


def _write(path: Path, key: dict[str, str], models: Sequence[ModelEntry]) -> None:
    """Keep a listing; a cache that cannot be written costs the next listing some seconds."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [_without_defaults(asdict(model)) for model in models]
        write_text(path, json.dumps({"key": key, "models": records}))


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    weights = {
        tag: {name: value for name, value in file.items() if value}
        for tag, file in record["weights"].items()
    }
    return {**record, "weights": weights}
