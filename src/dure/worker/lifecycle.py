"""What an engine does from start to end: one table of states, and of what leads from each to the next.

Pure. The process that watches an engine (`client`) tells it what happened, also what the engine itself
tells of its start (`opening`, `cluster_opening`), and asks where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

__all__ = ["MEANINGS", "TABLE", "Happening", "Lifecycle", "State", "diagram"]


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


class Happening(StrEnum):
    """What leads from one state to another."""

    GATHERS = "nodes are looked for"
    PLACES = "enough nodes are there"
    LACKS = "without those that are missing there is too little memory"
    SENDS = "each machine's part is known"
    LOADS = "every machine has its part"
    LOADED = "every rank is ready"
    LOST = "the engine ended"
    RESTARTS = "it is started again"
    GIVES_UP = "it does not start, again and again"
    STOPS = "the user stops it"


MEANINGS: Mapping[State, str] = {
    State.STARTING: "a new process reads the model's header",
    State.GATHERING: "asks every node; waits for one that is missing, up to the grace time",
    State.PLACING: "measures what is not known yet, and decides which machine takes how much",
    State.SENDING: "cuts the model, and sends each node what it lacks",
    State.LOADING: "the ranks read their weights",
    State.READY: "answers requests; those that ran are taken up from their tokens so far",
    State.PAUSING: "requests are kept; after the first failures at once, then ever longer",
    State.FAILED: "requests are refused with the reason; tries again every minute",
    State.STOPPED: "no process is left",
}

_ON_THE_WAY = (State.STARTING, State.GATHERING, State.PLACING, State.SENDING, State.LOADING)

TABLE: Mapping[tuple[State, Happening], State] = {
    (State.STARTING, Happening.GATHERS): State.GATHERING,  # on a cluster
    (State.GATHERING, Happening.PLACES): State.PLACING,
    (State.PLACING, Happening.LACKS): State.GATHERING,
    (State.PLACING, Happening.SENDS): State.SENDING,
    (State.PLACING, Happening.LOADS): State.LOADING,  # the root alone holds it all
    (State.SENDING, Happening.LOADS): State.LOADING,
    (State.STARTING, Happening.SENDS): State.SENDING,  # on this machine, cut
    (State.STARTING, Happening.LOADS): State.LOADING,  # on this machine, whole
    (State.LOADING, Happening.LOADED): State.READY,
    **{(state, Happening.LOST): State.PAUSING for state in (*_ON_THE_WAY, State.READY)},
    (State.PAUSING, Happening.RESTARTS): State.STARTING,
    (State.PAUSING, Happening.GIVES_UP): State.FAILED,
    (State.FAILED, Happening.RESTARTS): State.STARTING,
    **{(state, Happening.STOPS): State.STOPPED for state in State},
}


class Lifecycle:
    """Where one engine is. Raises RuntimeError, a bug of the caller, for what the table does not know."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def on(self, happening: Happening) -> None:
        """Something happened."""
        try:
            self.state = TABLE[self.state, happening]
        except KeyError:
            raise RuntimeError(f"{happening!r} while the engine is {self.state.value}") from None


def diagram() -> str:
    """The table in Mermaid's words, and what each state means: for docs/architecture.md."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    lines += [
        f"    {state} --> {after}: {happening}"
        for (state, happening), after in TABLE.items()
        if happening is not Happening.STOPS
    ]
    lines += [f"    {State.STOPPED} --> [*]", "```", "", "| State | What it does |", "|---|---|"]
    lines += [f"| {state} | {meaning} |" for state, meaning in MEANINGS.items()]
    lines += ["", f"From every state, {Happening.STOPS}: `{State.STOPPED}`."]
    return "\n".join(lines)
