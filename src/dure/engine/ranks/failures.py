"""Why the ranks of a job ended: one error for a user, from what they left in the job's directory.

Knows the notes that ranks and their guards write. Refuses to know processes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec

from dure.errors import DureError, EngineError, ErrorRecord, revived

__all__ = ["failure_of"]

_KILLED = 128 + signal.SIGKILL
_NO_ROOM = 128 + signal.SIGBUS
_REPORT = "start again, and please report it if it returns"


def failure_of(directory: Path, when: str) -> DureError:
    """Return the error that a rank wrote, or else one about the rank that died first.

    when: in the job's life, as "while loading".
    """
    errors = _oldest_first(directory.glob("rank*.error"))  # those after it are its consequences
    if not errors:
        return _death(directory, when)
    record = msgspec.json.decode(errors[0].read_bytes(), type=ErrorRecord)
    rank = errors[0].stem.removeprefix("rank")
    return revived(replace(record, problem=f"rank {rank}: {record.problem}"))


def _death(directory: Path, when: str) -> EngineError:
    """Explain a death from its guard's note, or else from mpiexec's last line."""
    notes = _oldest_first(directory.glob("rank*.exit"))
    if not notes:
        log = (directory / "log").read_text(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(log) if line.strip()), "")
        return EngineError(f"mpiexec ended {when} ({last[:200] or 'no reason given'})", _REPORT)
    rank, code = notes[0].stem.removeprefix("rank"), int(notes[0].read_text() or 0)
    if code == _KILLED:
        return EngineError(
            f"rank {rank} was killed {when} (signal 9)",
            "if nobody did, its machine ran out of memory; use a smaller --ctx or more ranks",
        )
    if code == _NO_ROOM:
        return EngineError(
            f"rank {rank} died {when} (signal 7)",
            "if /dev/shm is full, make room there; else the file of the model's shard may be damaged",
        )
    cause = f"signal {code - 128}" if code > 128 else f"exit code {code}"
    return EngineError(f"rank {rank} died {when} ({cause}{_last_words(notes[0])})", _REPORT)


def _oldest_first(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)


def _last_words(note: Path) -> str:
    """Return the last line that a rank wrote before it died, as of a Python that could not start."""
    words = note.with_name(f"{note.name}.words")
    lines = [line.strip() for line in words.read_text(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return f", {last[:200]}" if last else ""
