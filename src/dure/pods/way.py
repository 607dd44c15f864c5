"""The way to the server of one pod, by its name in the ledger: how the pod is, its tunnel, and its start.

A name is looked up anew each time, as a pod may end and another get its name. All calls block. Refuses to
know who asks the server, and what.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from dure.errors import DureError, UsageError
from dure.pods.account import PodAccount
from dure.pods.ceilings import Ceilings
from dure.pods.ledger import Entry, Wanted
from dure.pods.life import SHORTEST_RUN_S, left_of
from dure.pods.money import Money
from dure.pods.provider import Pod, PodError, PodStatus
from dure.pods.restarting import Restart, restarted
from dure.pods.tunnel import PodTunnel

__all__ = ["OpenAccount", "PodWay", "Standing", "WayState"]

OpenAccount = Callable[[], AbstractContextManager[PodAccount]]
WayState = Literal["open", "stopped", "broken", "out"]
"""open: the tunnel stands. stopped: the pod can be started. broken: it runs, or may run, and is not
reached. out: there is no pod, or none that may be started."""
_HEALS_S = 60.0
_FAULTS = (DureError, OSError, sqlite3.Error)  # of the provider, of ssh, of this machine's disk
_CEILINGS = ("pods-hourly-usd", "pods-daily-usd")  # as the rules of a router have them


@dataclass(frozen=True)
class Standing:
    """How a pod is. why: it is not open. hourly: its price while it runs; None if not known."""

    state: WayState
    why: str = ""
    hourly: Money | None = None


class PodWay:
    """The way to a pod's server. Not for several threads at once.

    hourly, daily: the most that all pods may cost if it is started.
    """

    def __init__(self, name: str, opened: OpenAccount, hourly: Money, daily: Money) -> None:
        self._name, self._opened = name, opened
        self._hourly, self._daily = hourly, daily
        self._tunnel = PodTunnel()
        self._given_up = threading.Event()

    @property
    def url(self) -> str:
        """Where the server is reached on this machine while the tunnel stands."""
        return f"unix:{self._tunnel.socket}"

    @property
    def is_open(self) -> bool:
        """Whether the tunnel stands."""
        return self._tunnel.is_open

    def beat(self) -> None:
        """Let the guard in the pod know that its owner is here."""
        self._tunnel.beat()

    def find(self, patience_s: float = _HEALS_S) -> Standing:
        """Return how the pod is now; if it runs, its tunnel is opened. patience_s: for its port."""
        if self.is_open:
            return Standing("open")
        try:
            with self._opened() as here:
                here.lives.wait = self._wait
                return self._found(here, patience_s)
        except _FAULTS as error:
            return Standing("broken", str(error))

    def start(self, patience_s: float) -> None:
        """Start the pod if it is stopped, and open its tunnel.

        Raises UsageError at a limit or a ceiling, PodError if it does not start or is not reached.
        """
        if self.is_open:
            return
        try:
            with self._opened() as here:
                here.lives.wait = self._wait
                self._start(here, patience_s)
        except (OSError, sqlite3.Error) as error:
            raise PodError(f"{self._name} cannot be started: {error}") from error

    def _start(self, here: PodAccount, patience_s: float) -> None:
        standing = self._found(here, patience_s)
        if standing.state == "stopped":
            restart = self._restart(here.ledger.named(self._name))
            self._tunnel.open(here.ssh, restarted(here, restart, patience_s))
        elif standing.state != "open":
            raise PodError(standing.why)

    def give_up(self) -> None:
        """Have calls that wait end soon, with a PodError."""
        self._given_up.set()

    def close(self) -> None:
        """Close the tunnel; nobody may be in a call then."""
        self._tunnel.close()

    # ------------------------------------------------------------ looking

    def _found(self, here: PodAccount, patience_s: float) -> Standing:
        try:
            entry = here.ledger.named(self._name)
        except UsageError as error:
            return Standing("out", error.problem)
        try:
            entry, pod = here.lives.look(entry)
        except PodError as error:  # the provider is silent, and the pod may run all the same
            return self._as_last_seen(here, entry, error)
        hourly = entry.limits.hourly
        if pod is None:
            if entry.pod_id:
                here.lives.bury(entry)
            return Standing("out", "it is gone")
        if why := _never(entry, pod):
            return Standing("out", why, hourly)
        if not pod.status.is_over:
            self._reach(here, entry, pod, patience_s)
            return Standing("open", hourly=hourly)
        try:
            self._restart(entry).allowed(here, entry)
        except UsageError as error:
            return Standing("out", error.problem, hourly)
        return Standing("stopped", "it is stopped", hourly)

    def _as_last_seen(self, here: PodAccount, entry: Entry, error: PodError) -> Standing:
        if entry.status != PodStatus.RUNNING or not entry.door_port or not entry.server_port:
            return Standing("broken", str(error), entry.limits.hourly)
        here.ssh.write_entries(here.ledger.living())
        self._tunnel.open(here.ssh, entry)
        return Standing("open", hourly=entry.limits.hourly)

    def _reach(self, here: PodAccount, entry: Entry, pod: Pod, patience_s: float) -> None:
        """Open the tunnel, at another port if the pod has one. Raises PodError."""
        door = pod.door
        if door and (door.host, door.port) == (entry.door_host, entry.door_port):
            here.ssh.write_entries(here.ledger.living())
            try:
                self._tunnel.open(here.ssh, entry)
                return
            except PodError:
                pass  # that was the port of an earlier run
        self._tunnel.open(here.ssh, here.ssh.heal(here.lives, entry, patience_s))

    def _restart(self, entry: Entry) -> Restart:
        ceilings = Ceilings(entry.limits.hourly, self._hourly, self._daily, *_CEILINGS)
        return Restart(entry, entry.limits, ceilings)

    def _wait(self, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise PodError("whoever waited for it has ended")


def _never(entry: Entry, pod: Pod) -> str:
    """Return why a pod answers nobody, and cannot be started; "" if it can, or runs."""
    if entry.wanted is Wanted.GONE or pod.status is PodStatus.TERMINATED:
        return "it is being ended"
    if not entry.server_port:
        return f"it is a {entry.template}, which serves nothing"
    if pod.status is PodStatus.ERROR:
        return "its provider could not start it"
    if not pod.status.is_over:
        return ""
    if pod.locked:
        return "it is stopped, and locked at its provider"
    if left_of(entry) < SHORTEST_RUN_S:
        return f"it is stopped, and has cost {entry.spent} of {entry.limits.max_spend}"
    return ""
