"""The memory that MPICH shares between a machine's ranks: a file in `/dev/shm` (Linux).

MPICH writes to all of it when it starts; a page that the folder has no room for ends the rank by a signal.
So there must be room before. What fills the folder later gets an error of its own.
The file has a name until all ranks have it; ranks that are killed before leave it behind.
Knows how large the file is, and what it is called. Refuses to know what it holds, and what else there is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dure.errors import ResourceError
from dure.sizes import compared

__all__ = ["make_room", "unname"]

_FOLDER = Path("/dev/shm")  # noqa: S108  # where Linux keeps it, whoever makes it
# Measured with MPICH 5.0.2, for 1 to 8 ranks: 64 cells of 16 KiB for each, and what manages them.
_RANK_BYTES, _FIXED_BYTES = 1_057_344, 4096
_NAME = "mpich_shm_"
_OLD_S = 600.0  # ranks need the name for less, also those that no process here may see, as in a container
_CURE = (
    "make it larger (`mount -o remount,size=64m /dev/shm`; of a container `docker run --shm-size 64m`, or "
    "a volume of medium Memory), or delete what fills it"
)


def make_room(n_ranks: int) -> None:
    """Delete what dead ranks left, and check that MPI can start n_ranks here. Raises ResourceError."""
    if not _FOLDER.exists():
        return
    _sweep()
    needed, room = _FIXED_BYTES + n_ranks * _RANK_BYTES, os.statvfs(_FOLDER)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and free < needed:  # no blocks: a tmpfs without a limit
        ranks = "a rank" if n_ranks == 1 else f"{n_ranks} ranks"
        needs, has = compared(needed, free)
        raise ResourceError(
            f"{ranks} need{'s' * (n_ranks == 1)} {needs} of shared memory, and {_FOLDER} has {has} free",
            _CURE,
        )


def unname() -> None:
    """Unlink what this process shares with other ranks, once all have it."""
    for path in _mapped("self"):
        path.unlink(missing_ok=True)


def _sweep() -> None:
    """Delete files of this user's that no process has mapped, and that are not being made just now."""
    old = {path for path in _FOLDER.glob(f"{_NAME}*") if _is_old(path)}
    if old:
        for path in old.difference(_mapped("[0-9]*")):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_old(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:  # it has gone
        return False
    return found.st_uid == os.getuid() and time.time() - found.st_mtime > _OLD_S


def _mapped(process: str) -> Iterator[Path]:
    """Yield MPICH's files that processes have mapped. process: its number, or a pattern."""
    for maps in Path("/proc").glob(f"{process}/maps"):
        with contextlib.suppress(OSError):  # another user's, or it has ended
            for line in maps.read_text(errors="replace").splitlines():
                if f"{_FOLDER}/{_NAME}" in line:
                    yield Path(line.split(maxsplit=5)[-1])
