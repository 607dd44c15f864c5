"""How urgent the packets between ranks are on this machine: a number in a file, which ranks are told.

It is SO_PRIORITY of their connections (socket(7)), by which the kernel orders what waits for a device.
"""

from __future__ import annotations

import os

from dure.hardware.examination.machine_root import MachineRoot, UnreadableError
from dure.hardware.examination.network import rank_priority
from dure.places import rank_priority_file

__all__ = ["VARIABLE", "priority_environment", "write_rank_priority"]

VARIABLE = "DURE_RANK_PRIORITY"


def write_rank_priority(root: MachineRoot, value: str) -> None:
    """Choose the priority of ranks that start from now on. Raises OSError.

    What sudo makes in a user's folders is the user's.
    """
    path = root.at(str(rank_priority_file()))
    new = [one for one in (path, *path.parents) if not one.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    if new and os.geteuid() == 0:
        owner = new[-1].parent.stat()
        for one in new:
            os.chown(one, owner.st_uid, owner.st_gid)


def priority_environment() -> dict[str, str]:
    """Return what a rank's environment has besides: nothing, if no priority was chosen."""
    try:
        priority = rank_priority(MachineRoot())
    except UnreadableError:
        return {}
    return {VARIABLE: str(priority)} if priority else {}
