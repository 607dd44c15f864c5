"""What must become of a pod: a pure function of what the provider shows, the ledger, and the time.

Knows every rule by which a pod ends. Refuses to act, and to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dure.pods.ledger import Entry, PodState, Wanted
from dure.pods.money import Money
from dure.pods.provider import Pod, PodStatus

__all__ = [
    "ROUND_S",
    "Act",
    "PodVerdict",
    "deadline_of",
    "is_active",
    "most_it_costs",
    "what_to_do",
]

ROUND_S = 60
"""How often the guard at home looks."""
BUSY_GPU_PERCENT = 5.0
BUSY_CPU_PERCENT = 2.0  # a download to 16 processors is about that
A_CENT = Money.of("0.01")
"""By which the price read back may differ from ours: months and cents are rounded in many ways."""
_INTENT_S = 900  # after which a pod that was asked for and never seen will not come


class Act(StrEnum):
    """STOP and TERMINATE last until they are read back. CONFIRM: ask if it is gone. FORGET: none came."""

    KEEP = "keep"
    STOP = "stop"
    TERMINATE = "terminate"
    CONFIRM = "confirm"
    FORGET = "forget"


@dataclass(frozen=True)
class PodVerdict:
    """What must be done, and why."""

    act: Act
    reason: str = ""


_KEEP = PodVerdict(Act.KEEP)


def what_to_do(pod: Pod | None, entry: Entry, now: float) -> PodVerdict:
    """Return what must become of a pod. entry: up to date with what the pod has cost until now."""
    if pod is None:
        return _missing(entry, now)
    if pod.status is PodStatus.TERMINATED:
        return PodVerdict(Act.CONFIRM, "it is terminated")
    if entry.wanted is Wanted.GONE:
        return PodVerdict(Act.TERMINATE, entry.note or "it should be gone")
    return _over_its_limits(pod, entry, now)


def _missing(entry: Entry, now: float) -> PodVerdict:
    if entry.state is PodState.LIVE:
        return PodVerdict(Act.CONFIRM, "it is not listed")
    if now - entry.made_at > _INTENT_S:
        return PodVerdict(Act.FORGET, "no pod came of the request")
    return PodVerdict(Act.KEEP, "it was asked for, and is not listed yet")


def _over_its_limits(pod: Pod, entry: Entry, now: float) -> PodVerdict:
    """Return what the limits say of a pod that should live."""
    limits, runs = entry.limits, not pod.status.is_over
    if entry.spent + pod.hourly.over(ROUND_S) > limits.max_spend:
        return PodVerdict(
            Act.TERMINATE, f"it has cost {entry.spent}, the limit is {limits.max_spend}"
        )
    if not runs:
        return _KEEP
    if pod.hourly > limits.hourly + A_CENT:
        return PodVerdict(
            Act.TERMINATE, f"it costs {pod.hourly} an hour, and {limits.hourly} was shown"
        )
    if now >= entry.running_since + limits.max_seconds:
        return PodVerdict(
            Act.TERMINATE, f"it has run for {limits.max_seconds / 3600:g} h, the limit"
        )
    if entry.wanted is Wanted.STOPPED:
        return PodVerdict(Act.STOP, "it should be stopped")
    if limits.idle_s and now - max(entry.active_at, entry.running_since) >= limits.idle_s:
        return PodVerdict(Act.TERMINATE, f"it was idle for {limits.idle_s // 60} min")
    return _KEEP


def is_active(pod: Pod) -> bool:
    """Return whether a pod is seen to work; one of which nothing is told counts as working.

    A download keeps a processor busy, so it is no idleness.
    """
    if pod.gpu_percent is None or pod.cpu_percent is None:
        return True
    return pod.gpu_percent >= BUSY_GPU_PERCENT or pod.cpu_percent >= BUSY_CPU_PERCENT


def deadline_of(entry: Entry) -> float:
    """Return when a running pod ends at the latest, by time and by money."""
    left_s = (entry.limits.max_spend - entry.spent).lasts_s(entry.hourly)
    by_time = entry.running_since + entry.limits.max_seconds
    return by_time if left_s is None else min(by_time, entry.seen_at + left_s)


def most_it_costs(entry: Entry) -> Money:
    """Return what a pod costs at most until its deadline, one round of the guard included."""
    remaining = deadline_of(entry) - entry.seen_at + ROUND_S
    return min(entry.limits.max_spend, entry.spent + entry.hourly.over(remaining))
