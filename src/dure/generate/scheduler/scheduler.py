"""Which requests run, in which sequences of the KV cache, and what the next step computes.

Pure: values in, values out; no clock, no I/O, no model. It is told what happened, and says what to do:

- `add`, `cancel`: requests come and go;
- `admit`: waiting requests get a sequence, with as much of their prompt as is cached somewhere;
- `next_work`: the tokens of the next step: one for every answer that runs, and a chunk of the prompts;
- `advance`, `append`, `finish`: what became of it; `due`: what must be done to the KV cache for that.

- `side_by_side`: llama.cpp computes sequences in one pass over the weights only where these are neighbours.

A sequence keeps its tokens when its request ends: they are the prefix cache, found through a radix tree.
What is pushed out of a sequence is stored outside of the KV cache, oldest forgotten first.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dure.engine.kv import Copy, Forget, KvOp, Swap
from dure.errors import UsageError, context_error
from dure.generate.request import Request
from dure.generate.scheduler.prefix_tree import PrefixTree, common_length

__all__ = [
    "Action",
    "Drop",
    "Load",
    "Running",
    "Scheduler",
    "SchedulerLimits",
    "Store",
    "Work",
    "key_of",
]

WORTH_SHARING = 16  # fewer cached tokens than this are computed again sooner than copied
WORTH_STORING = 64
PAYS_IN_STEPS = 8  # a swap that costs more than it saves in so many steps is not made
PATIENCE = 2  # a prompt that waits while so many times its tokens go to others comes first


@dataclass(frozen=True)
class SchedulerLimits:
    """What the engine allows.

    n_slots: answers at once, each in a sequence of n_ctx positions. n_batch: tokens of a step.
    store_tokens: how many tokens may be stored outside of the KV cache.
    can_forget: the end of a sequence can be taken back.
    pass_tokens: how many tokens move to another sequence in the time of one pass over the weights.
    """

    n_slots: int
    n_ctx: int
    n_batch: int
    store_tokens: int = 0
    can_forget: bool = True
    pass_tokens: int = 0


@dataclass(frozen=True)
class Store:
    """Write a sequence to the store."""

    slot: int
    key: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """Read a sequence of n_stored positions from the store into an empty one, and keep n of them."""

    key: str
    slot: int
    n_stored: int
    n: int


@dataclass(frozen=True)
class Drop:
    """Delete from the store."""

    key: str


Action = KvOp | Store | Load | Drop


@dataclass
class Running:
    """A request in a sequence.

    tokens: its prompt, and the answer so far. n_cached: how many of them are in the KV cache;
    n_reused of these were there before. skipped: tokens of other prompts that were computed meanwhile.
    """

    request: Request
    slot: int
    tokens: list[int]
    n_cached: int
    n_reused: int
    skipped: int = 0

    @property
    def n_prompt(self) -> int:
        """How many tokens must be computed before the next one can be chosen the first time."""
        return len(self.request.prompt) + len(self.request.answered)

    @property
    def n_answered(self) -> int:
        """Tokens of the answer, also those that an engine before this one gave."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens that are not in the KV cache yet."""
        return len(self.tokens) - self.n_cached

    @property
    def in_prefill(self) -> bool:
        """Whether the prompt is not computed yet."""
        return self.n_cached < self.n_prompt


@dataclass(frozen=True)
class Work:
    """Tokens of one request in a step. output: they are its last, and the next one is wanted.

    drafts: tokens that may be the next ones; what would follow each of them is wanted as well.
    """

    running: Running
    start: int
    tokens: tuple[int, ...]
    output: bool
    drafts: tuple[int, ...] = ()


@dataclass
class _Slot:
    """A sequence. held: the tokens in it while no request runs there. stored: how many are stored too."""

    index: int
    held: list[int] = field(default_factory=list)
    running: Running | None = None
    stored: int = 0
    stored_key: str = ""
    used: int = 0  # when it was last used, in admissions

    @property
    def tokens(self) -> list[int]:
        """The tokens in it."""
        return self.running.tokens[: self.running.n_cached] if self.running else self.held

    @property
    def n_held(self) -> int:
        """How many these are."""
        return self.running.n_cached if self.running else len(self.held)


