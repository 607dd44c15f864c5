"""Defines the states of an engine, and the events that lead from one to the next, in one table.

Pure. The supervisor passes it events, among them those that the engine reports of its start
(`deploy.reporter`), and reads the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from dure.deploy.reporter import EngineEvent

__all__ = ["MEANINGS", "TABLE", "Lifecycle", "ShownState", "State", "diagram"]

ShownState = Literal["loading", "ready", "restarting", "failed", "stopped"]
"""What clients of the API see of a state."""


class State(StrEnum):
    """The state of an engine."""

    STARTING = "starting"
    GATHERING = "gathering"
    PLACING = "placing"
    SENDING = "sending"
    LOADING = "loading"
    READY = "ready"
    PAUSING = "pausing"
    FAILED = "failed"
    STOPPED = "stopped"


MEANINGS: Mapping[State, str] = {
    State.STARTING: "a new process reads the model's header",
    State.GATHERING: "polls every node; waits for missing ones, up to the grace time",
    State.PLACING: "measures unknown speeds, and decides each machine's share",
    State.SENDING: "cuts the model, and sends each node its shard if missing",
    State.LOADING: "the ranks read their weights",
    State.READY: "answers requests; interrupted ones resume after their tokens so far",
    State.PAUSING: "keeps requests; the first restarts are immediate, later ones wait longer and longer",
    State.FAILED: "refuses requests with the reason; tries again after ever longer pauses, up to a minute",
    State.STOPPED: "no process runs",
}

_BEFORE_READY = (State.STARTING, State.GATHERING, State.PLACING, State.SENDING, State.LOADING)

TABLE: Mapping[tuple[State, EngineEvent], State] = {
    (State.STARTING, EngineEvent.GATHERS): State.GATHERING,  # on a cluster
    (State.GATHERING, EngineEvent.PLACES): State.PLACING,
    (State.PLACING, EngineEvent.LACKS): State.GATHERING,
    (State.PLACING, EngineEvent.SENDS): State.SENDING,
    (State.PLACING, EngineEvent.LOADS): State.LOADING,  # the root alone holds the whole model
    (State.SENDING, EngineEvent.LOADS): State.LOADING,
    (State.STARTING, EngineEvent.SENDS): State.SENDING,  # on this machine, cut
    (State.STARTING, EngineEvent.LOADS): State.LOADING,  # on this machine, whole
    (State.LOADING, EngineEvent.LOADED): State.READY,
    **{(state, EngineEvent.LOST): State.PAUSING for state in (*_BEFORE_READY, State.READY)},
    (State.PAUSING, EngineEvent.RESTARTS): State.STARTING,
    (State.PAUSING, EngineEvent.GIVES_UP): State.FAILED,
    (State.FAILED, EngineEvent.RESTARTS): State.STARTING,
    **{(state, EngineEvent.STOPS): State.STOPPED for state in State},
    **{(s, EngineEvent.BREAKS): State.FAILED for s in State if s is not State.STOPPED},
    (State.STOPPED, EngineEvent.BREAKS): State.STOPPED,
}

_FROM_ANYWHERE = (EngineEvent.STOPS, EngineEvent.BREAKS)  # too many arrows for a picture


class Lifecycle:
    """The state of one engine. Raises RuntimeError, a bug of the caller, for an event not in the table."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def on(self, event: EngineEvent) -> None:
        """Change the state as an event demands."""
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise RuntimeError(f"{event!r} while the engine is {self.state.value}") from None

    def shown(self, *, was_loaded: bool, is_hopeless: bool) -> ShownState:
        """Return the state as clients see it. is_hopeless: it keeps failing to start."""
        match self.state:
            case State.READY:
                return "ready"
            case State.STOPPED:
                return "stopped"
            case State.FAILED:
                return "failed"
        if is_hopeless:
            return "failed"
        return "restarting" if was_loaded else "loading"


def diagram() -> str:
    """Return the table as a Mermaid diagram and the states' meanings, for docs/architecture.md."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    lines += [
        f"    {state} --> {after}: {event}"
        for (state, event), after in TABLE.items()
        if event not in _FROM_ANYWHERE
    ]
    lines += [f"    {State.STOPPED} --> [*]", "```", "", "| State | What it does |", "|---|---|"]
    lines += [f"| {state} | {meaning} |" for state, meaning in MEANINGS.items()]
    lines += ["", f"In any state, `{State.STOPPED}` follows if {EngineEvent.STOPS}."]
    lines += [
        f"In any state but `{State.STOPPED}`, `{State.FAILED}` follows if {EngineEvent.BREAKS}."
    ]
    return "\n".join(lines)
