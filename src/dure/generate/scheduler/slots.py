"""The slots: each is one sequence of the KV cache, which holds a request or what one left behind.

Pure. Knows which tokens every slot holds, and which slot a request should take.
Refuses to know how the tokens come there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.scheduler.running import RunningRequest

__all__ = ["MIN_STORED", "CacheSlot", "SlotTable"]

MIN_STORED = 64  # fewer tokens than this are not worth storing or waiting for


@dataclass
class CacheSlot:
    """One sequence of the KV cache.

    held: its tokens while no request runs in it. n_stored: how many of its tokens are stored as well, as
    the prefix stored_key. last_used: the number of its last admission. lowest: the shortest length that it
    can be cut back to. adapters: what its tokens were computed with.
    """

    index: int
    held: list[int] = field(default_factory=list)
    running: RunningRequest | None = None
    n_stored: int = 0
    stored_key: str = ""
    last_used: int = 0
    lowest: int = 0
    adapters: AdapterSet = NO_ADAPTERS

    @property
    def tokens(self) -> list[int]:
        """The tokens in it."""
        return self.running.tokens[: self.running.n_cached] if self.running else self.held

    @property
    def n_held(self) -> int:
        """Count the tokens in it."""
        return self.running.n_cached if self.running else len(self.held)

    def unlink_stored(self) -> None:
        """Note that no token of it is stored."""
        self.n_stored, self.stored_key = 0, ""


class SlotTable:
    """All slots, by their index."""

    def __init__(self, n_slots: int) -> None:
        self._slots = [CacheSlot(index) for index in range(n_slots)]

    def __getitem__(self, index: int) -> CacheSlot:
        return self._slots[index]

    def __iter__(self) -> Iterator[CacheSlot]:
        return iter(self._slots)

    @property
    def running(self) -> list[RunningRequest]:
        """The requests that run, in the order of their slots."""
        return [slot.running for slot in self._slots if slot.running is not None]

    @property
    def idle(self) -> list[CacheSlot]:
        """The slots that no request runs in."""
        return [slot for slot in self._slots if slot.running is None]

    def choose(self, source: int | None, n: int) -> CacheSlot:
        """Choose an idle slot for a request whose first n tokens are in slot `source`, if that is not None.

        It is the source itself if little more than these tokens would be lost there; else an empty slot,
        or the one that was used longest ago.
        """
        candidates = self.idle
        if source is not None:
            slot = self._slots[source]
            n_lost = len(slot.held) - n
            if slot.running is None and (len(candidates) == 1 or n_lost < max(n, MIN_STORED)):
                return slot
            candidates = [other for other in candidates if other is not slot] or candidates
        return min(candidates, key=lambda slot: (bool(slot.held), slot.last_used, slot.index))

    def swap(self, a: int, b: int) -> None:
        """Let two slots change places, with the requests that run in them."""
        self._slots[a], self._slots[b] = self._slots[b], self._slots[a]
        for index in (a, b):
            slot = self._slots[index]
            slot.index = index
            if slot.running is not None:
                slot.running.slot = index
