"""What is noted of nodes from one look to the next: each change once, and their facts every hour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dure.cluster.root.changes import FACTS_EVERY_S, MANY_ERRORS, Changes
from dure.cluster.root.membership import Member
from dure.cluster.root.survey import NodeReport
from dure.hardware.health import Health, Link

LINK = Link("eth0", ("10.0.0.1",), 1000, 0, 0, 0)
WELL = Health(45.0, (), 2400.0, 0.5, 9.0, 4 << 30, 1 << 40, (LINK,))
MEMBER = Member("pi-1", "10.0.0.1", 7474, 1, 0.0)


def noted(*looks: Health | str) -> list[tuple[str, Any]]:
    """The events of one node over some looks, without its hourly facts; a text is why it is silent."""
    changes, events = Changes(), []
    for look in looks:
        silent = isinstance(look, str)
        report = NodeReport(MEMBER, look) if silent else NodeReport(MEMBER, health=look)  # type: ignore[arg-type]
        events += list(changes.of([report], now=0.0))
    assert all(facts["node"] == "pi-1" for _, facts in events)
    return [
        (event, {k: v for k, v in facts.items() if k != "node"})
        for event, facts in events
        if event != "facts"
    ]


def test_a_node_that_is_well_is_no_event() -> None:
    assert noted(WELL, WELL, replace(WELL, load=3.0)) == []


def test_silence_and_its_end_are_told_once() -> None:
    assert noted(WELL, "no route", "no route", WELL, WELL) == [
        ("silent", {"reason": "no route"}),
        ("answers", {}),
    ]


def test_throttling_is_told_with_its_causes() -> None:
    weak = replace(WELL, throttled=("under-voltage",))
    both = replace(WELL, throttled=("under-voltage", "throttled"))
    assert noted(WELL, weak, weak, both, WELL) == [
        ("throttled", {"why": ["under-voltage"]}),
        ("throttled", {"why": ["under-voltage", "throttled"]}),
        ("unthrottled", {}),
    ]


def test_heat_is_told_where_it_begins_and_ends_not_where_it_sways() -> None:
    warm = [replace(WELL, temperature_c=t) for t in (79.0, 81.0, 79.0, 82.0, 75.0, 70.0, 60.0)]
    assert noted(*warm) == [("hot", {"temperature_c": 81.0}), ("cooled", {"temperature_c": 70.0})]
    assert noted(replace(WELL, temperature_c=None)) == []


def test_a_bad_cable_is_told_now_and_then() -> None:
    """What was counted before is old; then at every doubling, also when it is counted anew."""
    seen = [
        replace(WELL, links=(replace(LINK, errors=n),)) for n in (500, 505, 1000, 1100, 2000, 3, 20)
    ]
    told = [facts["errors"] for event, facts in noted(*seen) if event == "link_errors"]
    assert told == [1000, 2000, 20]
    assert MANY_ERRORS <= 20 - 3


def test_facts_are_noted_every_hour() -> None:
    changes = Changes()
    report = NodeReport(MEMBER, health=WELL)
    times = [0.0, 10.0, FACTS_EVERY_S - 1, FACTS_EVERY_S, FACTS_EVERY_S + 10]
    noted = [event for now in times for event in changes.of([report], now)]
    assert [event for event, _ in noted] == ["facts", "facts"]
    assert noted[0][1] == {
        "node": "pi-1",
        "temperature_c": 45.0,
        "throttled": [],
        "watts": None,
        "clock_mhz": 2400.0,
        "load": 0.5,
        "available_bytes": 4 << 30,
        "disk_free_bytes": 1 << 40,
        "link_errors": {"eth0": 0},
    }
