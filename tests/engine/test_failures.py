"""The reason that is told for a job's end: the cause, not what followed from it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec

from dure.engine.ranks.failures import failure_of
from dure.errors import EngineError, ResourceError


def test_of_several_ranks_errors_the_first_in_time_is_told(tmp_path: Path) -> None:
    """Rank 10 waits in vain for rank 2, which had no memory."""
    cause = ResourceError("there is too little memory", "use a smaller --ctx")
    consequence = EngineError("rank 2 did not answer within 30 s")
    for at, (name, error) in enumerate([("rank2", cause), ("rank10", consequence)]):
        note = tmp_path / f"{name}.error"
        note.write_bytes(msgspec.json.encode(error.record()))
        os.utime(note, (at, at))
    failure = failure_of(tmp_path, "while loading")
    assert isinstance(failure, ResourceError)
    assert str(failure) == "rank 2: there is too little memory: use a smaller --ctx"


def test_a_rank_that_lost_a_page_of_its_memory_says_where_to_look(tmp_path: Path) -> None:
    """A bus error mostly means that something else has filled /dev/shm in the meantime."""
    (tmp_path / "rank1.exit").write_text(str(128 + signal.SIGBUS))
    failure = failure_of(tmp_path, "while starting")
    assert "rank 1 died while starting (signal 7)" in failure.problem
    assert "if /dev/shm is full, make room there" in failure.cure
