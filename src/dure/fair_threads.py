"""Runs calls in threads, in turns between their owners, so that nobody's calls hold up another's.

No thread can be ended from outside. So a call that takes too long is given up: it goes on at the lowest
priority, and others get its place. Refuses to know what is called.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar, TypeVarTuple, Unpack

__all__ = ["Call", "FairThreads"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

IDLE_S = 10.0  # after which a thread ends
LOWEST_PRIORITY = 19


class Call(Future[R], Generic[R]):
    """A call, and its result. began_at: of `time.perf_counter`; 0 until a thread has begun it."""

    def __init__(self, owner: str, do: Callable[[], R]) -> None:
        super().__init__()
        self.owner, self._do = owner, do
        self.began_at = 0.0
        self.is_given_up = False
        self.thread = 0  # as the system numbers it

    def run(self) -> None:
        """Call, unless it was cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        self.thread, self.began_at = threading.get_native_id(), time.perf_counter()
        try:
            result = self._do()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)


class FairThreads:
    """Threads for calls that may take long.

    most: calls of one owner at once. One more is kept for an owner of whom no call runs, so with one
    owner busy another's call begins at once. most_given_up: how many of those that were given up leave
    their place to others; any more keep it until they end.
    """

    def __init__(self, most: int, name: str, most_given_up: int = 0) -> None:
        self._most, self._name, self._most_given_up = most, name, most_given_up
        self._changed = threading.Condition()  # guards all below
        self._waiting: dict[str, deque[Call[object]]] = {}  # by owner: the next one first
        self._running: set[Call[object]] = set()
        self._ready = deque[Call[object]]()  # of those that run: no thread has taken them yet
        self._n_idle = 0

    @property
    def is_stuck(self) -> bool:
        """Tell whether calls wait, and only for such as were given up."""
        with self._changed:
            return bool(self._waiting) and all(call.is_given_up for call in self._running)

    def submit(self, owner: str, function: Callable[[Unpack[Ts]], R], *arguments: *Ts) -> Call[R]:
        """Have a thread call a function. Cancelling the result takes a call that waits out of the queue."""
        call = Call(owner, lambda: function(*arguments))
        call.add_done_callback(self._leave)
        with self._changed:
            self._waiting.setdefault(owner, deque()).append(call)  # type: ignore[arg-type]
            self._start()
        return call

    def give_up(self, call: Call[R]) -> None:
        """Give the place of a call that has begun to others, and its thread the lowest priority."""
        with self._changed:
            if call not in self._running or not call.thread:
                return
            call.is_given_up = True
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, call.thread, LOWEST_PRIORITY)
            self._start()

    def close(self) -> None:
        """Cancel what waits, and wait for what runs."""
        with self._changed:
            waiting = [call for calls in self._waiting.values() for call in calls]
            running = list(self._running)
        for call in waiting:
            call.cancel()
        wait(running)

    def _leave(self, call: Future[R]) -> None:
        if not (isinstance(call, Call) and call.cancelled()):
            return
        with self._changed:
            calls = self._waiting.get(call.owner)
            if calls is None or call not in calls:
                return  # a thread has it, and will see
            calls.remove(call)
            if not calls:
                del self._waiting[call.owner]
        call.set_running_or_notify_cancel()

    # ------------------------------------------------------------ with the lock held

    def _start(self) -> None:
        """Hand the calls whose turn it is to threads."""
        while (call := self._next()) is not None:
            self._running.add(call)
            self._ready.append(call)
            if self._n_idle:
                self._n_idle -= 1
                self._changed.notify()
            else:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _next(self) -> Call[object] | None:
        """Take a call out of the queue: of the owner with the fewest, then of whom it is the turn."""
        n_given_up = sum(call.is_given_up for call in self._running)
        n_taken = len(self._running) - min(n_given_up, self._most_given_up)
        n_of = Counter(call.owner for call in self._running)
        may = [owner for owner in self._waiting if n_taken < self._most + (n_of[owner] == 0)]
        if not may:
            return None
        owner = min(may, key=lambda owner: n_of[owner])
        calls = self._waiting.pop(owner)
        call = calls.popleft()
        if calls:
            self._waiting[owner] = calls  # last
        return call

    # ------------------------------------------------------------ in a thread

    def _work(self) -> None:
        while (call := self._taken()) is not None:
            call.run()
            with self._changed:
                self._running.discard(call)
                if not call.is_given_up:  # else the thread ends: it cannot get its priority back
                    self._n_idle += 1
                self._start()
            if call.is_given_up:
                return
            del call  # and what it holds, while none comes

    def _taken(self) -> Call[object] | None:
        """Return the next call, None if none comes."""
        with self._changed:
            if not self._ready:
                self._changed.wait(IDLE_S)
            if self._ready:
                return self._ready.popleft()
            self._n_idle -= 1
            return None
