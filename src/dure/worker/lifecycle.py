"""What an engine does from start to end: one table of states, and of what leads from each to the next.

Pure. The supervisor reports what happened, also what the engine itself reports of its start
(`deploy.reporter`), and asks for the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from dure.deploy.reporter import EngineEvent

__all__ = ["MEANINGS", "TABLE", "Lifecycle", "State", "diagram"]


class State(StrEnum):
    """Where an engine is."""

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
    State.GATHERING: "asks every node; waits for one that is missing, up to the grace time",
    State.PLACING: "measures what is not known yet, and decides which machine takes how much",
    State.SENDING: "cuts the model, and sends each node what it lacks",
    State.LOADING: "the ranks read their weights",
    State.READY: "answers requests; interrupted ones resume after their last token",
    State.PAUSING: "requests are kept; the first restart is immediate, later ones wait longer",
    State.FAILED: "requests are refused with the reason; tried again after ever longer pauses, up to a minute",
    State.STOPPED: "no process is left",
}

_ON_THE_WAY = (State.STARTING, State.GATHERING, State.PLACING, State.SENDING, State.LOADING)

TABLE: Mapping[tuple[State, EngineEvent], State] = {
    (State.STARTING, EngineEvent.GATHERS): State.GATHERING,  # on a cluster
    (State.GATHERING, EngineEvent.PLACES): State.PLACING,
    (State.PLACING, EngineEvent.LACKS): State.GATHERING,
    (State.PLACING, EngineEvent.SENDS): State.SENDING,
    (State.PLACING, EngineEvent.LOADS): State.LOADING,  # the root alone holds it all
    (State.SENDING, EngineEvent.LOADS): State.LOADING,
    (State.STARTING, EngineEvent.SENDS): State.SENDING,  # on this machine, cut
    (State.STARTING, EngineEvent.LOADS): State.LOADING,  # on this machine, whole
    (State.LOADING, EngineEvent.LOADED): State.READY,
    **{(state, EngineEvent.LOST): State.PAUSING for state in (*_ON_THE_WAY, State.READY)},
    (State.PAUSING, EngineEvent.RESTARTS): State.STARTING,
    (State.PAUSING, EngineEvent.GIVES_UP): State.FAILED,
    (State.FAILED, EngineEvent.RESTARTS): State.STARTING,
    **{(state, EngineEvent.STOPS): State.STOPPED for state in State},
    **{(s, EngineEvent.BREAKS): State.FAILED for s in State if s is not State.STOPPED},
    (State.STOPPED, EngineEvent.BREAKS): State.STOPPED,
}

_FROM_ANYWHERE = (EngineEvent.STOPS, EngineEvent.BREAKS)  # too many arrows for a picture


class Lifecycle:
    """The state of one engine. Raises RuntimeError, a bug of the caller, for what is not in the table."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def on(self, event: EngineEvent) -> None:
        """Go to the state that an event leads to."""
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise RuntimeError(f"{event!r} while the engine is {self.state.value}") from None


def diagram() -> str:
    """Return the table in Mermaid's words, and what each state means: for docs/architecture.md."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    lines += [
        f"    {state} --> {after}: {event}"
        for (state, event), after in TABLE.items()
        if event not in _FROM_ANYWHERE
    ]
    lines += [f"    {State.STOPPED} --> [*]", "```", "", "| State | What it does |", "|---|---|"]
    lines += [f"| {state} | {meaning} |" for state, meaning in MEANINGS.items()]
    lines += ["", f"From any state, {EngineEvent.STOPS}: `{State.STOPPED}`."]
    lines += [f"From any other, {EngineEvent.BREAKS}: `{State.FAILED}`."]
    return "\n".join(lines)
