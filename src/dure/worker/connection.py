"""Connects the engine to its supervisor: messages, and the reports of a start.

Knows which message a report becomes. Refuses to know what the engine does.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from dure.deploy.reporter import EngineEvent
from dure.engine.ranks.channel import Channel
from dure.worker import protocol as msg

__all__ = ["SupervisorConnection"]


class SupervisorConnection:
    """Sends messages, and receives them in its own thread. Also the `Reporter` of the engine's start."""

    def __init__(self, connected: socket.socket) -> None:
        self._channel = Channel(connected)
        self._inbox: queue.SimpleQueue[msg.ToWorker] = queue.SimpleQueue()
        self._reported = -1.0  # fraction of the current stage

    def listen(self) -> None:
        """Start collecting the supervisor's messages; if its socket closes, that counts as Stop."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._inbox.put(self.receive())
        except (EOFError, OSError):
            self._inbox.put(msg.Stop())

    def receive(self) -> msg.ToWorker:
        """Return the next message."""
        message: msg.ToWorker = msg.decode(self._channel.receive(), msg.ToWorker)
        return message

    def send(self, message: msg.FromWorker) -> None:
        """Send one message."""
        self._channel.send(msg.encode(message))

    def inbox(self, timeout_s: float | None) -> Iterator[msg.ToWorker]:
        """Yield the messages that arrived; wait up to timeout_s for the first, not at all if None."""
        try:
            yield self._inbox.get(timeout=timeout_s) if timeout_s else self._inbox.get_nowait()
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    # ------------------------------------------------------------ a Reporter

    @contextmanager
    def cutting(self, name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Report the progress of cutting a model."""
        done = 0

        def more(n: int) -> None:
            nonlocal done
            done += n
            self._report(f"cutting {name}", done / max(1, total_bytes))

        yield more

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Report the progress of loading weights."""
        return self.doing(f"loading {what}")

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[float], None]]:
        """Report the progress of another long stage."""
        self._reported = -1.0
        yield lambda fraction: self._report(what, fraction)

    def event(self, event: EngineEvent) -> None:
        """Report an event of the engine's start."""
        self.send(msg.StartEvent(event))

    def news(self, text: str) -> None:
        """Report what happened to a machine."""
        self.send(msg.Warned(text, is_news=True))

    def warn(self, text: str) -> None:
        """Report a warning."""
        self.send(msg.Warned(text))

    def _report(self, what: str, fraction: float) -> None:
        if abs(fraction - self._reported) >= 0.01:
            self._reported = fraction
            self.send(msg.Loading(what, fraction))
