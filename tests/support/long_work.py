"""A cut that takes as long as a test wants: a real `dure cut` of a large model, halted in the middle."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dure.work_notes import WorkNote, noted_work
from dure.work_notes.writing import EVERY_S
from tests.support.dure_process import Dure
from tests.support.dure_server import end
from tests.support.random_models import SHAPES, write_large_model

__all__ = ["halted_cut", "notes_of", "write_400_mb"]

WAIT_S = 60.0  # detects a hang; nothing is measured with it
_SHAPE = replace(
    SHAPES["qwen3"], n_layer=4, n_embd=2048, n_head=16, n_head_kv=8, head_dim=128, n_ff=6144
)


def write_400_mb(path: Path) -> Path:
    """Write a model of 400 MB that takes no room on the disk."""
    write_large_model(path, _SHAPE, "F16")
    return path


def notes_of(dure: Dure) -> list[WorkNote]:
    """Return what is noted of the work of these commands."""
    return noted_work(Path(dure.environment["DURE_WORK"]))


@contextmanager
def halted_cut(dure: Dure, model: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start to cut a model, and halt the process when it has noted that it is within; kill it then.

    It is halted before, too: then its next note is due however quick the machine is.
    """
    process = dure.start("cut", model, "--ranks", 2, "--out", out, stdout=subprocess.DEVNULL)
    try:
        _halt(dure, process, lambda note: bool(note.total))
        time.sleep(EVERY_S)
        process.send_signal(signal.SIGCONT)
        _halt(dure, process, lambda note: bool(note.done))
        yield process
    finally:
        end(process)


def _halt(
    dure: Dure, process: subprocess.Popen[bytes], has_come: Callable[[WorkNote], bool]
) -> None:
    give_up = time.monotonic() + WAIT_S
    while not any(has_come(one) for one in notes_of(dure) if one.pid == process.pid):
        assert process.poll() is None, "it was too quick"
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
