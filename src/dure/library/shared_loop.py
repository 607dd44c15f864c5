"""Runs the requests of a program's threads in one engine's loop.

Knows who waits, and that Ctrl-C must not come between a step and its bookkeeping.
Refuses to know what requests ask for.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from dure.errors import DureError, EngineError, UsageError
from dure.generate.loop import EngineLoop
from dure.generate.request import Event, Request
from dure.library.wording import in_python

__all__ = ["SharedLoop"]

T = TypeVar("T")


class SharedLoop:
    """An engine's loop for every thread of this process.

    Whoever waits for an event computes the next step, for all requests. After an EngineError, or a second
    Ctrl-C within a step, it is of no more use: every call raises the error.
    """

    def __init__(self, loop: EngineLoop) -> None:
        self._loop, self._lock = loop, threading.Lock()
        self._events: dict[str, deque[Event]] = {}
        self._to_cancel: deque[str] = deque()
        self._error: DureError | None = None

    def submit(self, request: Request) -> None:
        """Begin a request."""
        with self._lock:
            self._check()
            self._events[request.id] = deque()
            self._loop.submit(request)

    def next(self, request_id: str) -> Event:
        """Return the next event of a request, which must not have ended; compute what it takes."""
        with self._lock:
            while not self._events[request_id]:
                self._step()
            return self._events[request_id].popleft()

    def cancel(self, request_id: str) -> None:
        """End a request early; its events go on until its Done. Does not wait: a finalizer may call it."""
        self._to_cancel.append(request_id)

    def forget(self, request_id: str) -> None:
        """End a request, and drop its events. Does not wait either."""
        if self._events.pop(request_id, None) is not None:
            self.cancel(request_id)

    def between_steps(self, do: Callable[[], T]) -> T:
        """Do something with what the loop runs on, while it computes no step."""
        with self._lock:
            self._check()
            return do()

    def close(self, free: Callable[[], None]) -> None:
        """Refuse what comes from now on, and free what the loop runs on."""
        with self._lock:
            self._error = UsageError("the model is closed", "open it again")
            free()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _step(self) -> None:
        self._check()
        with _one_interrupt_later():
            try:
                while self._to_cancel:
                    self._loop.cancel(self._to_cancel.popleft())
                events = self._loop.step()
            except DureError as error:
                self._error = in_python(error)
                raise
            except BaseException:
                self._error = EngineError("a step was interrupted", "open the model again")
                raise
            for event in events:
                if (waiting := self._events.get(event.id)) is not None:
                    waiting.append(event)


@contextmanager
def _one_interrupt_later() -> Iterator[None]:
    """Put the first Ctrl-C off until the block has ended; a second one comes at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # another thread gets no signals; and what is no Python function cannot be called later
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            before(number, frame)
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)
