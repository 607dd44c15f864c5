"""What all pods together may cost, checked before one is asked for: pure arithmetic on the ledger.

Counts every pod until its own limit, as if nobody ended it sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dure.errors import UsageError
from dure.pods.decide import most_it_costs
from dure.pods.ledger import Entry
from dure.pods.life import SHORTEST_RUN_S
from dure.pods.money import NOTHING, Bill, Money
from dure.pods.provider import PodStatus

__all__ = ["Ceilings", "check_ceilings"]

_DAY_S = 86400


@dataclass(frozen=True)
class Ceilings:
    """The most that may be paid: price for one pod an hour, hourly for all, daily for all in 24 hours.

    hourly_name, daily_name: what the user sets them with.
    """

    price: Money
    hourly: Money
    daily: Money
    hourly_name: str = "--max-hourly"
    daily_name: str = "--max-daily"


def check_ceilings(
    bill: Bill, ceilings: Ceilings, living: Iterable[Entry], spent_lately: Money
) -> None:
    """Raise UsageError if a pod of this bill could exceed a ceiling, or is over before it is useful."""
    others = list(living)
    if bill.hourly > ceilings.price:
        raise UsageError(
            f"the pod costs {bill.hourly} an hour, and --max-price is {ceilings.price}",
            "choose a cheaper GPU, smaller disks, or another --max-price",
        )
    if bill.runs_s < SHORTEST_RUN_S:
        raise UsageError(
            f"{bill.max_spend} lasts {bill.runs_s // 60} min at {bill.hourly} an hour",
            f"give --max-spend at least {bill.hourly.over(SHORTEST_RUN_S)}",
        )
    hourly = sum((_hourly(entry) for entry in others), bill.hourly)
    if hourly > ceilings.hourly:
        raise UsageError(
            f"with it, all pods would cost {hourly} an hour, and {ceilings.hourly_name} is "
            f"{ceilings.hourly}",
            f"end another pod first (`dure pod ls`), or raise {ceilings.hourly_name}",
        )
    daily = sum(
        (_in_a_day(entry) for entry in others),
        spent_lately + bill.hourly.over(min(bill.runs_s, _DAY_S)),
    )
    if daily > ceilings.daily:
        raise UsageError(
            f"with it, all pods could cost {daily} in 24 hours, {spent_lately} of it spent already, "
            f"and {ceilings.daily_name} is {ceilings.daily}",
            f"give the pod a lower --max-spend or --max-hours, or raise {ceilings.daily_name}",
        )


def _hourly(entry: Entry) -> Money:
    """Return what a pod costs per hour; one that was never seen, what was shown."""
    return entry.hourly if entry.pod_id else entry.limits.hourly


def _in_a_day(entry: Entry) -> Money:
    """Return what a pod can still cost in a day."""
    day = _hourly(entry).over(_DAY_S)
    if not entry.pod_id:
        return min(day, entry.limits.max_spend)
    if entry.status == PodStatus.EXITED:
        return min(day, max(NOTHING, entry.limits.max_spend - entry.spent))
    return min(day, max(NOTHING, most_it_costs(entry) - entry.spent))
