"""Work on models that the page begins and shows: what is pulled, how far it is, how long it takes still.

Knows threads and progress. Refuses to know where models come from: `store.pull` does.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from dure.errors import BusyError, DureError
from dure.model.store import Library, parse_name
from dure.model.store.watching import Watcher

__all__ = ["Works"]

log = logging.getLogger(__name__)

WorkState = Literal["running", "done", "failed", "stopped"]
_KEPT = 20
_MOST_RUNNING = 2
_RATE_S = 3.0  # over which a rate is the mean


class _StoppedError(Exception):
    """Ends a pull within its thread."""


class _Work(Watcher):
    """One model that is being pulled. Called from its own thread, read from the server's."""

    def __init__(self, number: int, name: str) -> None:
        self.id, self.name = str(number), name
        self.state: WorkState = "running"
        self.error, self.cure = "", ""
        self.is_to_stop = False
        self._note = ""
        self._done, self._total = 0, 0
        self._marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:  # noqa: ARG002 (a Watcher)
        self._done, self._total = done_bytes, size_bytes or 0
        self._marks = [(time.monotonic(), done_bytes)]

    def advance(self, n_bytes: int) -> None:
        self._end_if_asked()
        self._note = ""  # whatever it was, it goes on
        self._done += n_bytes
        now = time.monotonic()
        if now - self._marks[-1][0] > _RATE_S / 10:
            self._marks = [*self._marks[-10:], (now, self._done)]

    def note(self, text: str) -> None:
        self._end_if_asked()  # while the network is gone, no byte comes that would
        self._note = text

    def _end_if_asked(self) -> None:
        if self.is_to_stop:
            raise _StoppedError

    def shown(self) -> dict[str, Any]:
        """Return it as the page reads it."""
        per_s = self._per_s() if self.state == "running" else None
        left = self._total - self._done
        return {
            "id": self.id,
            "kind": "pull",
            "name": self.name,
            "done_bytes": self._done,
            "total_bytes": self._total or None,
            "fraction": self._done / self._total if self._total else None,
            "per_s": per_s,
            "rest_s": left / per_s if per_s and self._total else None,
            "state": self.state,
            "note": self._note if self.state == "running" else "",
            "error": self.error,
            "cure": self.cure,
            "can_stop": self.state == "running" and not self.is_to_stop,
        }

    def _per_s(self) -> float | None:
        (begun, done), now = self._marks[0], time.monotonic()
        return (self._done - done) / (now - begun) if now > begun and self._done > done else None


class Works:
    """What the page has begun. said: gets a sentence when something ends, and whether it failed."""

    def __init__(self, said: Callable[[str, bool], None] = lambda _text, _failed: None) -> None:
        self._works: dict[str, _Work] = {}
        self._numbers = itertools.count(1)
        self._said = said

    def pull(self, name: str) -> dict[str, Any]:
        """Begin to pull a model, and return its work. Raises UsageError for what is no name, BusyError."""
        parsed = parse_name(name)
        running = [one for one in self._works.values() if one.state == "running"]
        if (same := next((one for one in running if one.name == name), None)) is not None:
            return same.shown()
        if len(running) >= _MOST_RUNNING:
            raise BusyError(f"{len(running)} models are being pulled", "wait, or stop one of them")
        work = _Work(next(self._numbers), name)
        self._works[work.id] = work
        ended = [one for one in self._works.values() if one.state != "running"]
        for one in ended[: max(0, len(self._works) - _KEPT)]:
            del self._works[one.id]

        def pulled() -> None:
            from dure.model.store.pull import pull

            try:
                pull(parsed, Library(), work)
                work.state = "done"
            except _StoppedError:
                work.state = "stopped"
            except DureError as error:
                work.error, work.cure, work.state = error.problem, error.cure, "failed"
            except Exception as error:
                log.exception("a bug of ours: pulling %s failed", name)
                work.error, work.state = f"{type(error).__name__}: {error}", "failed"
            self._said(_sentence(work), work.state == "failed")

        threading.Thread(target=pulled, name=f"pull {name}", daemon=True).start()
        return work.shown()

    def stop(self, work_id: str) -> bool:
        """Stop a work soon; return False if there is none."""
        work = self._works.get(work_id)
        if work is not None:
            work.is_to_stop = True
        return work is not None

    def shown(self) -> list[dict[str, Any]]:
        """Return all as the page reads them, the newest first."""
        return [work.shown() for work in reversed(self._works.values())]


def _sentence(work: _Work) -> str:
    why = f": {work.error}" if work.error else ""
    return f"pulling {work.name}: {work.state}{why}"
