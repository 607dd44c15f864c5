"""Notes work while it is done: a small file, replaced as a whole, readable by its owner alone.

Work never fails because it cannot be noted.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dure.errors import DureError
from dure.places import work_directory
from dure.processes import Moment, identity_of
from dure.whole_file import write_whole
from dure.work_notes.loss_curve import LossCurve
from dure.work_notes.note import Unit, WorkKind, WorkNote, WorkPhase, WorkState
from dure.work_notes.reading import noted_work

__all__ = ["WorkWriter", "noting"]

EVERY_S = 0.5  # a note is not replaced sooner, but for a new phase
_MARKS = 12  # at least that many notes ago, the rate begins


class _Pace:
    """How fast something goes: the mean since some marks ago."""

    def __init__(self, done: float) -> None:
        self._marks = deque([(time.monotonic(), done)], _MARKS)

    def mark(self, now: float, done: float) -> None:
        self._marks.append((now, done))

    def per_s(self, now: float, done: float) -> float | None:
        at, before = self._marks[0]
        return (done - before) / (now - at) if now > at and done > before else None


class WorkWriter:
    """Notes one piece of work, from its beginning to its end. Used from several threads.

    stop_signal: as WorkNote has it. keeps_done: that it was done is shown for a while.
    """

    def __init__(
        self, kind: WorkKind, name: str, *, stop_signal: int = 0, keeps_done: bool = True
    ) -> None:
        pid, now = os.getpid(), Moment.now()
        self._note = WorkNote(
            id=f"{pid}-{secrets.token_hex(4)}",
            pid=pid,
            process=identity_of(pid),
            kind=kind,
            name=name,
            begun=now,
            at=now,
            stop_signal=stop_signal,
        )
        self._keeps_done = keeps_done
        self._pace, self._written_at = _Pace(0.0), 0.0
        self._lock = threading.Lock()
        noted_work()  # removes what ended long ago
        self._write()

    @property
    def note(self) -> WorkNote:
        """The work as it is now."""
        return self._note

    def begin(
        self, phase: WorkPhase, total: float | None = None, unit: Unit = "part", done: float = 0.0
    ) -> None:
        """Begin a phase, of which some is done already; total: None if it is not known."""
        with self._lock:
            self._pace = _Pace(done)
            self._replace(phase=phase, unit=unit, total=total or None, done=done)
            self._replace(per_s=None, words="")
            self._write()

    def reach(self, done: float) -> None:
        """Note how much of the phase is done."""
        with self._lock:
            now = time.monotonic()
            is_due = now - self._written_at >= EVERY_S
            self._replace(done=done, per_s=self._pace.per_s(now, done), words="")
            if is_due:
                self._pace.mark(now, done)
                self._write()

    def draw(self, losses: LossCurve) -> None:
        """Note the losses so far, together with what is noted next."""
        with self._lock:
            self._replace(losses=losses)

    def tell(self, words: str) -> None:
        """Note what a person should know, until the work goes on."""
        with self._lock:
            self._replace(words=words, per_s=None)
            self._write()

    def end(self, state: WorkState, error: str = "", cure: str = "") -> None:
        """Note how the work ended. A process that was forked from the one that works ends nothing."""
        if os.getpid() != self._note.pid:
            return
        with self._lock:
            self._replace(state=state, error=error, cure=cure, per_s=None, words="")
            if state == "done" and not self._keeps_done:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
            else:
                self._write()

    @property
    def _path(self) -> Path:
        return work_directory() / f"{self._note.id}.json"

    def _replace(self, **changes: object) -> None:
        self._note = msgspec.structs.replace(self._note, **changes)

    def _write(self) -> None:
        self._written_at = time.monotonic()
        self._replace(at=Moment.now())
        with suppress(OSError):
            write_whole(self._path, msgspec.json.encode(self._note), private=True)


@contextmanager
def noting(kind: WorkKind, name: str, *, keeps_done: bool = True) -> Iterator[WorkWriter]:
    """Note the block as work of this process, and how it ends.

    A load ends with what runs the model: nobody else is to stop that.
    """
    writer = WorkWriter(
        kind, name, stop_signal=0 if kind == "load" else _stop_signal(), keeps_done=keeps_done
    )
    try:
        yield writer
    except DureError as error:
        writer.end("failed", error.problem, error.cure)
        raise
    except Exception as error:
        writer.end("failed", _words(error))
        raise
    except BaseException:
        writer.end("stopped")
        raise
    writer.end("done")


def _stop_signal() -> int:
    """Return Ctrl-C's signal; SIGTERM if it is ignored, as shells start what runs in the background."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return signal.SIGTERM if ignored else signal.SIGINT


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"
