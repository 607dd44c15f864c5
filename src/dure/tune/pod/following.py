"""Follows a run in a pod until it ends, over as many lines as it takes.

A line that is lost is tried again, for as long as the pod may run: the run does not notice. What the run
makes comes home meanwhile. Refuses to know terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dure.errors import DureError, ErrorRecord, ResourceError, revived
from dure.pods.account import PodAccount
from dure.pods.provider import PodError
from dure.tune.loop.events import Notice, Observer, Saved, event_from
from dure.tune.pod.homing import Homing
from dure.tune.pod.job import steps_of
from dure.tune.pod.line import LostLineError, PodLine

__all__ = ["Following", "PodRunEnd"]

T = TypeVar("T")
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_HEALS_S = 5.0
_TICK_S = 0.1
_MOST_CRASHES = 3


@dataclass(frozen=True)
class PodRunEnd:
    """How following ended. detached: the run goes on. stopped: the step after which somebody stopped it."""

    detached: bool = False
    stopped: int | None = None
    error: DureError | None = None

    @property
    def is_early(self) -> bool:
        """Whether it ended without a result."""
        return self.error is not None or self.stopped is not None


class Following:
    """A run that is followed. names: what paths in the pod are called at home.

    is_left: whether whoever follows wants to go.
    """

    def __init__(
        self,
        here: PodAccount,
        line: PodLine,
        out: Path,
        names: Mapping[str, str],
        observer: Observer,
        is_left: Callable[[], bool],
    ) -> None:
        self._here, self._line, self._out = here, line, out
        self._names, self._observer, self._is_left = names, observer, is_left
        self._n_lines, self._crashed = 0, False

    def until_the_end(self, attempt: str) -> PodRunEnd:
        """Follow a start until its end. Raises PodError if the pod is gone, or stopped."""
        homing = Homing(self._line, self._out)
        homing.want()
        try:
            ended = self._followed(attempt, homing)
        finally:
            homing.close()
            self._tell_arrived(homing)
        return ended

    def bring(self, what: Callable[[], T]) -> T | None:
        """Bring something home, over as many lines as it takes; None if whoever follows leaves.

        Raises PodError if the pod is gone, ResourceError if the disk here is full.
        """
        failures = 0
        while True:
            try:
                return what()
            except LostLineError as error:
                if self._is_left():
                    return None
                if failures == 0:
                    self._observer(Notice(f"{error.problem}; it is tried again"))
                if self._waited(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)]):
                    return None
                failures += 1
                self._find_pod()

    def _followed(self, attempt: str, homing: Homing) -> PodRunEnd:
        failures = crashes = 0
        while True:
            n_before = self._n_lines
            for event in self._events(attempt):
                self._tell_arrived(homing)
                if event is not None and event["event"] == "ended":
                    return _end_of(event)
                if event is not None:
                    self._tell(event, homing)
                if self._is_left():
                    return PodRunEnd(detached=True)
            failures = 0 if self._n_lines > n_before else failures
            crashes = crashes + 1 if self._crashed and failures else 0
            if crashes == _MOST_CRASHES:
                raise PodError(
                    f"{self._line.entry.name} does not tell how its run stands",
                    f"look at {self._line.folder.root} there: `dure pod ssh {self._line.entry.name}`",
                )
            if failures == 0:
                name = self._line.entry.name
                self._observer(Notice(f"the line to {name} is lost; the run goes on there"))
            if self._waited(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)]):
                return PodRunEnd(detached=True)
            failures += 1
            self._find_pod()
            homing.want()

    def _events(self, attempt: str) -> Iterator[dict[str, Any] | None]:
        stream = self._line.follow(attempt, self._n_lines)
        try:
            for event in stream.events():
                self._n_lines += event is not None
                yield event
        finally:
            stream.close()
            self._crashed = stream.has_crashed

    def _tell(self, said: dict[str, Any], homing: Homing) -> None:
        if said["event"] == "checkpoint":
            homing.want()  # it is told when it is here
            return
        if said["event"] == "finished":  # it is, once the result is here
            return
        event = event_from({key: self._as_here(value) for key, value in said.items()})
        if event is not None:
            self._observer(event)

    def _as_here(self, value: Any) -> Any:
        """Return a text with the names that files have at home, and nothing that moves a terminal."""
        if not isinstance(value, str):
            return value
        for there, here in self._names.items():
            value = value.replace(there, here)
        return "".join(one if one.isprintable() else " " for one in value)

    def _tell_arrived(self, homing: Homing) -> None:
        while (came := homing.arrived()) is not None:
            if isinstance(came, Saved):
                self._observer(came)
            else:
                self._observer(Notice(f"a checkpoint did not come home: {came}"))

    # ------------------------------------------------------------ a lost line

    def _waited(self, seconds: float) -> bool:
        """Wait; return whether whoever follows has left meanwhile."""
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            if self._is_left():
                return True
            time.sleep(_TICK_S)
        return self._is_left()

    def _find_pod(self) -> None:
        """Find where the pod is now, if its provider says so. Raises PodError if it does not run."""
        before = self._line.entry
        try:
            entry, pod = self._here.lives.look(before)
        except DureError:
            return  # this machine has no network, or the provider is silent
        if pod is None or pod.status.is_over:
            if pod is None:
                self._here.lives.bury(entry)
            raise self._lost("is gone" if pod is None else f"does not run ({pod.status})")
        with suppress(PodError, ResourceError):
            self._line.entry = self._here.ssh.heal(self._here.lives, entry, _HEALS_S)

    def _lost(self, what: str) -> PodError:
        step = max(steps_of(self._out / "checkpoints"), default=0)
        at_home = (
            f"the checkpoint of step {step:,} is here" if step else "no checkpoint was made yet"
        )
        return PodError(
            f"{self._line.entry.name} {what}; {at_home}",
            "give the same command with --on and another pod, or without --on to go on here",
        )


def _end_of(event: Mapping[str, Any]) -> PodRunEnd:
    error = event["error"]
    found = revived(ErrorRecord(**error)) if error else None
    return PodRunEnd(stopped=event["stopped"], error=found)
