"""The prefix cache: which cached tokens a request reuses, and how they come into its slot.

Pure. Knows what slots and the store hold. Refuses to know the order of requests and what a step computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.engine.kv import Copy, Forget
from dure.generate.request import Request
from dure.generate.scheduler.actions import Action, LoadPrefix
from dure.generate.scheduler.prefix_index import PrefixIndex, Source
from dure.generate.scheduler.prefix_tree import common_length
from dure.generate.scheduler.running import RunningRequest
from dure.generate.scheduler.slots import MIN_STORED, CacheSlot, SlotTable
from dure.generate.scheduler.store_policy import StorePolicy

__all__ = ["MIN_COPIED", "PrefixCache", "may_reuse"]

MIN_COPIED = 16  # fewer cached tokens than this are computed again sooner than copied


def may_reuse(request: Request) -> bool:
    """Tell whether cached tokens serve a request; an embedding needs the hidden states of all."""
    return request.cache_prompt and not request.embed


class PrefixCache:
    """What idle slots hold, what running prompts have computed, and what is stored.

    can_forget: see SchedulerLimits; without it only a whole sequence can be reused.
    """

    def __init__(self, slots: SlotTable, *, store_tokens: int, can_forget: bool) -> None:
        self._slots, self._can_forget = slots, can_forget
        self._index = PrefixIndex()
        self.store = StorePolicy(slots, self._index, store_tokens)
        self.n_queries = 0  # tokens that were looked up
        self.n_hits = 0  # of these, found

    def is_being_computed(self, request: Request) -> bool:
        """Tell whether a running prompt begins so much alike that waiting for it and copying is better."""
        if not may_reuse(request) or not self._can_forget:
            return False
        cached = self._index.longest(request.prompt)
        n_worth = (cached[1] if cached else 0) + MIN_STORED
        return any(
            running.in_prefill
            and running.request.cache_prompt
            and common_length(running.tokens, request.prompt) >= n_worth
            for running in self._slots.running
        )

    def place(self, request: Request, tokens: list[int]) -> tuple[CacheSlot, int, list[Action]]:
        """Choose a slot for a request; how many of its tokens it then holds, and what brings them there."""
        source, n = self._find(request, tokens)
        slot = self._slots.choose(source if isinstance(source, int) else None, n)
        if slot.index != source and n < MIN_COPIED:
            source, n = None, 0
        actions = self._fill(slot, source, n)
        slot.held = tokens[:n]
        slot.n_stored = min(slot.n_stored, n)
        self._index.put_slot(slot.index, slot.held)
        self.n_queries += len(tokens)
        self.n_hits += n
        return slot, n, actions

    def _find(self, request: Request, tokens: Sequence[int]) -> tuple[Source | None, int]:
        """Return the source with the longest prefix of a prompt, and its length.

        The last token is computed in any case: its logits are needed.
        """
        found = self._index.longest(tokens) if may_reuse(request) else None
        if found is None:
            return None, 0
        source, n = found[0], min(found[1], len(tokens) - 1)
        is_usable = self._can_forget or n == self._n_held_by(source)
        return (source, n) if is_usable else (None, 0)

    def _n_held_by(self, source: Source) -> int:
        """Count a source's tokens; a running request has more of them than its index entry."""
        running = self._slots[source].running if isinstance(source, int) else None
        return running.n_cached if running else self._index.length(source)

    def _fill(self, slot: CacheSlot, source: Source | None, n: int) -> list[Action]:
        """Return what makes a slot hold the first n tokens of its source, and nothing else."""
        if source == slot.index:
            has_more = len(slot.held) > n
            return [*self.store.save(slot, n_kept=n), Forget(slot.index, n)] if has_more else []
        actions = self.store.save(slot, spare=source if isinstance(source, str) else None)
        if slot.held:
            actions.append(Forget(slot.index, 0))
        slot.unlink_stored()
        match source:
            case int():
                actions.append(Copy(source, slot.index, n))
            case str():
                actions.append(LoadPrefix(source, slot.index, self._index.length(source), n))
                slot.n_stored, slot.stored_key = n, source
                self._index.touch_stored(source)
        return actions

    def lose(self, running: RunningRequest) -> list[Action]:
        """Forget the tokens that a request was to reuse; return what deletes them from the store."""
        slot = self._slots[running.slot]
        drops = self.store.drop(slot.stored_key) if slot.stored_key else []
        slot.unlink_stored()
        self.n_hits -= running.n_reused
        running.n_cached = running.n_reused = 0
        slot.held = []
        self._index.remove_slot(slot.index)
        return drops

    def put_prompt(self, running: RunningRequest) -> None:
        """Let others reuse a prompt that is computed, if its request allows that."""
        if running.request.cache_prompt:
            self._index.put_slot(running.slot, running.tokens)

    def release(self, slot: CacheSlot, running: RunningRequest) -> list[Action]:
        """Let a slot hold what its request left behind, or return what clears it."""
        slot.running = None
        slot.held = running.tokens[: running.n_cached]
        if running.request.cache_prompt:
            self._index.put_slot(slot.index, slot.held)
            return []
        slot.held = []
        slot.unlink_stored()
        self._index.remove_slot(slot.index)
        return [Forget(slot.index, 0)] if running.n_cached else []

    def swap(self, a: int, b: int) -> None:
        """Let two slots change places, with all that is in them."""
        self._slots.swap(a, b)
        self._index.swap_slots(a, b)
