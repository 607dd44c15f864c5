"""What is worth noting of the nodes from one look to the next: for the event log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dure.cluster.root.survey import NodeReport
from dure.hardware.health import Health

__all__ = ["Changes"]

HOT_C, COOL_C = 80.0, 72.0  # boards slow down at 80 to 85
MANY_ERRORS = 10  # of a link, before they are told of; then at every doubling
FACTS_EVERY_S = 3600.0

Event = tuple[str, dict[str, Any]]


@dataclass
class _Known:
    """What was told of a node. errors: by network device."""

    answers: bool = True
    throttled: tuple[str, ...] = ()
    is_hot: bool = False
    errors: dict[str, int] = field(default_factory=dict)
    facts_at: float = float("-inf")


class Changes:
    """Compares what nodes say with what was told of them before."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def of(self, reports: Sequence[NodeReport], now: float) -> Iterator[Event]:
        """The events since the last look; their facts name the node. now: seconds of any clock."""
        for report in reports:
            known = self._known.setdefault(report.member.name, _Known())
            for event, facts in _of_node(report, known, now):
                yield event, {"node": report.member.name, **facts}


def _of_node(report: NodeReport, known: _Known, now: float) -> Iterator[Event]:
    answers = not report.problem
    if answers != known.answers:
        known.answers = answers
        yield ("answers", {}) if answers else ("silent", {"reason": report.problem})
    if report.health is not None:
        yield from _of_health(report.health, known, now)


def _of_health(health: Health, known: _Known, now: float) -> Iterator[Event]:
    if health.throttled != known.throttled:
        known.throttled = health.throttled
        yield (
            ("throttled", {"why": list(health.throttled)})
            if health.throttled
            else ("unthrottled", {})
        )
    if health.temperature_c is not None:
        if not known.is_hot and health.temperature_c >= HOT_C:
            known.is_hot = True
            yield "hot", {"temperature_c": health.temperature_c}
        elif known.is_hot and health.temperature_c < COOL_C:
            known.is_hot = False
            yield "cooled", {"temperature_c": health.temperature_c}
    for link in health.links:
        before = known.errors.setdefault(link.name, link.errors)
        if link.errors < before:  # it was counted anew
            known.errors[link.name] = link.errors
        elif link.errors - before >= max(MANY_ERRORS, before):
            known.errors[link.name] = link.errors
            yield "link_errors", {"device": link.name, "errors": link.errors}
    if now - known.facts_at >= FACTS_EVERY_S:
        known.facts_at = now
        yield "facts", _facts(health)


def _facts(health: Health) -> dict[str, Any]:
    return {
        "temperature_c": health.temperature_c,
        "throttled": list(health.throttled),
        "clock_mhz": health.clock_mhz,
        "load": round(health.load, 2),
        "available_bytes": health.available_bytes,
        "disk_free_bytes": health.disk_free_bytes,
        "link_errors": {link.name: link.errors for link in health.links},
    }
