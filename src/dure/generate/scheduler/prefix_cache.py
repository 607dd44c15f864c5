"""The prefix cache: which cached tokens a request reuses, and how they come into its slot.

Pure. Knows what slots and the store hold. Refuses to know the order of requests and what a step computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.engine.adapters import AdapterSet
from dure.engine.kv import Copy, DropState, Forget, KeepState, RestoreState
from dure.generate.request import Request
from dure.generate.scheduler.actions import Action, LoadPrefix
from dure.generate.scheduler.kept_states import KeptStates
from dure.generate.scheduler.prefix_index import PrefixIndex, Source
from dure.generate.scheduler.prefix_tree import common_length
from dure.generate.scheduler.reach import Reach
from dure.generate.scheduler.running import RunningRequest
from dure.generate.scheduler.slots import MIN_STORED, CacheSlot, SlotTable
from dure.generate.scheduler.store_policy import StorePolicy

__all__ = ["MIN_COPIED", "PrefixCache", "may_reuse"]

MIN_COPIED = 16  # fewer cached tokens than this are computed again sooner than copied


def may_reuse(request: Request) -> bool:
    """Tell whether cached tokens serve a request; not if something of each is asked for."""
    return request.cache_prompt and not (request.embed or request.reads_prompt)


@dataclass(frozen=True)
class _Reuse:
    """The first n tokens of a source. state: the kept state after them, if they need one."""

    source: Source | None = None
    n: int = 0
    state: str = ""


class PrefixCache:
    """What idle slots hold, what running prompts have computed, and what is stored.

    reach: how far a sequence can be cut back. n_states: states that may be kept to return to, where it
    cannot be cut back. n_adapters: see StorePolicy.
    """

    def __init__(
        self,
        slots: SlotTable,
        *,
        store_tokens: int,
        reach: Reach,
        n_states: int = 0,
        n_adapters: int | None = None,
    ) -> None:
        self._slots, self._reach, self._n_states = slots, reach, n_states
        self._index = PrefixIndex()
        self._states = KeptStates(n_states)
        self.store = StorePolicy(slots, self._index, store_tokens, n_adapters)
        self.n_queries = 0  # tokens that were looked up
        self.n_hits = 0  # of these, found

    def is_being_computed(self, request: Request) -> bool:
        """Tell whether a running prompt begins so much alike that waiting for it and copying is better."""
        if not may_reuse(request):
            return False
        n_worth = self._find(request, request.prompt).n + MIN_STORED
        return any(
            running.in_prefill
            and running.request.cache_prompt
            and running.request.adapters == request.adapters
            and self._n_to_copy(running, request.prompt) >= n_worth
            for running in self._slots.running
        )

    def _n_to_copy(self, running: RunningRequest, prompt: Sequence[int]) -> int:
        """Count the tokens of a running prompt that another one can copy when it is computed."""
        n = common_length(running.tokens, prompt)
        if self._reach.is_unlimited:
            return n
        return max((stop for stop in running.stops if stop <= n), default=0)

    def place(self, request: Request, tokens: list[int]) -> tuple[CacheSlot, int, list[Action]]:
        """Choose a slot for a request; how many of its tokens it then holds, and what brings them there."""
        reuse = self._find(request, tokens)
        source = reuse.source
        slot = self._slots.choose(source if isinstance(source, int) else None, reuse.n)
        if slot.index != source and reuse.n < MIN_COPIED:
            reuse = _Reuse()
        actions = self._fill(slot, reuse)
        n, slot.adapters = reuse.n, request.adapters
        slot.held = tokens[:n]
        slot.n_stored = min(slot.n_stored, n)
        self._index.put_slot(slot.index, slot.held, slot.adapters)
        self.n_queries += len(tokens)
        self.n_hits += n
        return slot, n, actions

    def _find(self, request: Request, tokens: Sequence[int]) -> _Reuse:
        """Return the longest prefix of a prompt that can be reused.

        The last token is computed in any case: its logits are needed.
        """
        adapters = request.adapters
        found = self._index.longest(tokens, adapters) if may_reuse(request) else None
        if found is None:
            return _Reuse()
        source, n = found[0], min(found[1], len(tokens) - 1)
        if n >= self._lowest(source):
            return _Reuse(source, n)
        best = self._whole(tokens[:n], adapters)
        state = self._states.longest(tokens[:n], adapters)
        if state is not None and state[1] > best.n:
            best = _Reuse(source, state[1], state[0])
        return best

    def _whole(self, tokens: Sequence[int], adapters: AdapterSet) -> _Reuse:
        """Return the longest source that holds a beginning of these tokens, and nothing else."""
        best = _Reuse()
        for source, n in self._index.beginnings(tokens, adapters):
            if n == self._n_held_by(source):
                best = _Reuse(source, n)
        return best

    def _lowest(self, source: Source) -> int:
        """Return the shortest length that a source can be cut back to."""
        if isinstance(source, int):
            running, lowest = self._slots[source].running, self._slots[source].lowest
            if running and running.n_unverified and not self._reach.is_unlimited:
                return self._n_held_by(
                    source
                )  # moved now, it could not be cut back to before drafts
            return lowest
        return self._reach.after_move(self._index.length(source))

    def _n_held_by(self, source: Source) -> int:
        """Count a source's tokens; a running request has more of them than its index entry."""
        running = self._slots[source].running if isinstance(source, int) else None
        return running.n_cached + running.n_unverified if running else self._index.length(source)

    def _fill(self, slot: CacheSlot, reuse: _Reuse) -> list[Action]:
        """Return what makes a slot hold the first tokens of its source, and nothing else."""
        source, n = reuse.source, reuse.n
        if source == slot.index:
            return self._cut_back(slot, reuse)
        actions = self.store.save(slot, spare=source if isinstance(source, str) else None)
        if slot.held:
            actions.append(Forget(slot.index, 0))
        slot.unlink_stored()
        slot.lowest = self._reach.after_move(n)
        match source:
            case int():
                actions += self._copied(self._slots[source], slot, reuse)
            case str():
                n_stored = self._index.length(source)
                actions.append(LoadPrefix(source, slot.index, n_stored, n, reuse.state))
                slot.n_stored, slot.stored_key = n, source
                self._index.touch_stored(source)
        return actions

    def _cut_back(self, slot: CacheSlot, reuse: _Reuse) -> list[Action]:
        if len(slot.held) == reuse.n:
            return []
        saved = self.store.save(slot, n_kept=reuse.n)
        if reuse.state:
            slot.lowest = self._reach.after_move(reuse.n)
            return [*saved, RestoreState(slot.index, reuse.state, reuse.n)]
        slot.lowest = min(slot.lowest, reuse.n)
        return [*saved, Forget(slot.index, reuse.n)]

    def _copied(self, source: CacheSlot, slot: CacheSlot, reuse: _Reuse) -> list[Action]:
        if reuse.state:
            restore = RestoreState(slot.index, reuse.state, reuse.n)
            return [Copy(source.index, slot.index), restore]
        source.lowest = max(source.lowest, self._reach.after_move(source.n_held))
        return [Copy(source.index, slot.index, reuse.n)]

    # ------------------------------------------------------------ states to return to

    def stops(self, request: Request, n: int) -> list[int]:
        """Return the lengths at which to keep a prompt's state, of which n tokens are reused."""
        if not self._n_states or not may_reuse(request):
            return []
        stops = []
        for point in request.return_points or (len(request.prompt) - 1,):
            is_kept = self._states.use(request.prompt[:point], request.adapters)
            if not is_kept and n + MIN_STORED <= point < len(request.prompt):
                stops.append(point)
                n = point
        return stops

    def computed(self, running: RunningRequest, start: int, stop: int) -> list[Action]:
        """Note that a step has computed a request's tokens from start to stop, rejected drafts included.

        Return what keeps its state, if it is to be kept here.
        """
        slot = self._slots[running.slot]
        slot.lowest = self._reach.after_step(slot.lowest, start, stop)
        if running.stops[:1] != [running.n_cached]:
            return []
        running.stops.pop(0)
        tokens = running.tokens[: running.n_cached]
        self._index.put_slot(slot.index, tokens, slot.adapters)
        key, dropped = self._states.keep(tokens, slot.adapters)
        return [KeepState(slot.index, key), *map(DropState, dropped)]

    def lose(self, running: RunningRequest) -> list[Action]:
        """Forget the tokens that a request was to reuse; return what deletes them from the store."""
        slot = self._slots[running.slot]
        drops = self.store.drop(slot.stored_key) if slot.stored_key else []
        slot.unlink_stored()
        self.n_hits -= running.n_reused
        running.n_cached = running.n_reused = 0
        running.stops = self.stops(running.request, 0)
        slot.held, slot.lowest = [], 0
        self._index.remove_slot(slot.index)
        return drops

    def put_prompt(self, running: RunningRequest) -> None:
        """Let others reuse a prompt that is computed, if its request allows that."""
        if running.request.cache_prompt:
            self._index.put_slot(running.slot, running.tokens, running.request.adapters)

    def release(self, slot: CacheSlot, running: RunningRequest) -> list[Action]:
        """Let a slot hold what its request left behind, or return what clears it."""
        slot.running = None
        slot.held = running.tokens[: running.n_cached]
        if running.request.cache_prompt:
            self._index.put_slot(slot.index, slot.held, slot.adapters)
            return []
        slot.held, slot.lowest = [], 0
        slot.unlink_stored()
        self._index.remove_slot(slot.index)
        return [Forget(slot.index, 0)] if running.n_cached else []

    def swap(self, a: int, b: int) -> None:
        """Let two slots change places, with all that is in them."""
        self._slots.swap(a, b)
        self._index.swap_slots(a, b)
        for slot in (self._slots[a], self._slots[b]):
            slot.lowest = max(slot.lowest, self._reach.after_move(slot.n_held))
