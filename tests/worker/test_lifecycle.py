"""The engine's states: what leads where, and that there is a way out of each."""

from __future__ import annotations

import pytest

from dure.deploy.reporter import EngineEvent
from dure.worker.lifecycle import MEANINGS, TABLE, Lifecycle, State, diagram

CLUSTER = [
    EngineEvent.GATHERS,
    EngineEvent.PLACES,
    EngineEvent.SENDS,
    EngineEvent.LOADS,
    EngineEvent.LOADED,
]


def after(*events: EngineEvent) -> State:
    """Where an engine is after these."""
    lifecycle = Lifecycle()
    for event in events:
        lifecycle.on(event)
    return lifecycle.state


def test_a_start_on_a_cluster_and_here_ends_in_ready() -> None:
    assert after(*CLUSTER) is State.READY
    assert after(EngineEvent.SENDS, EngineEvent.LOADS, EngineEvent.LOADED) is State.READY
    assert after(EngineEvent.LOADS, EngineEvent.LOADED) is State.READY


def test_too_little_memory_leads_back_to_the_missing_nodes() -> None:
    assert after(*CLUSTER[:2], EngineEvent.LACKS) is State.GATHERING
    assert after(*CLUSTER[:2], EngineEvent.LACKS, *CLUSTER[1:]) is State.READY


@pytest.mark.parametrize("n", range(len(CLUSTER) + 1))
def test_an_engine_may_end_at_any_time_and_starts_again(n: int) -> None:
    before = CLUSTER[:n]
    assert after(*before, EngineEvent.LOST) is State.PAUSING
    assert after(*before, EngineEvent.LOST, EngineEvent.RESTARTS, *CLUSTER) is State.READY
    hopeless = (*before, EngineEvent.LOST, EngineEvent.GIVES_UP)
    assert after(*hopeless) is State.FAILED
    assert after(*hopeless, EngineEvent.RESTARTS, *CLUSTER) is State.READY


def test_what_the_table_does_not_know_is_told_as_a_bug() -> None:
    with pytest.raises(RuntimeError, match=r"LOADED.* while the engine is starting"):
        after(EngineEvent.LOADED)
    with pytest.raises(RuntimeError, match="RESTARTS"):
        after(*CLUSTER, EngineEvent.RESTARTS)


def test_every_state_can_be_reached_left_and_is_explained() -> None:
    """But for the last one, which nothing follows but itself."""
    assert set(MEANINGS) == set(State)
    assert {*TABLE.values(), State.STARTING} == set(State)
    for state in State:
        leads_to = {to for (at, _), to in TABLE.items() if at is state}
        assert State.STOPPED in leads_to
        assert (leads_to == {State.STOPPED}) == (state is State.STOPPED)


def test_the_diagram_has_every_line_of_the_table() -> None:
    lines = diagram().splitlines()
    for (state, event), to in TABLE.items():
        if event not in {EngineEvent.STOPS, EngineEvent.BREAKS}:
            assert f"    {state} --> {to}: {event}" in lines
