"""Which command uses the cluster's machines: an identity, and how a user is told of it.

A command that starts its engine again is the same job; another command is another one, with the same model
too. Refuses to know which machines a job uses.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import msgspec

from dure.errors import ClusterError

__all__ = ["LIBRARY", "JobId", "JobIdentity", "busy_error"]

JobId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
_SERVER = "serve"
LIBRARY = "open"  # a program's own call


class JobIdentity(msgspec.Struct, frozen=True):
    """A command that runs a model on the cluster.

    id: created once per command. root: host name of the machine that it was typed on. pid: its process.
    since: when it began, in s since 1970.
    """

    id: JobId
    command: str
    model: str
    root: str
    pid: int
    since: float

    @classmethod
    def new(cls, command: str, model: str) -> Self:
        """Return an identity for this process."""
        return cls(
            secrets.token_hex(8), command, model, socket.gethostname(), os.getpid(), time.time()
        )

    @property
    def title(self) -> str:
        """What was typed, in short."""
        if self.command == LIBRARY:
            return f"`dure.open({self.model!r})`"
        return f"`dure {self.command} {self.model}`"

    def told(self) -> str:
        """Return what runs where since when, for a user."""
        return f"{self.title} on {self.root} (process {self.pid}) since {_moment(self.since)}"

    @property
    def how_to_stop(self) -> str:
        """The command that stops it, on its own machine."""
        return f"`dure stop {self.pid}`" if self.command == _SERVER else f"`kill {self.pid}`"


def busy_error(
    holders: Mapping[str, Sequence[JobIdentity]], *, may_share: bool = True
) -> ClusterError:
    """Return the error of nodes that other jobs use. holders: the jobs by node.

    may_share: the user can have them shared, or choose others.
    """
    nodes = ", ".join(holders)
    jobs = list({job.id: job for held in holders.values() for job in held}.values())
    them, they = ("it", "ends it") if len(jobs) == 1 else ("them", "end them")
    stops = f"{' and '.join(j.how_to_stop for j in jobs)} on {jobs[0].root} {they}"
    share = f"--share-node runs beside {them}, {stops}, --nodes names other nodes"
    return ClusterError(
        f"{nodes} {'is' if len(holders) == 1 else 'are'} used by {' and '.join(j.told() for j in jobs)}",
        share if may_share else f"wait until it is done, or {stops}",
    )


def _moment(since: float) -> str:
    """Return a time of today as a time of day, another one with its date."""
    then, now = time.localtime(since), time.localtime()
    is_today = then[:3] == now[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M", then)
