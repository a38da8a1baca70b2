"""A result in the making: hidden until it is whole, its figures too, then moved to its folder."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import ResmemExtractError, WorkError, unwritable
from ..partial_files import (
    make_folders,
    partial_name,
    remove,
    removed_on_failure,
    sync,
    write_text,
)
from ..weights import read_sha256
from .result_folder import Found, ResultFolder, of_format

__all__ = ["NewResult", "draw_figures", "new_result"]


@dataclass(frozen=True)
class NewResult:
    """A result in the making, in a hidden folder within its own."""

    place: ResultFolder
    """Where it is to lie."""
    hidden: Path
    before: Mapping[str, Any]
    """The record that was there when it was begun."""

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Give the place of one of its files while that is written.

        Raises
        ------
        WorkError
            If the disk fails or is full; it names the file.
        """
        try:
            yield self.hidden / name
        except ResmemExtractError:
            raise
        except OSError as error:
            raise unwritable(self.place.path / name, error) from error

    def write(self, name: str, text: str) -> None:
        """Write one of its files; raises as `file` does."""
        with self.file(name) as path:
            write_text(path, text)

    def finish(self, result: Any, asked: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Draw the figures of a result whose tables are written, and give all files their names.

        Parameters
        ----------
        result : object
            What figures are drawn of.
        asked : mapping
            What it depends on, as of `ResultFolder.find`.
        about : mapping
            JSON values that are kept with it.

        Raises
        ------
        RequestError or WorkError
            If files cannot be written or moved, or figures not drawn; tables are kept in the latter
            case unless there is a result already. Also if another process has put the result of
            another request there meanwhile.
        KeyboardInterrupt
            If an interrupt came while files were moved; they are, and it says so.
        """
        tables = set(self.hidden.iterdir())
        drawn: dict[str, Any] = {}
        failure: Exception | None = None
        if self.place.figures:
            try:
                drawn = self._drawn(result, self.place.figures.formats)
            except Exception as error:
                if (self.place.path / self.place.record).exists():
                    raise
                # Hours of work are not lost for a picture, where nothing whole is lost for them.
                failure = error
                for path in set(self.hidden.iterdir()) - tables:
                    path.unlink()
        meanwhile = _record_of(self.place)
        if meanwhile and meanwhile != self.before:
            self.place.refuse_other(meanwhile, asked)
        self._publish({**asked, **about, "figures": drawn}, {})
        if isinstance(failure, ResmemExtractError):
            text = f"{failure}; tables are whole, and the same command draws the figures"
            raise WorkError(text) from failure
        if failure:
            raise failure

    def redraw(self, result: Any, found: Found) -> None:
        """Draw figures that are not there of a result that is; raises as `finish` does."""
        there = found.record
        drawn = {**there.get("figures", {}), **self._drawn(result, found.undrawn)}
        old = {name for ending in found.undrawn for name in of_format(there["files"], ending)}
        kept = {name: there["files"][name] for name in there["files"].keys() - old}
        self._publish({**there, "figures": drawn}, kept)

    def _drawn(self, result: Any, formats: Sequence[str]) -> dict[str, Any]:
        """Draw figures, and return what those of each format show beside the result."""
        figures = self.place.figures
        assert figures is not None
        if formats:
            figures.draw(result, self.hidden, formats)
        return {ending: dict(figures.look) for ending in formats}

    def _publish(self, record: Mapping[str, Any], kept: Mapping[str, str]) -> None:
        """Give all files their names, the record last; those not `kept` of what was there go."""
        folder, record_name = self.place.path, self.place.record
        made = {}
        for path in sorted(self.hidden.iterdir()):
            with self.file(path.name):
                sync(path)
                made[path.name] = read_sha256(path)
        files = dict(sorted({**kept, **made}.items()))
        self.write(record_name, _json({**record, "files": files}))
        before = _record_of(self.place).get("files", {}).keys() - kept.keys()
        # What is found after a kill: it tells whose files may be replaced.
        meanwhile = {**dict.fromkeys(before | made.keys()), **kept}
        with _whole_although_interrupted(folder):
            try:
                write_text(folder / record_name, _json({**record, "files": meanwhile}))
                for name in made:
                    (self.hidden / name).replace(folder / name)
                for name in before - made.keys():
                    (folder / name).unlink(missing_ok=True)
                sync(folder)
                (self.hidden / record_name).replace(folder / record_name)
                remove(self.hidden)  # here, where an interrupt does not speak of nothing
            except OSError as error:
                raise unwritable(folder, error) from error


def _record_of(place: ResultFolder) -> Mapping[str, Any]:
    try:
        return place.read()
    except ValueError:  # damaged, as --overwrite has found already
        return {}


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


@contextmanager
def new_result(place: ResultFolder | None) -> Iterator[NewResult | None]:
    """Make a result, all of which appears in its folder when it is finished; else nothing does.

    Parameters
    ----------
    place : ResultFolder, optional
        None for a result that is not kept.

    Raises
    ------
    RequestError
        Before the work, not after it, if nothing can be written there.
    WorkError
        If the disk fails or is full.
    """
    if place is None:
        yield None
        return
    hidden = partial_name(place.path / place.record)
    try:
        made = make_folders(hidden)
        with removed_on_failure(made):
            hidden.mkdir()
    except OSError as error:
        raise unwritable(place.path, error) from error
    with removed_on_failure(made):
        try:
            yield NewResult(place, hidden, _record_of(place))
        finally:
            remove(hidden)


def draw_figures(
    place: ResultFolder, found: Found, result: Any, tell: Callable[[str], None]
) -> None:
    """Draw the figures that are asked for and not there, from a result that is there.

    Raises
    ------
    RequestError or WorkError
        As of `NewResult`.
    """
    if found.undrawn:
        tell(f"{place.path} holds this result; drawing its figures ({', '.join(found.undrawn)})")
        with new_result(place) as new:
            assert new is not None
            new.redraw(result, found)


@contextmanager
def _whole_although_interrupted(folder: Path) -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while files are moved, which takes a moment.

    Raises
    ------
    KeyboardInterrupt
        After the block, if either came and is taken for that; it says that the result is whole.
    """
    if threading.current_thread() is not threading.main_thread():  # whom alone signals interrupt
        yield
        return
    came: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {
        number: signal.signal(number, hold)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not None  # which could not be set again
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        for held in came:
            signal.raise_signal(held)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder} holds the whole result") from None
