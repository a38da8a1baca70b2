"""Several devices of one machine, one process each.

This process decodes, cuts batches and writes; the devices' processes turn pixels into activations.
For the pipeline they are a function that several threads may call, `DeviceProcesses.runs`.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy.typing as npt

from ..errors import RequestError, WorkError
from .device_process import DeviceWork, Failure, NamedModel, Ready, pack, serve
from .messages import receive, send

__all__ = ["DeviceProcesses", "DeviceWork", "NamedModel", "device_processes"]

log = logging.getLogger(__name__)

LANES = 2
"""Batches at a device at the same time: one travels while another is computed."""
_PATIENCE = 3.0  # seconds for a process to end


@dataclass(frozen=True)
class DeviceProcesses:
    """Processes that are ready for batches. Made by `device_processes`."""

    runs: tuple[Callable[[npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]], ...]
    """For each network, from stacked pixels to activations by canonical path.

    To be called by `streams` threads at the same time; each call takes whichever device is free.
    """
    streams: int
    """How many calls keep all devices busy."""
    engines: tuple[str, ...]
    """For each network, how it is run: `compiled`, `graph`, `hooks` or `reference`."""
    notes: tuple[str, ...]
    """What the user should be told, one line each."""


@contextmanager
def device_processes(
    works: Sequence[DeviceWork], devices: Sequence[str], threads: int
) -> Iterator[DeviceProcesses]:
    """Start one process for each device, and end them all when the block is left.

    Parameters
    ----------
    works : sequence of DeviceWork
        One for each network; every device runs them all.
    devices : sequence of str
        From `split_devices`.
    threads : int
        For each process: the cores of the machine, shared among the devices.

    Raises
    ------
    RequestError
        If a network cannot be sent to another process, or what is asked for is wrong.
    WorkError
        If a process dies, here or in a later call; names the device and how it ended.
    """
    try:
        parcel = pack(works)
    except Exception as error:  # pickling calls whatever a network's classes define
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"the network cannot be sent to other processes ({reason}); use one device"
        ) from error
    started: list[_Process] = []
    try:
        for device in devices:
            started.append(_start(device, threads))
        for process in started:
            process.tell(parcel)
        del parcel
        ready = [process.hear() for process in started]
        notes = _check_alike(devices, ready)
        compiled = [
            work.compile_for is not None and all(one[i].not_compiled is None for one in ready)
            for i, work in enumerate(works)
        ]
        for process in started:
            process.tell(compiled)
        free: queue.SimpleQueue[tuple[_Process, int]] = queue.SimpleQueue()
        for lane in range(LANES):
            for process in started:
                free.put((process, lane))
        yield DeviceProcesses(
            runs=tuple(partial(_run, free, i) for i in range(len(works))),
            streams=LANES * len(started),
            engines=tuple(
                "compiled" if compiled[i] else one.engine for i, one in enumerate(ready[0])
            ),
            notes=tuple(notes),
        )
    finally:
        _end(started)


@dataclass(frozen=True)
class _Process:
    """The process of one device, as seen from here."""

    device: str
    process: BaseProcess
    lanes: tuple[socket.socket, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, message: Any, lane: int = 0) -> None:
        """Send a message."""
        try:
            send(self.lanes[lane], message)
        except OSError as error:
            raise WorkError(self._how_it_ended()) from error

    def hear(self, lane: int = 0) -> Any:
        """Return the answer; an error over there is raised here."""
        try:
            # What the process has started itself may hold the stream open when it is gone.
            while not wait([self.lanes[lane]], timeout=1.0):
                if not self.process.is_alive() and not wait([self.lanes[lane]], timeout=0):
                    raise EOFError
            message = receive(self.lanes[lane])
        except (EOFError, OSError) as error:
            raise WorkError(self._how_it_ended()) from error
        if isinstance(message, Failure):
            log.info("in the process of %s: %s", self.device, message.traceback)
            raise message.error()
        return message

    def _how_it_ended(self) -> str:
        with self.lock:  # of several threads that wait for a process, one is told how it ended
            self.process.join(_PATIENCE)
            code = self.process.exitcode
        if code is None:
            return f"the process of {self.device} no longer answers"
        if code >= 0:
            return f"the process of {self.device} ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return f"the process of {self.device} was ended by {name} (exit code {code}){hint}"


def _run(
    free: queue.SimpleQueue[tuple[_Process, int]], network: int, pixels: npt.NDArray[Any]
) -> Mapping[str, npt.NDArray[Any]]:
    """Send a batch to whichever device is free, and return its answer."""
    process, lane = free.get()
    try:
        process.tell((network, pixels), lane)
        activations: Mapping[str, npt.NDArray[Any]] = process.hear(lane)
        return activations
    finally:
        free.put((process, lane))  # that of a dead process too: who takes it next must not wait


def _start(device: str, threads: int) -> _Process:
    ours, theirs = zip(*(socket.socketpair() for _ in range(LANES)), strict=True)
    # Not a daemon: those must not have children, which some versions of torch compile with.
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(device, threads, theirs), name=f"device {device}", daemon=False
    )
    try:
        with _sigint_blocked():
            process.start()
    except BaseException:
        for stream in ours:
            stream.close()
        raise
    finally:
        for stream in theirs:
            stream.close()
    return _Process(device, process, ours)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it unblocks the signal when it has to be started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_alike(devices: Sequence[str], ready: Sequence[Sequence[Ready]]) -> list[str]:
    """Refuse devices on which a network runs in different ways; return what the user should know.

    Raises
    ------
    WorkError
    """
    notes: dict[str, None] = {}
    for device, networks in zip(devices, ready, strict=True):
        for one, first in zip(networks, ready[0], strict=True):
            if (one.captured, one.engine, one.channels_last) != (
                first.captured,
                first.engine,
                first.channels_last,
            ):
                raise WorkError(
                    f"{devices[0]} would run the network by engine {first.engine}, {device} "
                    f"otherwise, by {one.engine}; give one --engine, or use one device"
                )
            if one.hardware != first.hardware:
                notes[
                    f"{devices[0]} is {first.hardware}, {device} is {one.hardware}: the last bits "
                    "of an activation depend on which of them a batch went to"
                ] = None
            if one.not_compiled is not None:
                notes[f"not compiled: {device}: {one.not_compiled}"] = None
    return list(notes)


def _end(started: Sequence[_Process]) -> None:
    """End the processes at once: they have nothing to save, and torch takes a second to unload."""
    for process in started:
        for stream in process.lanes:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)  # wakes whoever still waits on it
            stream.close()
        process.process.terminate()
    for process in started:
        process.process.join(_PATIENCE)
        if process.process.is_alive():
            process.process.kill()
            process.process.join()
