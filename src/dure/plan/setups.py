"""A setup: machines of the catalogue and what connects them, as people write them: pi5-8gb:4,n150.

Knows what a setup costs. Refuses to know models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dure.errors import UsageError
from dure.plan.devices import Device, EngineWays, NetworkLink
from dure.plan.machines import device_named, engine_named, link_named

__all__ = ["Setup", "counted", "setup_of"]

_NODE = re.compile(r"([a-z0-9][a-z0-9.-]*)(?::(\d+))?", re.IGNORECASE)
_MOST_NODES = 64
_KWH = 3.6e6  # joules
_MILLION = 1e6


@dataclass(frozen=True)
class Setup:
    """Machines, the root's first, by the names that they have here, and the link between them."""

    names: tuple[str, ...]
    devices: tuple[Device, ...]
    link: NetworkLink
    engine: EngineWays

    @property
    def title(self) -> str:
        """Return what it is, as in "4 x Raspberry Pi 5, 8 GB"."""
        counts = Counter(device.title for device in self.devices)
        return " and ".join(f"{n} x {title}" if n > 1 else title for title, n in counts.items())

    @property
    def price(self) -> float:
        """Return the dollars to buy it, with a switch if there are several."""
        return sum(one.price.value for one in self.devices if one.price) + self.switch_price

    @property
    def switch_price(self) -> float:
        """Return the dollars for what connects them: switches as large as one needs."""
        n, link = len(self.devices), self.link
        if n < 2 or link.switch is None:
            return 0.0
        return math.ceil((n - 1) / (link.ports - 1)) * link.switch.value

    @property
    def watts(self) -> float:
        """Return what all of it draws under load."""
        return sum(one.watts.value for one in self.devices)

    @property
    def hourly(self) -> float:
        """Return the rent of an hour, in dollars."""
        return sum(one.hourly.value for one in self.devices if one.hourly)

    def cost_per_million(self, tokens_per_s: float, kwh_price: float) -> float:
        """Return the dollars for a million tokens: of power and rent, without what it cost to buy."""
        return self.cost_per_hour(kwh_price) / 3600 / tokens_per_s * _MILLION

    def cost_per_hour(self, kwh_price: float) -> float:
        """Return the dollars of an hour under load: of power and rent."""
        return self.watts * 3600 / _KWH * kwh_price + self.hourly

    def with_one_more(self) -> Setup:
        """Return the setup with another machine like its last."""
        return Setup(
            (*self.names, self.names[-1]),
            (*self.devices, self.devices[-1]),
            self.link,
            self.engine,
        )


def counted(option: str, text: str) -> Mapping[str, int]:
    """Return how many there are of each machine in a text like pi5-8gb:4,n150. Raises UsageError."""
    found: dict[str, int] = {}
    for word in text.split(","):
        match = _NODE.fullmatch(word.strip())
        n = int(match[2] or 1) if match else 0
        if not match or not n:
            raise UsageError(f"{option} {text}", "give machines and their numbers, as in pi5-8gb:4")
        device_named(match[1])
        found[match[1].lower()] = found.get(match[1].lower(), 0) + n
    if sum(found.values()) > _MOST_NODES:
        raise UsageError(f"{option} {text}", f"give at most {_MOST_NODES} machines")
    return found


def setup_of(counts: Mapping[str, int], link: str | None = None) -> Setup:
    """Return a setup of so many of each machine, the first of which is the root.

    link: by its name; None: the slowest that the machines have. Raises UsageError if they cannot work
    together.
    """
    names = [name for name, n in counts.items() for _ in range(n)]
    found = [device_named(name) for name in names]
    engines = {one.engine for one in found}
    if len(found) > 1 and engines != {"dure"}:
        alone = next(one for one in found if one.engine != "dure")
        raise UsageError(
            f"{alone.title} runs {alone.engine}, which works on one machine alone",
            "plan for it without others",
        )
    return Setup(tuple(names), tuple(found), _link(found, link), engine_named(found[0].engine))


def _link(found: Sequence[Device], link: str | None) -> NetworkLink:
    if link is not None:
        return link_named(link)
    return min((link_named(one.link) for one in found), key=lambda one: one.bytes_per_s.value)
