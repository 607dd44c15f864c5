"""The memory that MPICH shares between a machine's ranks: a file in `/dev/shm` (Linux).

MPICH writes to all of it when it starts; a page that the folder has no room for ends the rank by a signal.
So there must be room before. What fills the folder later gets an error of its own.
Knows how large the file is. Refuses to know what it holds, and what else there is.
"""

from __future__ import annotations

import os
from pathlib import Path

from dure.errors import ResourceError
from dure.sizes import compared

__all__ = ["check_room"]

_FOLDER = Path("/dev/shm")  # noqa: S108  # where Linux keeps it, whoever makes it
# Measured with MPICH 5.0.2, for 1 to 8 ranks: 64 cells of 16 KiB for each, and what manages them.
_RANK_BYTES, _FIXED_BYTES = 1_057_344, 4096
_CURE = (
    "make it larger (`mount -o remount,size=64m /dev/shm`; of a container `docker run --shm-size 64m`, or "
    "a volume of medium Memory), or delete what fills it"
)


def check_room(n_ranks: int) -> None:
    """Check that MPI can start this number of ranks on this machine. Raises ResourceError."""
    if not _FOLDER.exists():
        return
    needed, room = _FIXED_BYTES + n_ranks * _RANK_BYTES, os.statvfs(_FOLDER)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and free < needed:  # no blocks: a tmpfs without a limit
        ranks = "a rank" if n_ranks == 1 else f"{n_ranks} ranks"
        needs, has = compared(needed, free)
        raise ResourceError(
            f"{ranks} need{'s' * (n_ranks == 1)} {needs} of shared memory, and {_FOLDER} has {has} free",
            _CURE,
        )