class Scheduler:
    """The state of all requests."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self._slots = [_Slot(index) for index in range(limits.n_slots)]
        self._waiting: list[Request] = []
        self._tree: PrefixTree[int | str] = PrefixTree()
        self._stored: dict[str, int] = {}  # tokens of what is stored, oldest first
        self._admissions = 0
        self._served: dict[str, int] = {}  # owner: admission at which it was last served
        self.cache_queries = 0
        self.cache_hits = 0

        self._due: list[Action] = []
        self._waited = False  # answers did, in the last step

    # ------------------------------------------------------------ what there is

    @property
    def running(self) -> list[Running]:
        """The requests that have a sequence, in the order of these."""
        return [slot.running for slot in self._slots if slot.running is not None]

    @property
    def n_waiting(self) -> int:
        """Requests without a sequence."""
        return len(self._waiting)

    @property
    def n_held(self) -> int:
        """Sequences that hold tokens."""
        return sum(bool(slot.held) or slot.running is not None for slot in self._slots)

    @property
    def kv_used(self) -> int:
        """Positions of the KV cache that running requests use."""
        return sum(running.n_cached for running in self.running)

    @property
    def kv_kept(self) -> int:
        """Positions of the KV cache that are kept in case a prompt begins alike."""
        return sum(len(slot.held) for slot in self._slots if slot.running is None)

    # ------------------------------------------------------------ requests come and go

    def add(self, request: Request) -> None:
        """Let a request wait. Raises ContextError where it never fits, UsageError where it is empty."""
        n = len(request.prompt)
        if not n:
            raise UsageError("the prompt is empty: give some text")
        if n >= self.limits.n_ctx:
            raise context_error(n, self.limits.n_ctx)
        self._waiting.append(request)

    def cancel(self, request_id: str) -> Running | Request | None:
        """End a request, wherever it is; what it was."""
        for running in self.running:
            if running.request.id == request_id:
                self.finish(running)
                return running
        for place, request in enumerate(self._waiting):
            if request.id == request_id:
                return self._waiting.pop(place)
        return None

    def know_stored(self, key: str, tokens: Sequence[int]) -> None:
        """Tell what the store held from before, oldest first."""
        self._stored[key] = len(tokens)
        self._tree.put(key, tokens)
        self._due += self._drop_oldest()

    def due(self) -> list[Action]:
        """What must be done to the KV cache since the last time, before anything else."""
        due, self._due = self._due, []
        return due

    # ------------------------------------------------------------ admission

    def admit(self) -> Iterator[tuple[Running, list[Action]]]:
        """Give sequences to waiting requests; the actions of each must be done before the next."""
        while any(slot.running is None for slot in self._slots):
            request = self._next_waiting()
            if request is None:
                return
            self._waiting.remove(request)
            self._admissions += 1
            self._served[request.owner] = self._admissions
            yield self._place(request)

    def _next_waiting(self) -> Request | None:
        """The oldest request of the owner that runs least, then of the one served longest ago."""
        n_running: dict[str, int] = {}
        for running in self.running:
            owner = running.request.owner
            n_running[owner] = n_running.get(owner, 0) + 1
        first: dict[str, Request] = {}
        for request in self._waiting:
            if request.owner not in first and not self._is_being_computed(request):
                first[request.owner] = request
        owners = sorted(first, key=lambda o: (n_running.get(o, 0), self._served.get(o, 0)))
        return first[owners[0]] if owners else None

    def _is_being_computed(self, request: Request) -> bool:
        """Whether a prompt that runs begins alike: then it is better to wait and copy."""
        if not _reuses(request) or not self.limits.can_forget:
            return False
        found = self._tree.longest(request.prompt)
        cached = found[1] if found else 0
        return any(
            running.in_prefill
            and running.request.cache_prompt
            and common_length(running.tokens, request.prompt) >= cached + WORTH_STORING
            for running in self.running
        )

    def _place(self, request: Request) -> tuple[Running, list[Action]]:
        tokens = [*request.prompt, *request.answered]
        source, n = self._find(request, tokens)
        slot = self._choose_slot(source, n)
        if slot.index != source and n < WORTH_SHARING:
            source, n = None, 0
        actions = self._fill(slot, source, n)
        slot.used = self._admissions
        slot.held = tokens[:n]
        slot.stored = min(slot.stored, n)
        self._tree.put(slot.index, slot.held)
        slot.running = Running(request, slot.index, tokens, n, n)
        self.cache_queries += len(tokens)
        self.cache_hits += n
        return slot.running, actions

    def _find(self, request: Request, tokens: list[int]) -> tuple[int | str | None, int]:
        """Where the longest prefix of some tokens is, and how long; the last is computed in any case."""
        found = self._tree.longest(tokens) if _reuses(request) else None
        if found is None:
            return None, 0
        key, n = found[0], min(found[1], len(tokens) - 1)
        return (key, n) if self.limits.can_forget or n == self._n_held_by(key) else (None, 0)

    def _n_held_by(self, key: int | str) -> int:
        """How many tokens are there; a running sequence has more than the tree knows."""
        running = self._slots[key].running if isinstance(key, int) else None
        return running.n_cached if running else self._tree.length(key)

    def _choose_slot(self, source: int | str | None, n: int) -> _Slot:
        free = [slot for slot in self._slots if slot.running is None]
        if isinstance(source, int):
            slot = self._slots[source]
            loses = len(slot.held) - n
            alone = len(free) == 1
            if slot.running is None and (alone or loses < max(n, WORTH_STORING)):
                return slot
            free = [other for other in free if other is not slot] or free
        return min(free, key=lambda slot: (bool(slot.held), slot.used, slot.index))

    def _fill(self, slot: _Slot, source: int | str | None, n: int) -> list[Action]:
        """What makes a sequence hold the first n tokens of its source, and nothing else."""
        if source == slot.index:
            return [*self._save(slot, keep=n), Forget(slot.index, n)] if len(slot.held) > n else []
        actions = self._save(slot, keep=0, spare=source if isinstance(source, str) else None)
        if slot.held:
            actions.append(Forget(slot.index, 0))
        slot.stored, slot.stored_key = 0, ""
        if isinstance(source, int):
            actions.append(Copy(source, slot.index, n))
        elif source is not None:
            actions.append(Load(source, slot.index, self._tree.length(source), n))
            slot.stored, slot.stored_key = n, source
            self._stored[source] = self._stored.pop(source)  # the youngest again
        return actions

    def lost(self, running: Running) -> None:
        """What was to be copied or loaded for a request was not there: all is computed anew."""
        slot = self._slots[running.slot]
        if slot.stored_key:
            self._due += self._forget_stored(slot.stored_key)
        slot.stored, slot.stored_key = 0, ""
        self.cache_hits -= running.n_reused
        running.n_cached = running.n_reused = 0
        slot.held = []
        self._tree.remove(slot.index)

    # ------------------------------------------------------------ neighbours

    def side_by_side(self) -> list[Swap]:
        """What brings the running sequences next to each other, where that is soon worth it."""
        places = [r.slot for r in self.running if not r.request.embed]
        n_gaps = sum(b - a > 1 for a, b in itertools.pairwise(places))
        if not n_gaps or not self.limits.pass_tokens:
            return []
        starts = range(self.limits.n_slots - len(places) + 1)
        pairs = min((_swaps(places, start) for start in starts), key=self._n_moved)
        if self._n_moved(pairs) > PAYS_IN_STEPS * n_gaps * self.limits.pass_tokens:
            return []
        return [self._swap(self._slots[a], self._slots[b]) for a, b in pairs]

    def _n_moved(self, pairs: Iterable[tuple[int, int]]) -> int:
        return sum(self._slots[place].n_held for pair in pairs for place in pair)

    def _swap(self, a: _Slot, b: _Slot) -> Swap:
        a.index, b.index = b.index, a.index
        self._slots[a.index], self._slots[b.index] = a, b
        tokens = {
            slot: self._tree.tokens(slot) for slot in (a.index, b.index) if slot in self._tree
        }
        self._tree.put(a.index, tokens.get(b.index, []))
        self._tree.put(b.index, tokens.get(a.index, []))
        for slot in (a, b):
            if slot.running is not None:
                slot.running.slot = slot.index
        return Swap(a.index, b.index)

    # ------------------------------------------------------------ the store

    def unsaved(self) -> Iterator[Action]:
        """What stores every sequence that no request runs in; each must be done before the next.

        What could not be stored (`not_stored`) is not there to be dropped for the next.
        """
        for slot in self._slots:
            if slot.running is None:
                yield from self._save(slot, keep=0)

    def n_unsaved(self, running: Running) -> int:
        """How many tokens of a request would be lost with the KV cache."""
        can_be_stored = _reuses(running.request) and self.limits.store_tokens
        return running.n_cached - self._slots[running.slot].stored if can_be_stored else 0

    def save(self, running: Running) -> list[Action]:
        """What stores the tokens of a request that goes on."""
        return self._save(self._slots[running.slot], keep=0)

    def _save(self, slot: _Slot, *, keep: int, spare: str | None = None) -> list[Action]:
        """What stores a sequence before all but `keep` of its tokens are lost, if that is worth it.

        spare: is about to be read from the store, and must not be dropped for it.
        """
        held = slot.tokens
        n = len(held)
        is_large = n > self.limits.store_tokens - (self._stored[spare] if spare else 0)
        if is_large or n - max(keep, slot.stored) < WORTH_STORING:
            return []
        key = key_of(held)
        store = Store(slot.index, key, tuple(held))
        drops: list[Action] = []
        if slot.stored_key not in {"", key, spare}:
            prefix = self._tree.tokens(slot.stored_key) if slot.stored_key in self._tree else []
            if prefix == held[: len(prefix)]:
                drops += self._forget_stored(slot.stored_key)
        self._stored.pop(key, None)
        self._stored[key] = n
        self._tree.put(key, held)
        self._tree.put(slot.index, held)  # found first: it need not be read
        slot.stored, slot.stored_key = n, key
        return [store, *drops, *self._drop_oldest(spare)]

    def _drop_oldest(self, spare: str | None = None) -> list[Action]:
        drops: list[Action] = []
        while sum(self._stored.values()) > self.limits.store_tokens:
            drops += self._forget_stored(next(key for key in self._stored if key != spare))
        return drops

    def not_stored(self, key: str) -> None:
        """Storing failed."""
        self._forget_stored(key)

    def _forget_stored(self, key: str) -> list[Action]:
        if self._stored.pop(key, None) is None:
            return []
        self._tree.remove(key)
        for slot in self._slots:
            if slot.stored_key == key:
                slot.stored, slot.stored_key = 0, ""
        return [Drop(key)]

    # ------------------------------------------------------------ steps

    def next_work(self, prefill_limit: int, short: int = 0) -> list[Work]:
        """The next step's tokens, in the order of their sequences.

        prefill_limit: how many tokens of long prompts may come besides answers that run; without any,
        a step is filled. A prompt with no more than `short` tokens left is not drawn out by this, and
        where more of these begin than answers run, the answers wait for one step.
        """
        running = [r for r in self.running if not r.request.embed]
        decodes = [_work(r, 1) for r in running if not r.in_prefill]
        prefills = [r for r in running if r.in_prefill]
        budget = self.limits.n_batch - len(decodes)
        chunks = _chunks(prefills, budget, max(1, prefill_limit) if decodes else budget, short)
        n_beginning = sum(chunk.output for chunk in chunks)
        self._waited = not self._waited and bool(short) and n_beginning > len(decodes) > 0
        return sorted([*([] if self._waited else decodes), *chunks], key=lambda w: w.running.slot)

    def advance(self, work: Sequence[Work]) -> None:
        """The tokens of a step are in the KV cache; its drafts too, but they do not count yet."""
        n_prefill = sum(len(w.tokens) for w in work if w.running.in_prefill)
        served = {id(w.running): len(w.tokens) for w in work}
        for running in self.running:
            if running.in_prefill:
                running.skipped += n_prefill - served.get(id(running), 0)
        for w in work:
            was_prefill = w.running.in_prefill
            w.running.n_cached += len(w.tokens)
            if was_prefill and not w.running.in_prefill and w.running.request.cache_prompt:
                self._tree.put(w.running.slot, w.running.tokens)

    def append(self, running: Running, token: int, *, in_cache: bool = False) -> bool:
        """The answer goes on with a token; False where that was the last that the context holds.

        in_cache: it was a draft, and is in the KV cache already.
        """
        running.tokens.append(token)
        running.n_cached += in_cache
        return len(running.tokens) < self.limits.n_ctx

    def settle(self, work: Work, n_right: int) -> None:
        """So many of the drafts were the next tokens, which are in the KV cache then; the others go."""
        slot = self._slots[work.running.slot]
        if n_right < len(work.drafts):
            self._due.append(Forget(slot.index, work.start + len(work.tokens) + n_right))

    def finish(self, running: Running) -> None:
        """A request has ended; its sequence may go on holding its tokens."""
        slot = self._slots[running.slot]
        slot.running = None
        slot.held = running.tokens[: running.n_cached]
        if running.request.cache_prompt:
            self._tree.put(slot.index, slot.held)
            return
        slot.held = []
        slot.stored, slot.stored_key = 0, ""
        self._tree.remove(slot.index)
        if running.n_cached:
            self._due.append(Forget(slot.index, 0))


def _swaps(places: Sequence[int], start: int) -> list[tuple[int, int]]:
    """Which places change with which, so that those given fill a range that begins at `start`."""
    wanted = range(start, start + len(places))
    return list(
        zip([p for p in places if p not in wanted], sorted({*wanted} - {*places}), strict=True)
    )


def _chunks(prefills: Sequence[Running], budget: int, long_budget: int, short: int) -> list[Work]:
    """What of the prompts a step computes, within `budget` tokens, of which long prompts get less."""
    chunks = []
    for running in sorted(prefills, key=lambda r: r.remaining - r.skipped // PATIENCE):
        is_long = running.remaining > short
        most = min(budget, long_budget) if is_long else budget
        if most > 0:
            chunks.append(_work(running, most))
            budget -= len(chunks[-1].tokens)
            long_budget -= len(chunks[-1].tokens) if is_long else 0
    return chunks


def _work(running: Running, most: int) -> Work:
    start = running.n_cached
    tokens = tuple(running.tokens[start : start + most])
    return Work(running, start, tokens, output=start + len(tokens) == len(running.tokens))


def _reuses(request: Request) -> bool:
    """Whether cached tokens serve a request; an embedding needs the hidden states of all."""
    return request.cache_prompt and not request.embed


def key_of(tokens: Sequence[int]) -> str:
    """What a stored sequence is called: the hash of its tokens."""
    return hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=16).hexdigest()
