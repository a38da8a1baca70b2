"""Have the disk begin early, so that little is left to wait for at the end."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["EarlySync"]

_EVERY = 2**28  # bytes between two rounds


class EarlySync:
    """Syncs a file in a thread of its own, again and again while it is written to.

    Also keeps the memory small that the system holds for what is not on the disk yet.

    Parameters
    ----------
    descriptor : int
        Of the open file; it stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._round: Future[None] | None = None
        self._waiting = 0

    def wrote(self, nbytes: int) -> None:
        """Take note of bytes written, and begin a round if there are many and none is going on.

        Raises
        ------
        OSError
            If the last round failed: what was written may not be on the disk.
        """
        self._waiting += nbytes
        if self._waiting < _EVERY or not self._is_idle():
            return
        self._waiting = 0
        self._round = self._pool.submit(getattr(os, "fdatasync", os.fsync), self._descriptor)

    def _is_idle(self) -> bool:
        if self._round is None:
            return True
        if not self._round.done():
            return False
        self._round.result()
        return True

    def finish(self) -> None:
        """Wait for the round that is going on.

        Raises
        ------
        OSError
            If it failed.
        """
        self.stop()
        if self._round is not None:
            self._round.result()

    def stop(self) -> None:
        """Wait, whatever comes of it, so that the descriptor may be closed."""
        self._pool.shutdown(wait=True)
