"""Tells the kernel how urgent this rank's packets are.

Knows the sockets of this process, whoever made them.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dure.hardware.rank_priority import VARIABLE

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

__all__ = ["hurry_connections"]


def hurry_connections(comm: Intracomm) -> None:
    """Give the connections to all other ranks the priority that the environment names, if it names one.

    All ranks must call it: MPI connects to one when it first sends something there, so each sends something
    to every other.
    """
    comm.alltoall([None] * comm.size)
    priority = os.environ.get(VARIABLE, "")
    for file in Path("/proc/self/fd").iterdir() if priority.isdigit() else ():
        try:
            _hurry(int(file.name), int(priority))
        except OSError:
            continue  # it was closed since, or the kernel does not allow it: a lever, nothing that must be


def _hurry(file: int, priority: int) -> None:
    if not stat.S_ISSOCK(os.fstat(file).st_mode):
        return
    with socket.socket(fileno=os.dup(file)) as connection:
        if connection.family in {socket.AF_INET, socket.AF_INET6}:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
