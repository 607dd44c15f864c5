"""Which slot, or which stored prefix, begins like a prompt.

Pure. Knows the tokens of both, and which stored prefix was used longest ago. Refuses to know when
something is stored, and what else a slot holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.scheduler.actions import adapters_of
from dure.generate.scheduler.prefix_tree import PrefixForest

__all__ = ["PrefixIndex", "Source"]

Source = int | str  # a slot's index, or the key of a stored prefix


class PrefixIndex:
    """Radix trees over the slots and the stored prefixes; the latter in the order of their last use."""

    def __init__(self) -> None:
        self._tree: PrefixForest[Source] = PrefixForest()
        self._stored: dict[str, int] = {}  # key: number of tokens; the least recently used first

    def longest(self, tokens: Sequence[int], adapters: AdapterSet) -> tuple[Source, int] | None:
        """Return a source that begins like `tokens`, and for how many of them; None if none does.

        Of several the latest that was put in.
        """
        return self._tree.longest(tokens, adapters)

    def beginnings(
        self, tokens: Sequence[int], adapters: AdapterSet
    ) -> Iterator[tuple[Source, int]]:
        """Yield every source whose tokens all begin `tokens`, with their number; the shortest first."""
        return self._tree.beginnings(tokens, adapters)

    def length(self, source: Source) -> int:
        """Count the tokens of a source; raises KeyError."""
        return self._tree.length(source)

    # ------------------------------------------------------------ slots

    def put_slot(self, slot: int, tokens: Sequence[int], adapters: AdapterSet) -> None:
        """Let a slot hold tokens, instead of what it held; without any it is not found.

        adapters: what they were computed with; for others they are not found.
        """
        self._tree.put(slot, tokens, adapters)

    def remove_slot(self, slot: int) -> None:
        """Let a slot not be found."""
        self._tree.remove(slot)

    def swap_slots(self, a: int, b: int) -> None:
        """Exchange what two slots hold."""
        nothing: tuple[list[int], AdapterSet] = [], NO_ADAPTERS
        held = {
            slot: (self._tree.tokens(slot), self._tree.adapters(slot))
            for slot in (a, b)
            if slot in self._tree
        }
        self._tree.put(b, *held.get(a, nothing))
        self._tree.put(a, *held.get(b, nothing))

    # ------------------------------------------------------------ stored prefixes

    def put_stored(self, key: str, tokens: Sequence[int]) -> None:
        """Add a stored prefix, or move it to the end, as the most recently used one."""
        self._stored.pop(key, None)
        self._stored[key] = len(tokens)
        self._tree.put(key, tokens, adapters_of(key))

    def touch_stored(self, key: str) -> None:
        """Note that a stored prefix was used now."""
        self._stored[key] = self._stored.pop(key)

    def remove_stored(self, key: str) -> bool:
        """Remove a stored prefix; False if there is none of this key."""
        if self._stored.pop(key, None) is None:
            return False
        self._tree.remove(key)
        return True

    def is_beginning(self, key: str, tokens: Sequence[int]) -> bool:
        """Tell whether tokens begin with a stored prefix."""
        prefix = self._tree.tokens(key)
        return prefix == list(tokens[: len(prefix)])

    @property
    def n_stored(self) -> int:
        """Count the tokens of all stored prefixes."""
        return sum(self._stored.values())

    def least_recently_used(self, spare: str | None) -> str:
        """Return the stored prefix that was used longest ago, but not `spare`."""
        return next(key for key in self._stored if key != spare)
