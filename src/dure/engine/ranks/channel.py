"""Messages over a local socket, a thousand times a second, between processes whose caches are cold.

Knows where a message begins and ends. Refuses to know what it says.
A message is read in one call (`multiprocessing.Connection` makes two), and awaited without making a new
selector, which costs more than the message itself.
"""

from __future__ import annotations

import select
import socket
import struct

__all__ = ["LENGTH", "Channel"]

LENGTH = struct.Struct("<Q")  # of the message that follows, in bytes
_AT_ONCE = 1 << 16  # bytes that are read; messages are mostly far smaller


class Channel:
    """One end of a connected stream socket, which belongs to it from now on.

    One thread may send while another receives.


    Raises OSError if the other end is gone; `receive` raises EOFError if it has closed.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(True)
        self._socket, self._rest = connected, b""  # what came after the last message
        self._poll = select.poll()
        self._poll.register(connected.fileno(), select.POLLIN)

    def send(self, message: bytes) -> None:
        """Send a message whole."""
        self._socket.sendall(LENGTH.pack(len(message)) + message)

    def wait(self, seconds: float) -> bool:
        """Wait for a message, or for the other end to close; False if neither came in time."""
        return bool(self._rest) or bool(self._poll.poll(1e3 * seconds))

    def receive(self) -> bytes:
        """Return the next message. Waits for the rest of one that has begun."""
        data = self._with_at_least(LENGTH.size, self._rest)
        stop = LENGTH.size + int(LENGTH.unpack_from(data)[0])
        data = self._with_at_least(stop, data)
        self._rest = data[stop:]
        return data[LENGTH.size : stop]

    def _with_at_least(self, n: int, data: bytes) -> bytes:
        if len(data) >= n:
            return data
        parts, have = [data], len(data)
        while have < n:
            part = self._socket.recv(max(_AT_ONCE, n - have))
            if not part:
                raise EOFError("the other end has closed the channel")
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close this end; the other end notices."""
        self._socket.close()
