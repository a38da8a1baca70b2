"""Calls in another thread: order, bounds, errors."""

from __future__ import annotations

import threading
import time

import pytest

from resmem_extract.pipeline.background import Background, background


def test_calls_are_made_in_order_in_another_thread():
    seen: list[tuple[int, int]] = []
    with background(lambda i: seen.append((i, threading.get_ident()))) as call:
        for i in range(50):
            call(i)
        call.join()
        assert [i for i, _ in seen] == list(range(50))
    assert {ident for _, ident in seen}.isdisjoint({threading.get_ident()})


def test_the_caller_waits_once_enough_calls_do():
    gate, started = threading.Event(), []

    def slow(i: int) -> None:
        started.append(i)
        gate.wait(10)

    with background(slow, depth=2) as call:
        caller = threading.Thread(target=lambda: [call(i) for i in range(5)])
        caller.start()
        time.sleep(0.2)
        assert caller.is_alive()  # one runs, two wait, the fourth blocks
        assert started == [0]
        gate.set()
        caller.join(10)
        call.join()
    assert started == [0, 1, 2, 3, 4]


def test_an_error_reaches_the_caller_and_later_calls_are_not_made():
    seen: list[int] = []

    def fail(i: int) -> None:
        seen.append(i)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), background(fail) as call:
        call(0)
        call.join()
    worker = Background(fail)
    worker(1)
    with pytest.raises(OSError, match="disk full"):
        while True:
            worker(2)
    worker.stop()
    assert seen == [0, 1]


def test_leaving_by_an_error_ends_the_thread():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), background(lambda _: time.sleep(0.01)) as call:
        for i in range(3):
            call(i)
        raise KeyboardInterrupt
    assert threading.active_count() == before
