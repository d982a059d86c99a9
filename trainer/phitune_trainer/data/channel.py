"""Objects between two processes over a socket, their tensors as raw bytes.

Shared memory would save one copy, but a pod's /dev/shm is 64 MB unless somebody asked for more, and a process
that fills it is killed without a word. A page of 4 MB takes two milliseconds this way.
"""

import io
import pickle
import socket
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SIZE = struct.Struct("!Q")


class Channel:
    """One end. Only for processes that trust each other: what arrives is unpickled."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """The socket's file descriptor, so that a selector can wait for it."""
        return self._socket.fileno()

    def send(self, value: Any) -> None:
        """Send an object; waits until the other end has taken most of it. OSError if that is gone."""
        buffers: list[pickle.PickleBuffer] = []
        content = io.BytesIO()
        _Pickler(content, protocol=5, buffer_callback=buffers.append).dump(value)
        parts = [content.getbuffer(), *(buffer.raw() for buffer in buffers)]
        self._socket.sendall(b"".join(_SIZE.pack(n) for n in (len(parts), *(part.nbytes for part in parts))))
        for part in parts:
            self._socket.sendall(part)

    def receive(self) -> Any:
        """Wait for an object. EOFError or OSError if the other end is gone."""
        count = self._size()
        sizes = [self._size() for _ in range(count)]
        content, *buffers = [self._take(size) for size in sizes]
        return pickle.loads(content, buffers=buffers)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _size(self) -> int:
        return int(_SIZE.unpack(self._take(_SIZE.size))[0])

    def _take(self, size: int) -> memoryview:
        taken = np.empty(size, dtype=np.uint8).data  # unlike a bytearray, not filled with zeros first
        rest = taken
        while rest:
            num_bytes = self._socket.recv_into(rest)
            if num_bytes == 0:
                raise EOFError("the other end is closed")
            rest = rest[num_bytes:]
        return taken


def channel_pair() -> tuple[Channel, Channel]:
    """The two ends of a new channel."""
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


class _Pickler(pickle.Pickler):
    """Tensors as numpy arrays, whose bytes need no copy; torch's own way writes a file for each one."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented
