"""The places of an upstream: which answers hold one, and when the next is free. Pure.

Refuses to know clocks: times are seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Places"]

_LATE = 0.1  # of its time is what an answer is thought to need still, if it is late


class Places:
    """Answers that are under way, and when each is expected to end."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def take(self, name: Hashable, begin_s: float, answer_s: float) -> None:
        """Note an answer that is expected to begin then and to take so long."""
        self._under_way[name] = (begin_s + answer_s, answer_s)

    def leave(self, name: Hashable) -> None:
        """Note that an answer has ended."""
        self._under_way.pop(name, None)

    def turn_s(self, now_s: float, parallel: int, n_others: int, other_s: float) -> float:
        """Return how long another request waits for a place.

        parallel: places. n_others: requests of other clients, which take other_s each, and of which
        nothing else is known.
        """
        ends = [max(end_s - now_s, _LATE * all_s) for end_s, all_s in self._under_way.values()]
        ends += [other_s * (1 + n // parallel) for n in range(n_others)]
        n_ahead = len(ends) - parallel
        return sorted(ends)[n_ahead] if n_ahead >= 0 else 0.0
