"""Work in other threads, in order and with a bound on what waits."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["Background", "background", "in_order"]


class Background:
    """Calls a function in another thread, call by call, in order.

    At most `depth` calls wait; a further one blocks the caller, so that memory stays bounded.
    What the function raises is raised again in the caller, at the next call or at `join`.
    """

    def __init__(self, function: Callable[..., None], depth: int = 1) -> None:
        self._function = function
        self._calls: queue.Queue[tuple[Any, ...] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __call__(self, *arguments: Any) -> None:
        """Have the function called with these arguments, soon."""
        self._raise_error()
        self._calls.put(arguments)

    def join(self) -> None:
        """Wait until all calls are done."""
        self._calls.join()
        self._raise_error()

    def stop(self) -> None:
        """End the thread; calls that still wait are dropped."""
        self._error = self._error or RuntimeError("stopped")
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (arguments := self._calls.get()) is not None:
            try:
                if self._error is None:
                    self._function(*arguments)
            except BaseException as error:
                self._error = error
            finally:
                self._calls.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


@contextmanager
def background(function: Callable[..., None], depth: int = 1) -> Iterator[Background]:
    """Give a `Background` that is stopped when the block is left."""
    worker = Background(function, depth)
    try:
        yield worker
    finally:
        worker.stop()


T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], streams: int) -> Iterator[R]:
    """Yield `function(item)` for every item, in order, computed by `streams` threads.

    No more than `streams + 1` results are under way or waiting, so that memory stays bounded.
    The first error, in order, is raised; leaving early drops what has not begun.
    """
    if streams == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(streams, thread_name_prefix="stream")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > streams:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
