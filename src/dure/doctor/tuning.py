"""Pulls one lever after another, and keeps those that make a cluster quicker: measured, not believed.

Each is measured without and with it, in turns, until it has lost once or won every time. Refuses to know
how that is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dure.doctor.changes import ChangeJournal, MachineChange, apply, undo
from dure.doctor.levers import Lever
from dure.errors import DureError
from dure.hardware.settings import Settings

__all__ = ["Latency", "TunedLever", "tune"]

_WORTH = 0.01  # the least gain that pays for a change
# Of measurements that differ by chance alone, all four with a lever are quicker than all four without it
# once in 70 times; of two and two, once in six.
_LEAST_TURNS, _MOST_TURNS = 2, 4


@dataclass(frozen=True)
class Latency:
    """How quick a cluster is. step_s: of one token; None without a model. round_trip_s: of the network."""

    round_trip_s: float
    step_s: float | None = None

    @property
    def deciding_s(self) -> float:
        """What decides: a token's time, if that is measured."""
        return self.round_trip_s if self.step_s is None else self.step_s


@dataclass(frozen=True)
class TunedLever:
    """What became of a lever. without, with_it: what was measured. problem: why it could not be pulled."""

    lever: Lever
    without: tuple[Latency, ...] = ()
    with_it: tuple[Latency, ...] = ()
    problem: str = ""

    @property
    def gain(self) -> float:
        """The part of the time that it saves; negative if it costs some."""
        without, with_it = (
            statistics.median(one.deciding_s for one in some)
            for some in (self.without, self.with_it)
        )
        return 1 - with_it / without

    @property
    def helps(self) -> bool:
        """Whether it was quicker each time, by more than chance makes of it."""
        if self.problem:
            return False
        best_without = min(one.deciding_s for one in self.without)
        worst_with = max(one.deciding_s for one in self.with_it)
        return worst_with < best_without and self.gain >= _WORTH


def tune(
    levers: Sequence[Lever],
    settings: Mapping[str, Settings],
    measure: Callable[[Lever], Latency],
    journal: ChangeJournal,
) -> Iterator[TunedLever]:
    """Yield what became of each lever; those that help stay pulled, all others are as before.

    settings: of each machine. measure: how quick they are now, while that lever is tried. Raises what
    `measure` raises; a lever that was being tried is undone then.
    """
    for lever in levers:
        pulling = _Pulling(lever, settings, journal)
        try:
            result = _tried(lever, pulling, measure)
        except BaseException:
            pulling.release()
            raise
        if not result.helps:
            pulling.release()
        yield result


def _tried(lever: Lever, pulling: _Pulling, measure: Callable[[Lever], Latency]) -> TunedLever:
    """Measure a lever in turns; a lever that has lost is not tried again."""
    result = TunedLever(lever)
    for n_turns in range(1, _MOST_TURNS + 1):
        without = measure(lever)
        try:
            pulling.pull()
        except DureError as error:
            return TunedLever(lever, problem=str(error))
        with_it = measure(lever)
        result = TunedLever(lever, (*result.without, without), (*result.with_it, with_it))
        if n_turns >= _LEAST_TURNS and not result.helps:
            return result
        if n_turns < _MOST_TURNS:
            pulling.release()
    return result


class _Pulling:
    """Pulls a lever on all machines that have it, and releases it."""

    def __init__(
        self, lever: Lever, settings: Mapping[str, Settings], journal: ChangeJournal
    ) -> None:
        self._lever, self._settings, self._journal = lever, settings, journal
        self._changes: list[MachineChange] = []

    def pull(self) -> None:
        """Change its settings everywhere. Raises DureError."""
        for machine, wanted in self._lever.settings.items():
            known = (self._settings[machine], self._journal, self._lever.name, self._lever.what)
            self._changes.append(apply(*known, wanted, machine))

    def release(self) -> None:
        """Take back what was changed. Raises DureError."""
        while self._changes:
            undo(self._settings.__getitem__, self._journal, self._changes[-1])
            self._changes.pop()
