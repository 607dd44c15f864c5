"""Which slots are written to the store of prefixes, and what is dropped from it to make room.

Pure. Knows the store's limit. Refuses to know files, and when a slot loses its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.engine.adapters import AdapterSet
from dure.generate.scheduler.actions import Action, DropPrefix, StorePrefix, prefix_key
from dure.generate.scheduler.prefix_index import PrefixIndex
from dure.generate.scheduler.slots import MIN_STORED, CacheSlot, SlotTable

__all__ = ["StorePolicy"]

MOST_ADAPTERS = 12  # that a stored prefix was computed with: its key is the name of a file


class StorePolicy:
    """Decides for a store of n_max tokens. Notes what is stored in the index and in the slots.

    n_adapters: the numbers below mean the same to every engine that has the store; None: all do.
    """

    def __init__(
        self, slots: SlotTable, index: PrefixIndex, n_max: int, n_adapters: int | None = None
    ) -> None:
        self._slots, self._index, self.n_max = slots, index, n_max
        self._n_adapters = n_adapters

    def save(self, slot: CacheSlot, *, n_kept: int = 0, spare: str | None = None) -> list[Action]:
        """Return what stores a slot before all but n_kept of its tokens are lost; nothing if not worth it.

        spare: a prefix that is about to be loaded, and must not be dropped for this one.
        """
        tokens, adapters = slot.tokens, slot.adapters
        n = len(tokens)
        room = self.n_max - (self._index.length(spare) if spare else 0)
        if n > room or n - max(n_kept, slot.n_stored) < MIN_STORED or not self._has_key(adapters):
            return []
        key = prefix_key(tokens, adapters)
        replaced = self._drop_replaced(slot, key, spare)
        self._index.put_stored(key, tokens)
        self._index.put_slot(
            slot.index, tokens, adapters
        )  # found before the stored one: nothing to load
        slot.n_stored, slot.stored_key = n, key
        return [StorePrefix(slot.index, key, tuple(tokens)), *replaced, *self._drop_oldest(spare)]

    def _has_key(self, adapters: AdapterSet) -> bool:
        if len(adapters) > MOST_ADAPTERS:
            return False
        return self._n_adapters is None or all(n < self._n_adapters for n, _ in adapters)

    def add(self, key: str, tokens: Sequence[int]) -> list[Action]:
        """Note what an engine before this one stored; return what makes room for it."""
        self._index.put_stored(key, tokens)
        return self._drop_oldest()

    def drop(self, key: str) -> list[Action]:
        """Forget a stored prefix; return what deletes it, which is nothing if there is none."""
        if not self._index.remove_stored(key):
            return []
        for slot in self._slots:
            if slot.stored_key == key:
                slot.unlink_stored()
        return [DropPrefix(key)]

    def _drop_replaced(self, slot: CacheSlot, key: str, spare: str | None) -> list[Action]:
        """Drop what was stored of a slot before, if it only is the beginning of what it holds now."""
        before = slot.stored_key
        if before in {"", key, spare} or not self._index.is_beginning(before, slot.tokens):
            return []
        return self.drop(before)

    def _drop_oldest(self, spare: str | None = None) -> list[Action]:
        drops: list[Action] = []
        while self._index.n_stored > self.n_max:
            drops += self.drop(self._index.least_recently_used(spare))
        return drops
