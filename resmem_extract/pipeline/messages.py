"""Python objects through a socket between two processes; arrays travel as their own bytes.

Arrays go from their memory into the socket and out of it into new memory, with no copy between
and none of them in shared memory, which is 64 MB in many containers. `Connection` of
multiprocessing would copy what it receives twice.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

import numpy as np

__all__ = ["receive", "send"]

_COUNT = struct.Struct("!I")
_AT_ONCE = 1 << 26  # bytes; some systems refuse 2 GiB and more in one call


def send(stream: socket.socket, message: Any) -> None:
    """Send a message; the other side's `receive` returns it.

    Parameters
    ----------
    stream : socket.socket
    message : object
        Whatever can be pickled. Contiguous arrays in it are not copied.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = struct.pack(f"!{len(parts)}Q", *(part.nbytes for part in parts))
    stream.sendall(_COUNT.pack(len(parts)) + sizes)
    for part in parts:
        for start in range(0, part.nbytes, _AT_ONCE):
            stream.sendall(part[start : start + _AT_ONCE])


def receive(stream: socket.socket) -> Any:
    """Return the next message; arrays in it are writable.

    Raises
    ------
    EOFError
        If the other side has closed the stream.
    OSError
        If the stream broke in another way.
    """
    (count,) = _COUNT.unpack(_read(stream, _COUNT.size))
    sizes = struct.unpack(f"!{count}Q", _read(stream, 8 * count))
    head, *buffers = [_read(stream, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def _read(stream: socket.socket, size: int) -> memoryview:
    """Return exactly `size` bytes."""
    view = np.empty(size, np.uint8).data  # unlike a bytearray it is not filled first
    done = 0
    while done < size:
        n = stream.recv_into(view[done : done + _AT_ONCE], 0, socket.MSG_WAITALL)
        if n == 0:
            raise EOFError("the other side has closed the stream")
        done += n
    return view
