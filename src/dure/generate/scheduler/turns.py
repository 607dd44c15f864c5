"""Whose turn it is, if requests want different adapters: a step computes with one set of them. Pure.

Knows sets and owners. Refuses to know what a step computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.scheduler.running import RunningRequest

__all__ = ["TURN_STEPS", "AdapterTurns"]

TURN_STEPS = 4  # with a set before another's turn: to switch costs a part of a step


class AdapterTurns:
    """Gives each set of adapters a few steps in turn.

    The owner whose last turn was longest ago comes first, and of its sets the one whose was; so nobody gets
    more steps by asking with many sets.
    """

    def __init__(self) -> None:
        self._current, self._n_steps, self._n_turns = NO_ADAPTERS, 0, 0
        self._of_owner: dict[str, int] = {}  # the number of the last turn
        self._of_set: dict[AdapterSet, int] = {}

    def next(self, running: Sequence[RunningRequest]) -> list[RunningRequest]:
        """Return those of the running requests that the next step may compute."""
        sets = {r.request.adapters for r in running}
        if len(sets) > 1:
            self._choose(running, sets)
        elif sets:
            self._current, self._n_steps = sets.pop(), 0
        return [r for r in running if r.request.adapters == self._current]

    def _choose(self, running: Sequence[RunningRequest], sets: set[AdapterSet]) -> None:
        self._n_steps += 1
        if self._current in sets and self._n_steps < TURN_STEPS:
            return
        self._note_turn(running)

        def last_turns(r: RunningRequest) -> tuple[int, int, int]:
            owner, adapters = r.request.owner.name, r.request.adapters
            return self._of_owner.get(owner, 0), self._of_set.get(adapters, 0), r.turn

        self._current = min(running, key=last_turns).request.adapters
        self._n_steps = 0

    def _note_turn(self, running: Sequence[RunningRequest]) -> None:
        """Note who had the turn that is over; forget who is gone."""
        self._n_turns += 1
        had = [r.request for r in running if r.request.adapters == self._current]
        owners, sets = (
            {r.request.owner.name for r in running},
            {r.request.adapters for r in running},
        )
        self._of_owner = {o: n for o, n in self._of_owner.items() if o in owners}
        self._of_set = {a: n for a, n in self._of_set.items() if a in sets}
        self._of_owner |= {request.owner.name: self._n_turns for request in had}
        self._of_set |= {request.adapters: self._n_turns for request in had}
