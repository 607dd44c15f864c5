"""Where a server stores cached prefixes that the KV cache has no room for.

Knows memory that looks like a disk, and what killed servers left there. Refuses to know prefixes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from dure.worker.protocol import EngineOptions

__all__ = ["prefix_directory"]

MEMORY = Path("/dev/shm")  # noqa: S108  # made private by mkdtemp
_PREFIX = "dure-prefixes-"


@contextmanager
def prefix_directory(options: EngineOptions) -> Iterator[EngineOptions]:
    """Yield the options with a directory for prefixes: the one they name, or one in memory.

    The latter is deleted at the end.
    """
    if options.store or not options.store_bytes:
        yield options
        return
    memory = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _delete_left_behind(memory)
    directory = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=memory)
    try:
        yield msgspec.structs.replace(options, store=directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _delete_left_behind(memory: Path) -> None:
    """Delete the directories of servers that were killed."""
    for directory in memory.glob(f"{_PREFIX}*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)
