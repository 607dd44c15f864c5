"""The levers of a cluster's latency: which settings may make it quicker, on which of its machines. Pure.

Each is one that a check would change, or one of which nobody can say beforehand whether it helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dure.doctor.checks import CHECKS
from dure.doctor.finding import SettingValue
from dure.hardware.examination.condition import Condition

__all__ = ["Lever", "levers_of"]

_OF_CHECKS = {
    "governor": "a clock that is always high",
    "gathered-packets": "packets delivered at once (GRO off)",
    "coalescing": "packets reported at once (no coalescing)",
    "sleeping-link": "links that never sleep (EEE off)",
    "mtu": "packets of the usual size (MTU 1500)",
}
_POLL_US = (
    "50"  # as the kernel's own documentation proposes (Documentation/admin-guide/sysctl/net.rst)
)
_MOST_URGENT = "6"  # of what a program without privileges may choose (socket(7))
_POLLING = ("file:/proc/sys/net/core/busy_read", "file:/proc/sys/net/core/busy_poll")


@dataclass(frozen=True)
class Lever:
    """Settings that are changed together. settings: by machine. what: they bring, for a person.

    restarts: ranks take it over when they start, so a model must be started anew to see it.
    """

    name: str
    what: str
    settings: Mapping[str, tuple[SettingValue, ...]]
    restarts: bool = False


def levers_of(conditions: Mapping[str, Condition], *, with_model: bool = False) -> list[Lever]:
    """Return the levers that machines have, and that are not pulled yet. conditions: by machine.

    with_model: those too that only a model's ranks can show. They come last, as a start undoes them last.
    """
    levers = [
        *(_of_check(name, what, conditions) for name, what in _OF_CHECKS.items()),
        Lever("busy-polling", "waiting awake for packets (busy polling)", {
            name: tuple(SettingValue(one, _POLL_US) for one in _POLLING)
            for name, condition in conditions.items()
            if condition.busy_poll_us == 0
        }),
        Lever("affinity", "interrupts of the network on the last core", {
            name: settings
            for name, condition in conditions.items()
            if (settings := tuple(_on_last_core(condition)))
        }),
        Lever("priority", "packets between ranks before others (SO_PRIORITY)", {
            name: (SettingValue("ranks:priority", _MOST_URGENT),)
            for name, condition in conditions.items()
            if condition.rank_priority == 0 and with_model
        }, restarts=True),
    ]  # fmt: skip
    return [lever for lever in levers if lever.settings]


def _of_check(name: str, what: str, conditions: Mapping[str, Condition]) -> Lever:
    check = next(one for one in CHECKS if one.name == name)
    settings = {
        machine: fix
        for machine, condition in conditions.items()
        if (fix := tuple(v for one in check.findings(condition) for v in one.fix))
    }
    return Lever(name, what, settings)


def _on_last_core(condition: Condition) -> Iterator[SettingValue]:
    """Yield what moves the network's interrupts to the last core; the first ones compute for all."""
    last = max((one.cpu for one in condition.interrupts), default=0)
    numbers = {number for device in condition.devices for number in device.interrupts}
    if last > 0:
        for number in sorted(numbers):
            yield SettingValue(f"file:/proc/irq/{number}/smp_affinity_list", str(last))
