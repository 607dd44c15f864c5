"""Reads what is noted of work, by whatever process: what runs, and how it ended for a minute more.

A note of a process that is gone is not believed: the work has ended with it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from dure.places import work_directory
from dure.processes import Moment, identity_of
from dure.whole_file import write_whole
from dure.work_notes.note import WorkNote, is_shown

__all__ = ["interrupt", "noted_work"]

_STALE_S = 30.0  # without a word, a rate is not true any more
_LEFTOVER_S = 3600.0  # a file that was never finished is not written any more


def noted_work(directory: Path | None = None) -> list[WorkNote]:
    """Return the work of this user on this machine, the newest first, and remove notes that are old."""
    place, now = directory or work_directory(), Moment.now()
    found = [note for path in place.glob("*.json") if (note := _current(path, now)) is not None]
    for path in place.glob("*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                path.unlink()
    return sorted(found, key=lambda note: note.begun.since_boot_s, reverse=True)


def interrupt(note: WorkNote) -> bool:
    """Send the signal that ends the work as Ctrl-C does; return whether its process was there to get it."""
    if not note.stop_signal:
        return False
    try:
        process = os.pidfd_open(note.pid)
    except ProcessLookupError:
        return False
    try:
        if identity_of(note.pid) != note.process:
            return False
        signal.pidfd_send_signal(process, note.stop_signal)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(process)
    return True


def _current(path: Path, now: Moment) -> WorkNote | None:
    """Return what a file says as it is now; remove it if that is old."""
    note = _read(path)
    if note is not None and note.state == "running":
        if identity_of(note.pid) == note.process:
            return _fresh(note, now)
        note = _read(path)  # its last word, which may have come since
        if note is not None and note.state == "running":
            note = _ended(path, note, now)
    if note is not None and is_shown(note):
        return note
    with suppress(OSError):
        path.unlink()
    return None


def _fresh(note: WorkNote, now: Moment) -> WorkNote:
    is_stale = note.at.after(_STALE_S).has_come(now)
    return msgspec.structs.replace(note, per_s=None) if is_stale else note


def _ended(path: Path, note: WorkNote, now: Moment) -> WorkNote | None:
    """Note that a process is gone without a word; None if the machine has started anew since."""
    if note.at.boot != now.boot:
        return None
    error = "its process ended without a word: it was killed, perhaps for memory"
    note = msgspec.structs.replace(note, state="failed", error=error, per_s=None, words="", at=now)
    with suppress(OSError):
        write_whole(path, msgspec.json.encode(note), private=True)
    return note


def _read(path: Path) -> WorkNote | None:
    """Return a note; None if there is none, or somebody else wrote it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            return msgspec.json.decode(file.read(), type=WorkNote)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
