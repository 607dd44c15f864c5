"""The policy: which requests run, in which slots, and what the next step computes.

Pure: values in, values out; no clock, no I/O, no model. It learns what happened, and says what to do:

- `add`, `cancel`: requests come and go;
- `admit`: waiting requests get a slot, with as much of their prompt as is cached somewhere; an answer of an
  owner that has more than its share pauses for another's, and goes on when it is its turn;
- `chosen`: the next tokens of an answer are known, that no step could have before;
- `next_step`: one token of every running answer, and a chunk of the prompts;
- `advance`, `append`, `verify`, `finish`: what became of the step;
- `due`, `make_neighbours`, `store`, `store_idle`: what must be done to the KV cache and to the store.

A slot keeps its tokens when its request ends: they are the prefix cache, found through a radix tree.
What is pushed out of a slot is stored outside of the KV cache; the least recently used is dropped first.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from dure.engine.kv import Forget, Swap
from dure.errors import UsageError, context_error
from dure.generate.request import OwnerStats, Request
from dure.generate.scheduler.actions import Action
from dure.generate.scheduler.budget import PrefillLimits, divided_step
from dure.generate.scheduler.neighbours import swaps_to_neighbours
from dure.generate.scheduler.prefix_cache import PrefixCache, may_reuse
from dure.generate.scheduler.queue import WaitingQueue
from dure.generate.scheduler.reach import Reach
from dure.generate.scheduler.running import RunningRequest, StepTokens, next_tokens
from dure.generate.scheduler.shares import Shares, to_pause
from dure.generate.scheduler.slots import SlotTable
from dure.generate.scheduler.turns import AdapterTurns

__all__ = ["Scheduler", "SchedulerLimits"]


@dataclass(frozen=True)
class SchedulerLimits:
    """What the engine allows.

    n_slots: requests that run at once, each in a sequence of n_ctx positions. n_batch: tokens of a step.
    store_tokens: how many tokens may be stored outside of the KV cache.
    can_forget: the last tokens of a sequence can be removed from the KV cache.
    pass_tokens: how many tokens move to another slot in the time of one pass over the weights.
    n_window: some layers keep only that many positions of a sequence; 0: all layers keep all.
    n_states: how many states may be kept, to return to where a sequence cannot be cut back.
    stored_adapters: how many adapters' numbers mean the same to every engine that has the store; None: all.
    """

    n_slots: int
    n_ctx: int
    n_batch: int
    store_tokens: int = 0
    can_forget: bool = True
    pass_tokens: int = 0
    n_window: int = 0
    n_states: int = 0
    stored_adapters: int | None = None


class Scheduler:
    """The state of all requests, and the decisions about them."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.shares = Shares()
        self._queue = WaitingQueue(self.shares)
        self._slots = SlotTable(limits.n_slots)
        self._reach = Reach(limits.can_forget, limits.n_window)
        self._cache = PrefixCache(
            self._slots,
            store_tokens=limits.store_tokens,
            reach=self._reach,
            n_states=limits.n_states,
            n_adapters=limits.stored_adapters,
        )
        self._due: list[Action] = []
        self._answers_waited = False  # in the last step
        self._turns = AdapterTurns()

    # ------------------------------------------------------------ figures

    @property
    def running(self) -> list[RunningRequest]:
        """The requests that have a slot, in the order of the slots."""
        return self._slots.running

    @property
    def n_waiting(self) -> int:
        """Count the requests without a slot."""
        return len(self._queue)

    @property
    def n_held(self) -> int:
        """Count the slots that hold tokens."""
        return sum(bool(slot.held) or slot.running is not None for slot in self._slots)

    @property
    def kv_used(self) -> int:
        """Count the positions of the KV cache that running requests use."""
        return sum(running.n_cached for running in self.running)

    @property
    def kv_kept(self) -> int:
        """Count the positions of the KV cache that are kept in case a prompt begins alike."""
        return sum(len(slot.held) for slot in self._slots.idle)

    @property
    def cache_queries(self) -> int:
        """Count the prompt tokens that were looked up in the prefix cache."""
        return self._cache.n_queries

    @property
    def cache_hits(self) -> int:
        """Count those that were found there."""
        return self._cache.n_hits

    def owner_stats(self) -> tuple[OwnerStats, ...]:
        """Return the figures of every owner that has had tokens, or waits for them."""
        return self.shares.stats([r.request for r in self.running], self._queue)

    # ------------------------------------------------------------ requests come and go

    def add(self, request: Request) -> None:
        """Let a request wait. Raises ContextError if it can never fit, UsageError if it is empty."""
        n = len(request.prompt)
        if not n:
            raise UsageError("the prompt is empty", "give some text")
        if n >= self.limits.n_ctx:
            raise context_error(n, self.limits.n_ctx)
        present = [*self._queue.owners, *(running.request.owner for running in self.running)]
        self.shares.arrive(request.owner, present)
        self._queue.add(request)

    def cancel(self, request_id: str) -> RunningRequest | Request | None:
        """End a request, waiting or running, and return it; None if it is neither."""
        for running in self.running:
            if running.request.id == request_id:
                self.finish(running)
                return running
        return self._queue.cancel(request_id)

    def due(self) -> list[Action]:
        """Return what must be done before anything else, and was not returned before."""
        due, self._due = self._due, []
        return due

    # ------------------------------------------------------------ admission

    def admit(self, late: Container[str] = ()) -> Iterator[tuple[RunningRequest, list[Action]]]:
        """Give slots to waiting requests; the actions of each must be done before the next.

        late: see `to_pause`.
        """
        while (request := self._next(late)) is not None:
            yield self._admit_one(request)

    def _next(self, late: Container[str]) -> Request | None:
        """Return the next request, with an idle slot for it; None if there is none, or no slot."""
        if not self._queue:
            return None
        running, has_room = self.running, bool(self._slots.idle)
        claimants = self._queue.first(
            [r.request for r in running], must_wait=self._cache.is_being_computed
        )
        for request in claimants:
            if has_room:
                return request
            if (paused := to_pause(request, running, self.shares, late)) is not None:
                self._pause(paused)
                return request
        return None

    def _pause(self, running: RunningRequest) -> None:
        """Let a running request wait again; it goes on after its answer so far."""
        self.finish(running)
        running.slot = -1
        self.shares.pauses[running.request.owner.name] += 1
        self._queue.put_back(running)

    def chosen(self, running: RunningRequest) -> None:
        """Go on with a request whose tokens were chosen, and which may have been paused meanwhile."""
        running.is_choosing = False
        if running.slot < 0 and self._queue.cancel(running.request.id) is not None:
            self._queue.put_back(running)

    def _admit_one(self, request: Request) -> tuple[RunningRequest, list[Action]]:
        self._queue.take(request)
        tokens = [*request.prompt, *request.answered]
        slot, n, actions = self._cache.place(request, tokens)
        slot.last_used = turn = self._queue.n_admitted
        stops = self._cache.stops(request, n)
        slot.running = RunningRequest(request, slot.index, tokens, n, n, turn=turn, stops=stops)
        return slot.running, [*self.due(), *actions]

    def recompute(self, running: RunningRequest) -> None:
        """Let a request compute all of its tokens: those to copy or to load were not there."""
        self._due += self._cache.lose(running)

    def make_neighbours(self) -> list[Swap]:
        """Return what brings the running slots next to each other, if that pays soon."""
        if any(r.n_unverified for r in self.running) and not self._reach.is_unlimited:
            return []  # once moved, they could not be cut back to before their drafts
        running = [r.slot for r in self.running if not r.request.embed]
        swaps = swaps_to_neighbours(
            running, self.limits.n_slots, lambda n: self._slots[n].n_held, self.limits.pass_tokens
        )
        for a, b in swaps:
            self._cache.swap(a, b)
        return [Swap(a, b) for a, b in swaps]

    # ------------------------------------------------------------ the store

    def add_stored(self, key: str, tokens: Sequence[int]) -> None:
        """Take in what the store held from before, the least recently used first."""
        self._due += self._cache.store.add(key, tokens)

    def store_failed(self, key: str) -> None:
        """Forget a prefix that could not be stored."""
        self._cache.store.drop(key)

    def store_idle(self) -> Iterator[Action]:
        """Yield what stores every idle slot; each action must be done before the next.

        So what could not be stored (`store_failed`) is not dropped to make room for the next.
        """
        for slot in self._slots.idle:
            yield from self._cache.store.save(slot)

    def store(self, running: RunningRequest) -> list[Action]:
        """Return what stores the tokens of a request that goes on."""
        return self._cache.store.save(self._slots[running.slot])

    def n_unstored(self, running: RunningRequest) -> int:
        """Count the tokens of a request that would be lost with the KV cache, and could be stored."""
        is_whole = may_reuse(running.request) and not running.n_unverified
        can_be_stored = is_whole and self.limits.store_tokens
        return running.n_cached - self._slots[running.slot].n_stored if can_be_stored else 0

    # ------------------------------------------------------------ steps

    def next_step(self, limits: PrefillLimits) -> list[StepTokens]:
        """Return the next step's tokens, in the order of their slots; all with the same adapters.

        It is filled with prompts if no answer runs, or if all that run skip it, which they never do twice
        in a row.
        """
        in_steps = [r for r in self.running if r.in_steps]
        running = self._turns.next(in_steps)
        decodes = [next_tokens(r, 1) for r in running if not r.in_prefill]
        prefills = [r for r in running if r.in_prefill]
        n_batch, clock, may_wait = self.limits.n_batch, self.shares.clock, not self._answers_waited
        if not decodes and not all(r.in_prefill for r in in_steps):  # answers wait for their turn
            n_batch = min(n_batch, max(1, limits.n_chunk))
        step, self._answers_waited = divided_step(
            decodes, prefills, n_batch, limits, clock, may_wait=may_wait
        )
        return sorted(step, key=lambda tokens: tokens.running.slot)

    def advance(self, step: Sequence[StepTokens]) -> None:
        """Count a step's tokens as computed; its drafts are in the KV cache too, but do not count yet."""
        n_prefill = sum(len(s.tokens) for s in step if s.running.in_prefill)
        n_computed = {id(s.running): len(s.tokens) for s in step}
        for running in self.running:
            if running.in_prefill:
                running.n_skipped += n_prefill - n_computed.get(id(running), 0)
        for s in step:
            was_prefill = s.running.in_prefill
            s.running.n_cached += len(s.tokens)
            self._charge(s, is_prefill=was_prefill)
            s.running.n_unverified = len(s.drafts)
            self._due += self._cache.computed(s.running, s.start, s.stop)
            if was_prefill and not s.running.in_prefill:
                self._cache.put_prompt(s.running)

    def _charge(self, step: StepTokens, *, is_prefill: bool) -> None:
        """Count a step for its owner, except for what a pause makes it compute once more."""
        request, n = step.running.request, step.n_tokens
        self.shares.prompt_tokens[request.owner.name] += n if is_prefill else 0
        if not (is_prefill and request.answered):
            step.running.n_computed += n
            self.shares.charge(request.owner, n)

    def append(self, running: RunningRequest, token: int, *, in_cache: bool = False) -> bool:
        """Append a token to an answer; False if it is the last that the context holds.

        in_cache: it was a draft token, and is in the KV cache already.
        """
        running.tokens.append(token)
        self.shares.generated_tokens[running.request.owner.name] += 1
        running.n_cached += in_cache
        return len(running.tokens) < self.limits.n_ctx

    def verify(self, tokens: StepTokens, n_accepted: int) -> None:
        """Keep the first n_accepted drafts in the KV cache, and have the rejected ones forgotten."""
        tokens.running.n_unverified = 0
        if n_accepted < len(tokens.drafts) and tokens.running.slot >= 0:
            start = tokens.start + len(tokens.tokens) + n_accepted
            self._due.append(Forget(tokens.running.slot, start))

    def finish(self, running: RunningRequest) -> None:
        """End a request; its slot goes on holding its tokens, if the request allows that."""
        if running.slot < 0:
            self._queue.cancel(running.request.id)
            return
        if running.n_unverified and running.request.cache_prompt:
            self._due.append(Forget(running.slot, running.n_cached))
        self._due += self._cache.release(self._slots[running.slot], running)
