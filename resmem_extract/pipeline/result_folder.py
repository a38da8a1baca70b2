"""A folder with the result of one request, and a record of what was asked for and what is there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import RequestError, WorkError, given_path, unwritable
from ..partial_files import remove_stale
from ..store import Store
from ..weights import read_sha256
from .differences import value_differences

__all__ = ["Figures", "Found", "ResultFolder", "describe_stores", "result_folder"]

R = TypeVar("R")


@dataclass(frozen=True)
class Figures(Generic[R]):
    """Figures that belong to a result; each format of them is drawn, and drawn anew, as a whole."""

    formats: Sequence[str]
    """Those asked for."""
    look: Mapping[str, Any]
    """What they depend on beside the result, as JSON values."""
    stems: Sequence[str]
    """Patterns of the names that they may have, without the format."""
    draw: Callable[[R, Path, Sequence[str]], object]
    """Called with the result, a folder and formats."""


@dataclass(frozen=True)
class Found:
    """A whole result of the very same request, figures apart."""

    record: dict[str, Any]
    undrawn: tuple[str, ...]
    """Formats of figures that were asked for and are not there, or look otherwise."""


@dataclass(frozen=True)
class ResultFolder:
    """Where a result is to lie.

    Its record has under ``files`` the SHA-256 of each of its files, by name: what is not named
    there is none of its own, and is neither written over unasked nor removed. null stands for a
    file that was being replaced when the process was killed. Under ``figures`` the record has what
    those of each format were drawn of.
    """

    path: Path
    tables: Sequence[str]
    """Names of what a result may have beside record and figures, the most important first."""
    record: str
    """A name: of JSON, written last."""
    figures: Figures[Any] | None = None

    def find(self, asked: Mapping[str, Any], *, overwrite: bool) -> Found | None:
        """Return what is there of a result; None if it is to be made.

        What killed runs have left is removed.

        Parameters
        ----------
        asked : mapping
            All that the result depends on, figures apart, as JSON values.
        overwrite : bool
            Make it, whatever there is.

        Raises
        ------
        RequestError
            If there is the result of another request, or a file that would be written over and is
            of no result.
        WorkError
            If the result that is there is damaged.
        """
        formats = self.figures.formats if self.figures else ()
        remove_stale(self.path / self.record)
        try:
            there = self.read()
        except OSError as error:
            raise unwritable(self.path, error) from error
        except ValueError as error:
            if not overwrite:
                raise WorkError(
                    f"{self.path / self.record} is damaged ({error}); --overwrite makes the "
                    "result anew"
                ) from error
            there = {}
        known = there.get("files", {})
        if overwrite or not there or any(known.get(name, "") is None for name in self.tables):
            names = [*self.tables, self.record]
            own = {self.record, *known} if there else set()
            self._refuse_strangers(names, formats, own, overwrite)
            return None
        self.refuse_other(there, asked)
        self._refuse_damaged(known)
        undrawn = tuple(ending for ending in formats if not self._is_drawn(there, ending))
        if undrawn:  # of which a user may have edited some
            own = {name for name, sha256 in known.items() if self._is_whole(name, sha256)}
            self._refuse_strangers([], undrawn, own, overwrite)
        return Found(there, undrawn)

    def read(self) -> dict[str, Any]:
        """Return the record, empty if there is none of this program.

        Raises
        ------
        OSError, ValueError
            The latter where it is no JSON.
        """
        path = self.path / self.record
        there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = isinstance(there, dict) and isinstance(there.get("files"), dict)
        # A name with a folder in it is not from here, and what it names is not ours to remove.
        return there if known and all(Path(name).name == name for name in there["files"]) else {}

    def _refuse_strangers(
        self, names: Sequence[str], formats: Sequence[str], own: Set[str], overwrite: bool
    ) -> None:
        """Raise if what is not its own has a name that the result may have."""
        stems = self.figures.stems if self.figures else ()
        patterns = [*names, *(f"{stem}.{ending}" for stem in stems for ending in formats)]
        try:
            there = list(self.path.iterdir()) if self.path.is_dir() else []
        except OSError as error:
            raise unwritable(self.path, error) from error
        strangers = sorted(
            path
            for path in there
            if path.is_dir() or (path.name not in own and not overwrite)
            if any(fnmatchcase(path.name, pattern) for pattern in patterns)
        )
        if strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            advice = "" if strangers[0].is_dir() else "use --overwrite to replace it, or "
            raise RequestError(
                f"{self.path} holds {strangers[0].name}{more}, which {self.record} does not know, "
                f"or not as it is; {advice}choose another --out"
            )

    def refuse_other(self, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """Raise if a record is that of another request."""
        differences = [
            f"other {key}" for key in asked if key != "options" and there.get(key) != asked[key]
        ]
        old, new = there.get("options", {}), asked["options"]
        differences += value_differences(old, new, new)
        if differences:
            raise RequestError(
                f"{self.path} holds the result of another request ({'; '.join(differences)}); use "
                "--overwrite to replace it, or another --out"
            )

    def _refuse_damaged(self, known: Mapping[str, str]) -> None:
        for name in known.keys() & set(self.tables):
            if not self._is_whole(name, known[name]):
                what = "not what was written" if (self.path / name).exists() else "missing"
                raise WorkError(f"{self.path / name} is {what}; --overwrite makes the result anew")

    def _is_whole(self, name: str, sha256: str | None) -> bool:
        try:
            return sha256 in (None, read_sha256(self.path / name))
        except OSError:
            return False

    def _is_drawn(self, there: Mapping[str, Any], ending: str) -> bool:
        """Tell whether all figures of a format are there, which a user may have edited."""
        assert self.figures is not None
        return bool(there.get("figures", {}).get(ending) == self.figures.look) and all(
            there["files"][name] and (self.path / name).exists()
            for name in of_format(there["files"], ending)
        )


def of_format(names: Iterable[str], ending: str) -> Iterator[str]:
    """Yield the names of figures of a format."""
    return (name for name in names if name.endswith(f".{ending}"))


def result_folder(
    out: str | os.PathLike[str] | None,
    tables: Sequence[str],
    record: str,
    figures: Figures[Any] | None,
) -> ResultFolder | None:
    """Return the folder that a result is to lie in, None for none.

    Parameters
    ----------
    out : path, optional
        As the user gave it.
    tables, record, figures
        As of `ResultFolder`.

    Raises
    ------
    RequestError
        If it is a file.
    """
    if out is None:
        return None
    path = given_path(out, "out")
    if path.is_symlink() and not path.exists():
        raise RequestError(f"{path} is a link to {path.readlink()}, which is not there; make that")
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path} is a file; name a folder for {tables[0]} and the rest")
    return ResultFolder(path, tables, record, figures)


def describe_stores(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """Return what a result that is made of stores depends on, modules apart, as JSON values."""
    return [
        {
            "provenance": store.provenance,
            "images": hashlib.sha256("\n".join(store.sha256.tolist()).encode()).hexdigest(),
        }
        for store in stores
    ]
