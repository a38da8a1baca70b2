"""What a person sees: errors, notes and progress on stderr, results on stdout."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from ..errors import ResmemExtractError

__all__ = [
    "INTERRUPTED",
    "NO_IMAGE",
    "already",
    "notes",
    "print_json",
    "progress_bar",
    "results",
    "run_app",
    "stderr",
    "told_of_interrupt",
]

INTERRUPTED = 130
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]  # click's own, or typer's copy
NO_IMAGE = "no image was computed; the same command starts again"
_NOTHING_WRITTEN = "nothing was written; the same command starts again from the beginning"
_LOG_EVERY = 60.0
"""Seconds between lines of progress where stderr is a file."""

results = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def notes(quiet: bool) -> Callable[[str], None]:
    """Return a function that tells the user one line, or nobody."""
    return (lambda _line: None) if quiet else (lambda line: stderr.print(escape(line)))


def already(result: Any) -> str:
    """Return what is said of a result that was there before."""
    return " (already complete)" if result.already_complete else ""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, taken for Ctrl-C.

    A class of its own: where a KeyboardInterrupt itself ends the start of a library, Python keeps
    that in mind, and ``python -m`` dies of SIGINT in the end, whatever the exit code.
    """


class _Interrupted(ResmemExtractError):
    """Ctrl-C or SIGTERM, of which typer would lose the text."""

    exit_code = INTERRUPTED


@contextmanager
def told_of_interrupt(early: str = _NOTHING_WRITTEN) -> Iterator[None]:
    """Let what was interrupted say what is kept; where it says nothing, it is `early`."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _Interrupted(str(interrupt) or early) from interrupt


def print_json(value: Any) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def progress_bar(
    what: str, before: str, quiet: bool, unit: Literal["images", "bytes", "folds"] = "images"
) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function to be told of progress: a bar in a terminal, now and then a line in a log.

    A terminal shows `before` until there is progress.
    """
    if quiet:
        yield None
    elif not stderr.is_terminal:
        yield _Log(what, unit)
    else:
        counts = (MofNCompleteColumn(), _Rate(unit))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            *((DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else counts),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with ExitStack() as shown:
            waiting = shown.enter_context(stderr.status(f"{escape(before)} ..."))
            bar = Progress(*columns, console=stderr, transient=True)
            task = bar.add_task(what)

            def update(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                if not bar.live.is_started:
                    waiting.stop()
                    shown.enter_context(bar)

            yield update


class _Rate(ProgressColumn):
    """Images, or what else is counted, per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        shown = "" if speed is None else f"{speed:.1f} {self._unit}/s"
        return Text(shown, style="progress.data.speed")


class _Log:
    """Lines of progress for a log file, seldom enough for a night's run."""

    def __init__(self, what: str, unit: str = "images") -> None:
        self._what, self._unit = what, unit
        self._start = self._last = time.monotonic()
        self._found: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._found is None:  # what an earlier run has done comes at once
            self._start = self._last = now
            self._found = done
        if now - self._last < _LOG_EVERY or done == self._found:
            return
        self._last = now
        rate = (done - self._found) / (now - self._start)
        left = (total - done) / rate / 60
        if self._unit == "bytes":
            line = f"{done / 1e9:.1f}/{total / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s"
        else:
            line = f"{done}/{total}, {rate:.1f} {self._unit}/s"
        notes(False)(f"{self._what} {line}, {left:.0f} min left")


def run_app(app: typer.Typer, name: str) -> None:
    """Run a command line: foreseen problems are one line and an honest exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    ended_by: list[int] = []

    def terminate(number: int, _frame: object) -> None:
        """Take SIGTERM, SLURM's end of the time limit, for Ctrl-C: files are tidied up."""
        signal.signal(number, signal.SIG_IGN)
        ended_by.append(number)
        raise _Terminated

    handler = signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name=name, standalone_mode=False)
        if code == INTERRUPTED:  # typer makes this of Ctrl-C; others raise it
            raise KeyboardInterrupt
        sys.stdout.flush()
    except _Interrupted as error:
        code = _fail_interrupted(str(error), ended_by)
    except ResmemExtractError as error:
        code = _fail(str(error), error.exit_code)
    except _ClickException as error:
        code = 2
        if type(error).__name__ != "NoArgsIsHelpError":  # for that one, help was shown
            _fail(_usage(error, name), code)
    except typer.Abort as abort:
        # typer takes the end of any file for that of a terminal; a prompt's alone has no cause.
        if isinstance(abort.__cause__, EOFError):
            raise abort.__cause__ from None
        code = _fail_interrupted(_NOTHING_WRITTEN, ended_by)
    except KeyboardInterrupt:
        code = _fail_interrupted(_NOTHING_WRITTEN, ended_by)
    except BrokenPipeError:  # `| head` has read enough
        _drop_output()
        code = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        where = error.filename or "the output"
        code = _fail(f"{where} cannot be written: {os.strerror(error.errno)}", 1)
    except Exception:
        if not ended_by:
            raise
        # Some libraries, interrupted as they are loaded, make an ImportError of it.
        code = _fail_interrupted("the same command starts again", ended_by)
    finally:
        signal.signal(signal.SIGTERM, handler)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that Python's own last flush succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _fail_interrupted(message: str, ended_by: list[int]) -> int:
    """Say what is kept, and return the exit code of Ctrl-C, or of the signal that ended the run."""
    what = "terminated" if ended_by else "interrupted"
    return _fail(f"{what}: {message}", 128 + ended_by[0] if ended_by else INTERRUPTED)


def _usage(error: Exception, name: str) -> str:
    """Return what is wrong with the command line, and where its help is."""
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else name
    message: str = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{message.rstrip('.')}; see: {command} --help"
