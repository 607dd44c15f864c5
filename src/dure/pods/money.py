"""Money in whole millionths of a dollar, what a pod costs in each state, and the bill shown beforehand.

Amounts are integers, so that a sum of many is exact. What is told as a limit is rounded up.
Refuses to know who is paid. Prices of disks are from RunPod's documentation, August 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

from dure.errors import UsageError

__all__ = ["HOUR_S", "NOTHING", "Bill", "Disks", "Money", "money_of"]

HOUR_S = 3600
MONTH_H = 730
NIGHT_H = 10
_PER_DOLLAR = 1_000_000


@dataclass(frozen=True, order=True)
class Money:
    """An amount, or a price per hour: millionths of a dollar."""

    micros: int = 0

    @classmethod
    def of(cls, dollars: Any) -> Money:
        """Return dollars as a text or a number of JSON has them, rounded up. Raises ValueError."""
        try:
            micros = Decimal(str(dollars)) * _PER_DOLLAR
            return cls(int(micros.to_integral_value(ROUND_CEILING)))
        except (InvalidOperation, OverflowError) as error:
            raise ValueError(f"{dollars!r} is no amount of money") from error

    def __add__(self, other: Money) -> Money:
        return Money(self.micros + other.micros)

    def __sub__(self, other: Money) -> Money:
        return Money(self.micros - other.micros)

    def __mul__(self, count: int) -> Money:
        return Money(self.micros * count)

    def over(self, seconds: float) -> Money:
        """Return what this price per hour comes to in some seconds, rounded up."""
        return Money(-(-self.micros * max(0, round(seconds)) // HOUR_S))

    def lasts_s(self, hourly: Money) -> int | None:
        """Return the whole seconds that this amount pays for at a price; None if that is free."""
        if hourly.micros <= 0:
            return None
        return max(0, self.micros * HOUR_S // hourly.micros)

    @property
    def dollars(self) -> float:
        """The amount as programs read it from JSON."""
        return self.micros / _PER_DOLLAR

    def __str__(self) -> str:
        cents = -(-self.micros // 10_000)
        sign = "-" if cents < 0 else ""
        return f"{sign}${abs(cents) // 100}.{abs(cents) % 100:02d}"


NOTHING = Money(0)
_MOST = Money.of(1_000_000)


def money_of(option: str, dollars: float) -> Money:
    """Return an amount that somebody gave. Raises UsageError that names the option."""
    try:
        found = Money.of(dollars)
    except ValueError:
        found = NOTHING
    if not NOTHING < found <= _MOST:
        raise UsageError(f"{option} {dollars:g}", "give dollars above 0, as in 0.70")
    return found


def _month(gigabytes: int, cents: int) -> Money:
    """Return the price per month of storage that costs some cents per GB."""
    return Money(gigabytes * cents * 10_000)


def _hour(month: Money) -> Money:
    return Money(-(-month.micros // MONTH_H))


@dataclass(frozen=True)
class Disks:
    """The storage of a pod, in GB.

    container: emptied by a stop. volume: kept by a stop, lost when the pod is terminated. network: kept
    by both, and billed until it is deleted.
    """

    container: int = 20
    volume: int = 0
    network: int = 0

    @property
    def running(self) -> Money:
        """The price per hour beside a running pod, without the network volume."""
        return _hour(_month(self.container + self.volume, 10))

    @property
    def stopped(self) -> Money:
        """The price per hour of a stopped pod: its volume costs twice as much then."""
        return _hour(self.stopped_month)

    @property
    def stopped_month(self) -> Money:
        """The price per month of a stopped pod."""
        return _month(self.volume, 20)

    @property
    def network_month(self) -> Money:
        """The price per month of the network volume, with or without a pod."""
        return _month(self.network, 7)

    @property
    def network_hourly(self) -> Money:
        """The price per hour of the network volume."""
        return _hour(self.network_month)


@dataclass(frozen=True)
class Bill:
    """What a pod will cost: the bill shown before it is made.

    gpu: per hour, of all GPUs. max_seconds, max_spend: where the guards end it.
    """

    gpu: Money
    disks: Disks
    max_seconds: int
    max_spend: Money

    @property
    def hourly(self) -> Money:
        """Running, without the network volume."""
        return self.gpu + self.disks.running

    @property
    def overnight(self) -> Money:
        """Forgotten for a night of ten hours, if nothing ended it."""
        return self.hourly.over(NIGHT_H * HOUR_S)

    @property
    def runs_s(self) -> int:
        """How long it may run at most, by time and by money."""
        paid_s = self.max_spend.lasts_s(self.hourly)
        return self.max_seconds if paid_s is None else min(self.max_seconds, paid_s)

    @property
    def at_most(self) -> Money:
        """What it costs if it runs until its deadline."""
        return self.hourly.over(self.runs_s)
