"""The states that are kept to return to: which beginnings of a prompt they belong to. Pure.

Knows how many there may be. Refuses to know when one is kept, and what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.engine.adapters import AdapterSet
from dure.generate.scheduler.actions import prefix_key
from dure.generate.scheduler.prefix_tree import PrefixForest

__all__ = ["KeptStates"]


class KeptStates:
    """At most n_max states; the least recently used gives way."""

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._tree: PrefixForest[str] = PrefixForest()
        self._used: dict[str, None] = {}  # the least recently used first

    def longest(self, tokens: Sequence[int], adapters: AdapterSet) -> tuple[str, int] | None:
        """Return the state after the longest beginning of `tokens`, and that one's length."""
        found = self._tree.beginnings(tokens, adapters)
        return max(found, key=lambda one: one[1], default=None)

    def use(self, tokens: Sequence[int], adapters: AdapterSet) -> bool:
        """Note that the state after these tokens is used now; False if it is not kept."""
        key = prefix_key(tokens, adapters)
        if key not in self._used:
            return False
        self._used[key] = self._used.pop(key)
        return True

    def keep(self, tokens: Sequence[int], adapters: AdapterSet) -> tuple[str, list[str]]:
        """Keep the state after these tokens; return its key, and those of the states that give way."""
        key = prefix_key(tokens, adapters)
        self._used.pop(key, None)
        self._used[key] = None
        self._tree.put(key, tokens, adapters)
        dropped = list(self._used)[: max(0, len(self._used) - self._n_max)]
        for old in dropped:
            del self._used[old]
            self._tree.remove(old)
        return key, dropped
