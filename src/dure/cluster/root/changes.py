"""What has changed of the nodes from one survey to the next, for the event log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dure.cluster.root.survey import NodeReport
from dure.hardware.health import Health, Link

__all__ = ["HOT_C", "Changes"]

HOT_C, COOL_C = 80.0, 72.0  # boards slow down at 80 to 85
MANY_ERRORS = 10  # of a link, before they are an event; then at every doubling
FACTS_EVERY_S = 3600.0

Event = tuple[str, dict[str, Any]]


@dataclass
class _Reported:
    """What was reported of a node before. errors: by network device."""

    answers: bool = True
    throttled: tuple[str, ...] = ()
    is_hot: bool = False
    errors: dict[str, int] = field(default_factory=dict)
    facts_at: float = float("-inf")


class Changes:
    """Compare what nodes report with what was reported of them before."""

    def __init__(self) -> None:
        self._reported: dict[str, _Reported] = {}

    def of(self, reports: Sequence[NodeReport], now: float) -> Iterator[Event]:
        """Yield the events since the last survey; their facts name the node. now: s of any clock."""
        for report in reports:
            before = self._reported.setdefault(report.member.name, _Reported())
            for event, facts in _of_node(report, before, now):
                yield event, {"node": report.member.name, **facts}


def _of_node(report: NodeReport, before: _Reported, now: float) -> Iterator[Event]:
    answers = not report.problem
    if answers != before.answers:
        before.answers = answers
        yield ("answers", {}) if answers else ("silent", {"reason": report.problem})
    if (health := report.health) is not None:
        yield from _of_throttling(health.throttled, before)
        yield from _of_temperature(health.temperature_c, before)
        for link in health.links:
            yield from _of_link(link, before)
        if now - before.facts_at >= FACTS_EVERY_S:
            before.facts_at = now
            yield "facts", _facts(health)


def _of_throttling(throttled: tuple[str, ...], before: _Reported) -> Iterator[Event]:
    if throttled != before.throttled:
        before.throttled = throttled
        yield ("throttled", {"why": list(throttled)}) if throttled else ("unthrottled", {})


def _of_temperature(temperature_c: float | None, before: _Reported) -> Iterator[Event]:
    if temperature_c is None:
        return
    if not before.is_hot and temperature_c >= HOT_C:
        before.is_hot = True
        yield "hot", {"temperature_c": temperature_c}
    elif before.is_hot and temperature_c < COOL_C:
        before.is_hot = False
        yield "cooled", {"temperature_c": temperature_c}


def _of_link(link: Link, before: _Reported) -> Iterator[Event]:
    n_before = before.errors.setdefault(link.name, link.errors)
    if link.errors < n_before:  # the count began again
        before.errors[link.name] = link.errors
    elif link.errors - n_before >= max(MANY_ERRORS, n_before):
        before.errors[link.name] = link.errors
        yield "link_errors", {"device": link.name, "errors": link.errors}


def _facts(health: Health) -> dict[str, Any]:
    return {
        "temperature_c": health.temperature_c,
        "throttled": list(health.throttled),
        "watts": health.power.watts,
        "clock_mhz": health.clock_mhz,
        "load": round(health.load, 2),
        "available_bytes": health.available_bytes,
        "disk_free_bytes": health.disk_free_bytes,
        "link_errors": {link.name: link.errors for link in health.links},
    }
