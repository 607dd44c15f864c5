"""Waiting for messages on a connection, a thousand times a second.

`Connection.poll` makes a selector every time, which costs more than the message itself; this one is made
once.
"""

from __future__ import annotations

import select
from multiprocessing.connection import Connection

__all__ = ["Incoming"]


class Incoming:
    """What comes over a connection that stays open."""

    def __init__(self, connection: Connection) -> None:
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Whether a message, or the other end's end, is there within so many seconds."""
        return bool(self._poll.poll(1e3 * seconds))
