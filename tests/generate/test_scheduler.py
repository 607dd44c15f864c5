"""The scheduler, without a model: a simulated KV cache does what it says, and must always be right.

`Simulation` keeps for every slot the tokens that the actions and the work put there, and after every step
compares them with what the scheduler believes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.kv import Copy, DropState, Forget, KeepState, RestoreState, Swap
from dure.errors import ContextError, UsageError
from dure.generate.request import Owner, Request
from dure.generate.scheduler import (
    MIN_COPIED,
    MIN_STORED,
    Action,
    DropPrefix,
    LoadPrefix,
    PrefillLimits,
    RunningRequest,
    Scheduler,
    SchedulerLimits,
    StepTokens,
    StorePrefix,
    adapters_of,
    prefix_key,
)
from dure.generate.scheduler.budget import BEGIN_MORE
from dure.generate.scheduler.shares import SLICE
from dure.generate.scheduler.turns import TURN_STEPS


@dataclass
class Cells:
    """A sequence of the simulated KV cache. first: the first position that layers with a window still have.

    It forgets all that llama.cpp may forget. adapters: what its tokens were computed with.
    """

    limits: SchedulerLimits
    tokens: list[int] = field(default_factory=list)
    first: int = 0
    adapters: AdapterSet = NO_ADAPTERS

    def compute(self, tokens: Sequence[int], adapters: AdapterSet = NO_ADAPTERS) -> None:
        start, window = len(self.tokens), self.limits.n_window
        assert not start or adapters == self.adapters, (
            "all of it is computed with the same adapters"
        )
        self.adapters = adapters
        assert self.is_whole_at(start), "the next token sees its window"
        self.tokens += tokens
        if window and len(self.tokens) > window:
            self.first = max(self.first, start - window + 1)

    def is_whole_at(self, n: int) -> bool:
        if not self.limits.can_forget:
            return n in (0, len(self.tokens))
        return not self.limits.n_window or self.first <= max(0, n - self.limits.n_window + 1)

    def cut_back(self, n: int) -> None:
        assert self.is_whole_at(n) or n == 0
        del self.tokens[n:]
        self.first = self.first if n else 0

    def moved(self, n: int | None = None) -> Cells:
        """What another place holds after these tokens were moved there."""
        n = len(self.tokens) if n is None else n
        assert self.is_whole_at(n)
        first = max(self.first, n - self.limits.n_window) if self.limits.n_window else 0
        return Cells(self.limits, self.tokens[:n], first, self.adapters)

    @property
    def key(self) -> str:
        return prefix_key(self.tokens, self.adapters)


class Simulation:
    """An engine whose KV cache is lists of tokens.

    broken: keys whose files cannot be read; full: nothing can be stored.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits, self.scheduler = limits, Scheduler(limits)
        self.sequences = [Cells(limits) for _ in range(limits.n_slots)]
        self.states: dict[str, Cells] = {}
        self.stored: dict[str, Cells] = {}
        self.broken: set[str] = set()
        self.full = False
        self.log: list[Action] = []
        self.wanted: dict[str, int] = {}  # tokens of each answer
        self.ended: list[RunningRequest] = []
        self.waited = False  # the answers, for a step
        self._ids = itertools.count()

    @property
    def cache(self) -> list[list[int]]:
        return [sequence.tokens for sequence in self.sequences]

    # ------------------------------------------------------------ what the engine's loop does

    def add(
        self,
        prompt: Sequence[int],
        wanted: int = 4,
        owner: str | Owner = "",
        **more: object,
    ) -> str:
        name = f"r{next(self._ids)}"
        owner = Owner(owner) if isinstance(owner, str) else owner
        request = Request(id=name, prompt=list(prompt), owner=owner, **more)  # type: ignore[arg-type]
        self.scheduler.add(request)
        self.wanted[name] = wanted
        return name

    def admit(self) -> list[RunningRequest]:
        self.do_due()
        admitted = []
        for running, actions in self.scheduler.admit():
            assert running.request.cache_prompt or not running.n_reused
            done = [self.do(action) for action in actions]
            if not all(done):
                self.scheduler.recompute(running)
            self.check_running(running)
            admitted.append(running)
        for swap in self.scheduler.make_neighbours():
            self.do(swap)
        return admitted

    def step(
        self, prefill_limit: int = 10**9, n_drafts: int = 0, n_right: int = 0, n_alone: int = 0
    ) -> list[StepTokens]:
        """n_drafts: draft tokens of each answer, of which the first n_right are right."""
        self.admit()
        work = self.scheduler.next_step(PrefillLimits(prefill_limit, n_alone))
        self.check_work(work, prefill_limit)
        work = [self.with_drafts(w, n_drafts, n_right) for w in work]
        for w in work:
            assert len(self.cache[w.running.slot]) == w.start
            self.sequences[w.running.slot].compute(w.all_tokens, w.running.request.adapters)
        self.scheduler.advance(work)
        for w in work:
            if w.output:
                self.verify(w)
        self.do_due()
        self.check()
        return work

    def with_drafts(self, w: StepTokens, n: int, n_right: int) -> StepTokens:
        if not (w.output and self.limits.can_forget):
            return w
        text = list(w.running.tokens)
        for i in range(min(n, self.limits.n_ctx - len(text))):
            text.append(next_token(text) if i < n_right else 1)
        return replace(w, drafts=tuple(text[len(w.running.tokens) :]))

    def verify(self, w: StepTokens) -> None:
        text, left = list(w.running.tokens), self.wanted[w.running.request.id]
        n_most = min(left - w.running.n_answered, self.limits.n_ctx - len(text))
        for draft in w.drafts[:n_most]:
            if draft != next_token(text):
                break
            text.append(draft)
        n_accepted = len(text) - len(w.running.tokens)
        self.scheduler.verify(w, n_accepted)
        for i in range(n_accepted + 1):
            if not self.answer(w.running, in_cache=i < n_accepted):
                return

    def answer(self, running: RunningRequest, *, in_cache: bool) -> bool:
        token = next_token(running.tokens)
        goes_on = self.scheduler.append(running, token, in_cache=in_cache)
        if goes_on and running.n_answered < self.wanted[running.request.id]:
            return True
        self.scheduler.finish(running)
        self.ended.append(running)
        return False

    def finish_all(self, most_steps: int = 5_000) -> None:
        for _ in range(most_steps):
            if not self.scheduler.running and not self.scheduler.n_waiting:
                return
            self.step()
        raise AssertionError("requests that never end")

    def do_due(self) -> None:
        for action in self.scheduler.due():
            self.do(action)

    def do(self, action: Action) -> bool:
        self.log.append(action)
        match action:
            case Forget(slot, start):
                assert len(self.cache[slot]) > start or self.log[-2] == Forget(slot)
                self.sequences[slot].cut_back(start)
            case Copy(source, slot, n):
                assert source != slot
                assert not self.cache[slot], "copied to an empty sequence"
                assert (n or 0) <= len(self.cache[source])
                self.sequences[slot] = self.sequences[source].moved(n)
                self.sequences[source] = self.sequences[source].moved()
            case Swap(slot, other):
                assert slot != other
                pair = self.sequences[other].moved(), self.sequences[slot].moved()
                self.sequences[slot], self.sequences[other] = pair
            case KeepState(slot, key):
                assert key == self.sequences[slot].key
                self.states[key] = self.sequences[slot].moved()
            case RestoreState(slot, key, n):
                self.restore(slot, key, n)
            case DropState(key):
                del self.states[key]
            case StorePrefix(slot, key, tokens):
                self.store(slot, key, tokens)
            case LoadPrefix():
                return self.load(action)
            case DropPrefix(key):
                assert key in self.stored, "dropped once"
                del self.stored[key]
        return True

    def store(self, slot: int, key: str, tokens: tuple[int, ...]) -> None:
        assert self.cache[slot] == list(tokens), "what is stored is what is there"
        assert key == self.sequences[slot].key
        if self.full:
            self.stored.pop(key, None)
            self.scheduler.store_failed(key)
        else:
            self.stored.pop(key, None)
            self.stored[key] = self.sequences[slot].moved()

    def load(self, load: LoadPrefix) -> bool:
        assert not self.cache[load.slot], "loaded into an empty sequence"
        assert len(self.stored[load.key].tokens) == load.n_stored
        assert load.n <= load.n_stored
        if load.key in self.broken:
            return False
        self.sequences[load.slot] = self.stored[load.key].moved()
        if load.state:
            self.restore(load.slot, load.state, load.n)
        else:
            self.sequences[load.slot].cut_back(load.n)
        return True

    def restore(self, slot: int, key: str, n: int) -> None:
        assert self.states[key].tokens == self.cache[slot][:n], "the state after these very tokens"
        self.sequences[slot] = self.states[key].moved()

    # ------------------------------------------------------------ what must hold

    def check_running(self, running: RunningRequest) -> None:
        assert self.cache[running.slot] == running.tokens[: running.n_cached]
        assert running.n_cached < len(running.tokens), "the last token is always computed"

    def check_work(self, work: Sequence[StepTokens], prefill_limit: int) -> None:
        answers = [r for r in self.scheduler.running if not r.in_prefill and not r.request.embed]
        sets = {w.running.request.adapters for w in work}
        assert len(sets) <= 1, "a step is computed with one set of adapters"
        decodes = {id(r) for r in answers if r.request.adapters in sets}
        others_wait = len(answers) > len(decodes) == 0
        computed = [id(w.running) for w in work]
        assert len(computed) == len(set(computed)), "a request is computed once a step"
        if decodes and not decodes & set(computed):
            assert not self.waited, "answers wait for one step at most"
            n_begin = sum(w.output for w in work)
            assert n_begin > BEGIN_MORE * len(decodes), "and only for many more that begin"
            self.waited, decodes = True, set()
        else:
            self.waited = False
        assert decodes <= set(computed), "every other answer that runs gets its token"
        n_prefill = sum(len(w.tokens) for w in work if w.running.in_prefill)
        assert sum(len(w.tokens) for w in work) <= self.limits.n_batch
        assert not (decodes or others_wait) or n_prefill <= max(1, prefill_limit)
        assert all(w.tokens for w in work)
        for w in work:
            tokens = w.running.tokens
            assert w.tokens == tuple(tokens[w.start : w.start + len(w.tokens)])
            assert w.output == (w.start + len(w.tokens) == len(tokens))
        if self.scheduler.running or self.scheduler.n_waiting:
            assert work, "as long as there is something to do, it is done"

    def check(self) -> None:
        running = self.scheduler.running
        slots = [r.slot for r in running]
        assert len(slots) == len(set(slots)), "one request a slot"
        for r in running:
            self.check_running(r)
        kept = sum(len(c) for slot, c in enumerate(self.cache) if slot not in slots)
        assert self.scheduler.kv_kept == kept
        assert self.scheduler.kv_used == sum(r.n_cached for r in running)
        assert sum(len(s.tokens) for s in self.stored.values()) <= self.limits.store_tokens
        assert all(len(c) <= self.limits.n_ctx for c in self.cache)
        assert len(self.states) <= self.limits.n_states
        assert not self.scheduler.due(), "done"


def next_token(tokens: Sequence[int]) -> int:
    """The answer's next token, by the text so far: two texts that part do not meet again."""
    return 10_000 + (31 * len(tokens) + 7 * tokens[-1] + tokens[0]) % 89


def family(f: int, n: int) -> list[int]:
    """The first n tokens of a text."""
    return [1_000 * f + i % 300 for i in range(n)]


# ---------------------------------------------------------------- whatever comes


OWNERS = [Owner(), Owner("a"), Owner("b", weight=3), Owner("c", priority=1)]


class AnyRequests(RuleBasedStateMachine):
    """Requests that begin alike or not, come, are cancelled, end, and come again with more."""

    @initialize(
        n_slots=st.integers(1, 6),
        n_batch=st.sampled_from([8, 64, 300]),
        store_tokens=st.sampled_from([0, 100, 250, 1_000]),
        can_forget=st.booleans(),
        pass_tokens=st.sampled_from([0, 10, 1_000]),
        n_window=st.sampled_from([0, 3, 70]),
        n_states=st.sampled_from([0, 1, 4]),
    )
    def begin(
        self,
        n_slots: int,
        n_batch: int,
        store_tokens: int,
        can_forget: bool,
        pass_tokens: int,
        n_window: int,
        n_states: int,
    ) -> None:
        limits = SchedulerLimits(
            n_slots, 256, n_batch, store_tokens, can_forget, pass_tokens, n_window, n_states
        )
        self.simulation = Simulation(limits)
        self.names: list[str] = []

    @rule(
        f=st.integers(1, 3),
        n=st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 100, 130, 200, 240]),
        tail=st.integers(0, 20),
        wanted=st.sampled_from([1, 2, 10, 100]),
        owner=st.sampled_from(OWNERS),
        group=st.sampled_from(["", "", "g", "h"]),
        cache_prompt=st.sampled_from([True, True, True, False]),
        answered=st.sampled_from([0, 0, 0, 5]),
        points=st.sampled_from([(), (64,), (64, 130), (1, 63, 200, 254)]),
        adapters=st.sampled_from([(), (), ((0, 1.0),), ((0, 0.5), (1, -1.0))]),
    )
    def add(
        self,
        f: int,
        n: int,
        tail: int,
        wanted: int,
        owner: Owner,
        group: str,
        cache_prompt: bool,
        answered: int,
        points: tuple[int, ...],
        adapters: AdapterSet,
    ) -> None:
        prompt = family(f, n)[: 255 - min(tail, 14)] + [50 + tail] * min(tail, 14)
        given: list[int] = []
        for _ in range(min(answered, wanted - 1, 255 - len(prompt))):
            given.append(next_token(prompt + given))
        self.names.append(
            self.simulation.add(
                prompt,
                wanted,
                owner,
                group=group,
                cache_prompt=cache_prompt,
                answered=given,
                return_points=points,
                adapters=adapters,
            )
        )

    @precondition(lambda self: self.simulation.ended)
    @rule(data=st.data(), more=st.integers(1, 80))
    def go_on(self, data: st.DataObject, more: int) -> None:
        """The next turn of a conversation."""
        ended = data.draw(st.sampled_from(self.simulation.ended))
        prompt = ended.tokens + family(5, more)
        if len(prompt) < self.simulation.limits.n_ctx:
            self.names.append(self.simulation.add(prompt))

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.simulation.scheduler.cancel(data.draw(st.sampled_from(self.names)))

    @rule(
        limit=st.sampled_from([0, 1, 20, 1_000]),
        n_drafts=st.integers(0, 5),
        n_right=st.integers(0, 5),
        n_alone=st.sampled_from([0, 100]),
    )
    def step(self, limit: int, n_drafts: int, n_right: int, n_alone: int) -> None:
        self.simulation.step(limit, n_drafts, n_right, n_alone)

    @rule()
    def steps(self) -> None:
        for _ in range(10):
            self.simulation.step(50)

    @rule()
    def persist(self) -> None:
        self.simulation.do_due()
        for action in self.simulation.scheduler.store_idle():
            self.simulation.do(action)

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.simulation.full = full

    @precondition(lambda self: self.simulation.stored)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.simulation.broken.add(data.draw(st.sampled_from(sorted(self.simulation.stored))))

    @invariant()
    def is_right(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.do_due()
            self.simulation.check()

    def teardown(self) -> None:
        """Whatever came, everything ends."""
        if hasattr(self, "simulation"):
            self.simulation.finish_all()


AnyRequests.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize="DURE_RANDOM_TESTS" not in os.environ,
)
TestAnyRequests = AnyRequests.TestCase


# ---------------------------------------------------------------- admission


def simulation(
    n_slots: int = 2,
    n_ctx: int = 2_000,
    n_batch: int = 64,
    store_tokens: int = 0,
    *,
    can_forget: bool = True,
    n_window: int = 0,
    n_states: int = 0,
) -> Simulation:
    return Simulation(
        SchedulerLimits(
            n_slots,
            n_ctx,
            n_batch,
            store_tokens,
            can_forget,
            n_window=n_window,
            n_states=n_states,
        )
    )


@pytest.mark.parametrize("n", [2_000, 2_001, 50_000])
def test_a_prompt_that_can_never_fit_is_refused_at_once(n: int) -> None:
    """The error tells both lengths, and nothing is left of the request."""
    s = simulation()
    with pytest.raises(
        ContextError, match=f"{n} tokens > (1999|2000) maximum.* larger --ctx"
    ) as raised:
        s.add(family(1, n))
    assert (raised.value.n_prompt, raised.value.n_ctx) == (n, 2_000)
    assert s.scheduler.n_waiting == 0


def test_an_empty_prompt_is_refused() -> None:
    """There is nothing to go on from."""
    with pytest.raises(UsageError, match="prompt is empty"):
        simulation().add([])


def test_a_prompt_that_just_fits_gets_one_token() -> None:
    """With room for one more token than the prompt, one is generated, and the answer ends."""
    s = simulation()
    s.add(family(1, 1_999), wanted=100)
    s.finish_all()
    assert s.ended[0].n_answered == 1


def test_a_request_that_can_wait_waits_for_a_slot() -> None:
    """With one slot the second is computed after the first has ended."""
    s = simulation(n_slots=1)
    s.add(family(1, 10))
    second = s.add(family(2, 10))
    while not s.ended:
        s.step()
        if not s.ended:
            assert s.scheduler.n_waiting == 1
    s.step()
    assert [r.request.id for r in s.scheduler.running] == [second]
    s.finish_all()


def admitted_owners(s: Simulation) -> list[str]:
    s.finish_all()
    return [r.request.owner.name for r in s.ended]


def test_owners_take_turns_whoever_asks_most() -> None:
    """Ten requests of one owner do not keep another's one waiting behind them."""
    s = simulation(n_slots=1)
    for f in range(1, 11):
        s.add(family(f, 5), owner="greedy")
    s.add(family(11, 5), owner="modest")
    assert admitted_owners(s).index("modest") == 1


def test_a_free_slot_goes_to_the_owner_that_runs_least() -> None:
    """With two slots, one owner does not hold both while another waits."""
    s = simulation(n_slots=2)
    long = [s.add(family(f, 5), wanted=500, owner="greedy") for f in (1, 2)]
    s.step()
    s.add(family(3, 5), wanted=500, owner="greedy")
    s.add(family(4, 5), wanted=500, owner="modest")
    s.scheduler.cancel(long[0])
    s.step()
    assert sorted(r.request.owner.name for r in s.scheduler.running) == ["greedy", "modest"]


def test_requests_of_one_owner_keep_their_order() -> None:
    """First come, first served."""
    s = simulation(n_slots=1)
    names = [s.add(family(f, 5)) for f in range(1, 6)]
    s.finish_all()
    assert [r.request.id for r in s.ended] == names


# ---------------------------------------------------------------- shares


def running_owners(s: Simulation) -> list[str]:
    return sorted(r.request.owner.name for r in s.scheduler.running)


def test_an_owner_with_all_slots_gives_one_up_for_another_at_once() -> None:
    """The request that came late is computed in the next step; the paused answer loses no token."""
    s = simulation(n_slots=4)
    for f in range(1, 21):
        s.add(family(f, 30), wanted=300, owner="greedy")
    for _ in range(10):
        s.step()
    late = s.add(family(30, 30), wanted=5, owner="modest")
    assert late in {w.running.request.id for w in s.step() if w.output}
    assert running_owners(s).count("greedy") == 3
    s.finish_all()
    for r in s.ended:
        assert r.tokens[30:] == spoken(r.request.prompt, 5 if r.request.id == late else 300)


def spoken(prompt: Sequence[int], n: int) -> list[int]:
    """The answer to a prompt when nothing comes between."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def test_answers_of_one_request_give_up_a_slot_for_another_request() -> None:
    """They are of the same owner; but no request gives one up for its own answers."""
    s = simulation(n_slots=4)
    for _ in range(8):
        s.add(family(1, 30), wanted=300, group="n=8")
    s.step()
    single = s.add(family(2, 30), wanted=5)
    assert single in {w.running.request.id for w in s.step()}
    assert s.scheduler.owner_stats()[0].pauses == 1


def test_slots_are_shared_by_weight() -> None:
    """Three to one, whoever came first."""
    s = simulation(n_slots=4)
    for f in range(1, 9):
        s.add(family(f, 5), wanted=900, owner=Owner("one"))
    s.step()
    for f in range(9, 17):
        s.add(family(f, 5), wanted=900, owner=Owner("three", weight=3))
    s.step()
    assert running_owners(s) == ["one", "three", "three", "three"]


@pytest.mark.parametrize("n_slots", [1, 3])
def test_tokens_are_shared_by_weight_if_slots_cannot_be(n_slots: int) -> None:
    """More owners than slots take turns, within one answer too; no turn is shorter than it is worth."""
    s = simulation(n_slots=n_slots, store_tokens=10_000)
    owners = [Owner("a"), Owner("b"), Owner("c"), Owner("two", weight=2)]
    for f, owner in enumerate(owners, start=1):
        s.add(family(f, 5), wanted=1_990, owner=owner)
    n_steps = 1_800
    for _ in range(n_steps):
        s.step()
    stats = {one.name: one for one in s.scheduler.owner_stats()}
    per_weight = n_steps * n_slots / sum(owner.weight for owner in owners)
    if n_slots == 1:  # with more slots one answer cannot take two of them
        for owner in owners:
            had = stats[owner.name].generated_tokens / owner.weight
            assert had == pytest.approx(per_weight, abs=SLICE + 10)
    assert sum(one.pauses for one in stats.values()) < n_steps * n_slots / SLICE


def test_an_owner_that_was_away_has_saved_nothing_up() -> None:
    """After 1,000 tokens of another, both get as much from then on."""
    s = simulation(n_slots=1)
    s.add(family(1, 5), wanted=1_900, owner="busy")
    for _ in range(1_000):
        s.step()
    s.add(family(2, 5), wanted=1_900, owner="back")
    for _ in range(600):
        s.step()
    stats = {one.name: one.generated_tokens for one in s.scheduler.owner_stats()}
    assert stats["back"] == pytest.approx(300, abs=SLICE + 10)


def test_a_higher_priority_comes_first_and_a_lower_one_goes_on_after_it() -> None:
    """Also if its owner runs nothing else."""
    s = simulation(n_slots=1)
    low = s.add(family(1, 5), wanted=100, owner=Owner("low", priority=-1))
    s.step()
    high = [s.add(family(f, 5), wanted=20, owner=Owner("high", priority=1)) for f in (2, 3)]
    s.finish_all()
    assert [r.request.id for r in s.ended] == [*high, low]


def test_prompts_are_shared_between_owners() -> None:
    """Three long prompts of one owner leave half of a step to another's; what it leaves is used."""
    s = simulation(n_slots=4, n_batch=100)
    for f in (1, 2, 3):
        s.add(family(f, 1_000), owner="greedy")
    s.add(family(4, 1_000), owner="modest")
    tokens = {w.running.request.owner.name: 0 for w in s.step()}
    for w in s.step():
        tokens[w.running.request.owner.name] += len(w.tokens)
    assert tokens == {"greedy": 50, "modest": 50}
    short = s.add(family(5, 10), owner="third")
    s.scheduler.cancel(next(r for r in s.scheduler.running if r.n_cached == 0).request.id)
    (work,) = s.step()
    assert work.running.request.id == short
    assert work.output, "a prompt that ends waits for no chunk of another owner"
    assert sum(len(w.tokens) for w in s.step() if w.running.in_prefill) == 99


# ---------------------------------------------------------------- steps


def test_drafts_of_an_answer_that_is_cancelled_before_they_are_verified_are_forgotten() -> None:
    """Its slot goes on holding what counts, and nothing behind it."""
    scheduler = Scheduler(SchedulerLimits(n_slots=1, n_ctx=100, n_batch=10))
    scheduler.add(Request(id="r", prompt=[1, 2, 3]))
    ((running, _),) = scheduler.admit()
    scheduler.advance(scheduler.next_step(PrefillLimits(10)))
    scheduler.append(running, 4)
    (decode,) = scheduler.next_step(PrefillLimits(10))
    scheduler.advance([replace(decode, drafts=(5, 6))])
    running.is_choosing = True
    assert scheduler.next_step(PrefillLimits(10)) == []
    scheduler.cancel("r")
    assert scheduler.due() == [Forget(0, 4)]
    assert scheduler.kv_kept == 4


def test_a_long_prompt_does_not_keep_answers_waiting() -> None:
    """While 1,500 tokens of prompt are computed in chunks, the other answer gets a token every step."""
    s = simulation()
    s.add(family(1, 10), wanted=100)
    s.step()
    s.add(family(2, 1_500))
    for n in range(2, 40):
        s.step(prefill_limit=32)
        assert s.scheduler.running[0].n_answered == n
        assert s.scheduler.running[1].n_cached == 32 * (n - 1)


def test_answers_wait_for_a_step_in_which_many_more_begin() -> None:
    """One answer waits for three that begin, but not twice in a row."""
    s = simulation(n_slots=20, n_batch=400)
    s.add(family(1, 10), wanted=100)
    s.step()
    first = s.scheduler.running[0]
    for n in range(2, 5):
        s.add(family(n, 30), wanted=100)
    s.step(prefill_limit=10, n_alone=100)
    assert first.n_answered == 1
    assert [r.n_answered for r in s.scheduler.running] == [1, 1, 1, 1]
    for n in range(5, 14):
        s.add(family(n, 30), wanted=100)
    s.step(prefill_limit=10, n_alone=300)
    assert first.n_answered == 2
    assert sum(r.n_cached for r in s.scheduler.running if r.in_prefill) == 10
    s.step(prefill_limit=10, n_alone=300)
    assert first.n_answered == 2
    assert len([r for r in s.scheduler.running if r.n_answered]) == 13


def test_a_long_prompt_does_not_starve_short_ones() -> None:
    """A short prompt that comes later is answered before the long one is computed."""
    s = simulation(n_slots=3)
    s.add(family(1, 1_500))
    s.step()
    short = s.add(family(2, 20))
    s.step()
    assert next(r for r in s.scheduler.running if r.request.id == short).n_answered == 1


def test_short_prompts_do_not_starve_a_long_one() -> None:
    """However many come, the long prompt's first token comes after a bounded part of the work."""
    s = simulation(n_slots=3, n_batch=64)
    long = s.add(family(1, 640), wanted=2)
    computed = 0
    for n in range(1_000):
        while s.scheduler.n_waiting < 4:
            s.add(family(2 + n, 60), wanted=1, cache_prompt=False)
        computed += sum(len(w.tokens) for w in s.step())
        if any(r.request.id == long and r.n_answered for r in s.scheduler.running):
            break
    assert computed < 10 * 640


def test_a_step_without_answers_is_filled_with_prompts() -> None:
    """The limit on prompts is there for answers; without any, a step takes all that fits."""
    s = simulation(n_batch=64)
    s.add(family(1, 100))
    s.add(family(2, 30))
    assert sum(len(w.tokens) for w in s.step(prefill_limit=1)) == 64


# ---------------------------------------------------------------- prefixes


def test_a_second_request_with_the_same_long_prompt_waits_and_copies() -> None:
    """The prompt is computed once, though both came together."""
    s = simulation(n_slots=2)
    s.add(family(1, 500), wanted=50)
    second = s.add(family(1, 500), wanted=50)
    while s.scheduler.running == [] or s.scheduler.running[0].in_prefill:
        s.step()
        assert s.scheduler.n_waiting == 1
    s.step()
    running = next(r for r in s.scheduler.running if r.request.id == second)
    assert running.n_reused == 499
    assert s.log == [Copy(0, 1, 499)]
    s.finish_all()


def test_a_prompt_that_shares_little_does_not_wait() -> None:
    """A few tokens alike, as every chat template has, are no reason."""
    s = simulation(n_slots=2)
    s.add([*family(1, MIN_STORED - 1), *family(2, 300)])
    s.add([*family(1, MIN_STORED - 1), *family(3, 300)])
    s.step()
    assert len(s.scheduler.running) == 2
    s.finish_all()


def test_a_conversation_goes_on_in_its_slot() -> None:
    """The next turn computes only what is new, and nothing is copied."""
    s = simulation(n_slots=2)
    s.add(family(1, 100))
    s.finish_all()
    turn = [*s.ended[0].tokens, *family(2, 10)]
    s.add(turn)
    (running,) = s.admit()
    assert running.n_reused == len(s.ended[0].tokens) - 1  # the last token was never computed
    assert s.log == []
    s.finish_all()


def test_a_shared_prefix_of_a_kept_conversation_is_copied_and_the_conversation_stays() -> None:
    """Two chats with one system prompt: the second begins with it, and the first loses nothing."""
    s = simulation(n_slots=2)
    s.add([*family(1, 100), *family(2, 300)])
    s.finish_all()
    s.add([*family(1, 100), *family(3, 50)])
    (running,) = s.admit()
    assert s.log == [Copy(0, running.slot, 100)]
    s.finish_all()
    s.add([*family(1, 100), *family(2, 300), 7])
    (again,) = s.admit()
    assert again.n_reused == 400
    s.finish_all()


def test_a_prefix_not_worth_sharing_is_computed_again() -> None:
    """Copying costs more than a few tokens."""
    s = simulation(n_slots=2)
    s.add([*family(1, MIN_COPIED - 1), *family(2, 300)], wanted=100)
    s.step()
    s.add([*family(1, MIN_COPIED - 1), *family(3, 10)])
    (running,) = s.admit()
    assert running.n_reused == 0
    s.finish_all()


def test_a_prompt_that_is_all_cached_computes_its_last_token() -> None:
    """The token's logits are needed."""
    s = simulation()
    s.add(family(1, 100), wanted=1)
    s.finish_all()
    s.add(family(1, 100), wanted=1)
    (running,) = s.admit()
    assert (running.n_reused, running.n_remaining) == (99, 1)
    s.finish_all()


def test_a_request_without_caching_uses_and_leaves_nothing() -> None:
    """`cache_prompt` false: all is computed, and the sequence is empty afterwards."""
    s = simulation()
    s.add(family(1, 100))
    s.finish_all()
    s.add(family(1, 100), cache_prompt=False)
    (running,) = s.admit()
    assert running.n_reused == 0
    s.finish_all()
    assert s.cache[running.slot] == []
    s.add(family(2, 100), cache_prompt=False)
    s.finish_all()
    s.add(family(2, 100))
    assert s.admit()[0].n_reused == 0
    s.finish_all()


def test_an_embedding_computes_all_of_its_text() -> None:
    """The hidden states of cached tokens are not there any more."""
    s = simulation()
    s.add(family(1, 100))
    s.finish_all()
    s.add(family(1, 100), embed=True)
    (running,) = s.admit()
    assert running.n_reused == 0


def test_a_request_cancelled_in_the_middle_of_its_prompt_frees_its_slot() -> None:
    """What was computed stays for the next prompt that begins alike."""
    s = simulation(n_slots=1)
    name = s.add(family(1, 500))
    s.step()
    cancelled = s.scheduler.cancel(name)
    assert isinstance(cancelled, RunningRequest)
    assert cancelled.n_answered == 0
    assert s.scheduler.running == []
    s.check()
    s.add(family(1, 500))
    assert s.admit()[0].n_reused == 64
    s.finish_all()


def test_a_waiting_request_is_cancelled_as_well() -> None:
    """It is given back as it was, and never runs; an unknown one is no error."""
    s = simulation(n_slots=1)
    s.add(family(1, 500))
    s.step()
    name = s.add(family(2, 10))
    cancelled = s.scheduler.cancel(name)
    assert isinstance(cancelled, Request)
    assert s.scheduler.cancel(name) is None
    s.finish_all()
    assert len(s.ended) == 1


def test_a_replayed_answer_goes_on_where_it_was() -> None:
    """The tokens so far are computed as part of the prompt, and count as answered."""
    s = simulation()
    s.add(family(1, 100), wanted=30, answered=[3, 1, 2])
    s.step()
    s.step()
    (running,) = s.scheduler.running
    assert running.tokens[100:103] == [3, 1, 2]
    assert running.n_answered == 4
    s.finish_all()
    assert s.ended[0].n_answered == 30


# ---------------------------------------------------------------- models that cannot forget


def test_a_model_that_cannot_forget_goes_on_only_from_a_whole_sequence() -> None:
    """The next turn reuses all of the last; another ending reuses nothing."""
    s = simulation(can_forget=False)
    s.add(family(1, 100))
    s.finish_all()
    held = s.ended[0].tokens[:-1]
    s.add([*held[:-1], 7, 7])
    assert s.admit()[0].n_reused == 0
    s.finish_all()
    s.add([*held, 7, 7])
    assert s.admit()[0].n_reused == len(held)
    s.finish_all()


def test_a_model_that_cannot_forget_does_not_copy_from_an_answer_that_has_gone_on() -> None:
    """The state of a sequence that runs is beyond its prompt."""
    s = simulation(can_forget=False, n_batch=512)
    s.add(family(1, 100), wanted=50)
    for _ in range(5):
        s.step()
    s.add([*family(1, 100), 7, 7])
    running = s.admit()[0]
    assert running.n_reused == 0
    s.finish_all()


# ---------------------------------------------------------------- states to return to

KINDS = [{"can_forget": False}, {"n_window": 20}]  # running states, and sliding windows


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_question_with_the_same_system_message_computes_only_what_is_new(
    kind: dict[str, Any],
) -> None:
    """It returns to the state at the end of the message, which the first question has kept."""
    s = simulation(**kind, n_states=3)
    system = family(1, 300)
    s.add([*system, *family(2, 100)], return_points=(300, 396))
    s.finish_all()
    s.add([*system, *family(3, 100)], return_points=(300, 396))
    assert s.admit()[0].n_reused == 300
    s.finish_all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_returns_to_the_end_of_the_prompt_if_the_answer_is_not_in_it(
    kind: dict[str, Any],
) -> None:
    """As where thoughts are left out of the history; without kept states all is computed."""
    for n_states, n_reused in ((3, 396), (0, 0)):
        s = simulation(**kind, n_states=n_states)
        s.add(family(1, 400), return_points=(396,))
        s.finish_all()
        s.add([*family(1, 396), *family(4, 50)])
        assert s.admit()[0].n_reused == n_reused
        s.finish_all()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_to_one_prompt_wait_for_its_state_and_begin_there(kind: dict[str, Any]) -> None:
    """Of four answers to one prompt one computes it; the others only compute its last token."""
    s = simulation(n_slots=4, n_batch=512, n_states=5, **kind)
    for _ in range(4):
        s.add(family(1, 200))
    s.finish_all()
    assert sorted(r.n_reused for r in s.ended) == [0, 199, 199, 199]


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_that_was_not_used_for_longest_gives_way(kind: dict[str, Any]) -> None:
    """With two of them a system message stays over all turns of a conversation, and for the next one."""
    s = simulation(n_slots=2, n_states=2, **kind)
    prompt = family(1, 300)
    for i in range(2, 7):
        prompt = [*prompt, *family(i, 100)]
        s.add(prompt, return_points=(300, len(prompt) - 1))
        s.finish_all()
        prompt = s.ended[-1].tokens
    s.add([*family(1, 300), *family(9, 100)])
    assert s.admit()[0].n_reused == 300
    s.finish_all()


def test_a_short_sequence_is_cut_back_anywhere_although_a_window_slides() -> None:
    """Nothing has left the window yet: no state is needed."""
    s = simulation(n_window=200)
    s.add(family(1, 100))
    s.finish_all()
    s.add([*family(1, 70), 7, 7])
    assert s.admit()[0].n_reused == 70
    s.finish_all()


# ---------------------------------------------------------------- the store


def talk(s: Simulation, *fs: int, n: int = 200) -> None:
    for f in fs:
        s.add(family(f, n), wanted=1)
        s.finish_all()


def test_what_is_pushed_out_of_its_slot_is_stored_and_loaded_again() -> None:
    """Three conversations in one slot: each goes on without being computed anew."""
    s = simulation(n_slots=1, store_tokens=1_000)
    talk(s, 1, 2, 3)
    for f in (1, 2, 3, 1):
        s.add([*family(f, 200), 7], wanted=1)
        assert s.admit()[0].n_reused == 200
        s.finish_all()
    assert any(isinstance(action, LoadPrefix) for action in s.log)


def test_what_is_short_is_not_stored() -> None:
    """Computing it again is quicker."""
    s = simulation(n_slots=1, store_tokens=1_000)
    talk(s, 1, 2, 3, n=MIN_STORED - 1)
    assert s.stored == {}


def test_the_oldest_is_dropped_first_and_reading_makes_young() -> None:
    """Room for three of 200: the one that was not used for longest goes."""
    s = simulation(n_slots=1, store_tokens=600)
    talk(s, 1, 2, 3, 4)
    assert list(s.stored) == [prefix_key(family(f, 200)) for f in (1, 2, 3)]
    s.add(family(1, 200), wanted=1)
    s.finish_all()  # 1 is read, so 4 pushes 2 out
    assert prefix_key(family(2, 200)) not in s.stored
    assert {prefix_key(family(f, 200)) for f in (1, 3, 4)} == set(s.stored)


def test_making_room_does_not_drop_what_is_about_to_be_read() -> None:
    """Where the store holds two, and the older one is wanted, the pushed out one is not in its place."""
    s = simulation(n_slots=1, store_tokens=400)
    talk(s, 1, 2, 3)
    s.add([*family(1, 200), 7], wanted=1)
    (running,) = s.admit()
    assert running.n_reused == 200
    s.finish_all()


def test_a_grown_conversation_replaces_its_shorter_self_in_the_store() -> None:
    """A conversation lies there once."""
    s = simulation(n_slots=1, store_tokens=10_000)
    talk(s, 1, 2)
    talk(s, 1, n=290)
    talk(s, 2)
    assert sorted(len(stored.tokens) for stored in s.stored.values()) == [200, 290]


def test_a_stored_prefix_that_cannot_be_read_is_computed_again_and_dropped() -> None:
    """The request does not notice, and the files are deleted."""
    s = simulation(n_slots=1, store_tokens=1_000)
    talk(s, 1, 2)
    key = prefix_key(family(1, 200))
    s.broken.add(key)
    s.add(family(1, 200), wanted=1)
    (running,) = s.admit()
    assert (running.n_cached, running.n_reused) == (0, 0)
    s.finish_all()
    assert DropPrefix(key) in s.log
    assert s.scheduler.cache_hits == 0


def test_a_full_disk_stores_nothing_and_harms_nothing() -> None:
    """What could not be written is not looked for."""
    s = simulation(n_slots=1, store_tokens=1_000)
    s.full = True
    talk(s, 1, 2, 1, 2)
    assert s.stored == {}
    assert not any(isinstance(action, LoadPrefix) for action in s.log)


def test_what_an_earlier_engine_stored_is_found() -> None:
    """Told of it at the start, the scheduler has it read."""
    s = simulation(n_slots=1, store_tokens=1_000)
    s.stored[prefix_key(family(1, 200))] = Cells(s.limits, family(1, 200))
    s.scheduler.add_stored(prefix_key(family(1, 200)), family(1, 200))
    s.add(family(1, 300))
    assert s.admit()[0].n_reused == 200
    s.finish_all()


def test_a_store_that_was_larger_before_is_cut_down() -> None:
    """Of what an earlier engine left, the oldest is deleted until it is within the limit."""
    s = simulation(n_slots=1, store_tokens=500)
    for f in (1, 2, 3, 4):
        s.stored[prefix_key(family(f, 200))] = Cells(s.limits, family(f, 200))
        s.scheduler.add_stored(prefix_key(family(f, 200)), family(f, 200))
    s.do_due()
    assert list(s.stored) == [prefix_key(family(f, 200)) for f in (3, 4)]


def test_what_is_kept_can_be_stored_before_the_end() -> None:
    """`store_idle` stores every quiet sequence once, and none that runs."""
    s = simulation(n_slots=3, store_tokens=1_000)
    talk(s, 1, 2)
    s.add(family(3, 200), wanted=50)
    for _ in range(10):
        s.step()
    actions = list(s.scheduler.store_idle())
    assert {a.key for a in actions if isinstance(a, StorePrefix)} == {
        prefix_key(family(f, 200)) for f in (1, 2)
    }
    for action in actions:
        s.do(action)
    assert list(s.scheduler.store_idle()) == []
    s.finish_all()


# ---------------------------------------------------------------- neighbours


def with_gaps(pass_tokens: int, *, n: int = 100, kept: int = 50, n_window: int = 0) -> Simulation:
    """Six sequences: the first, third and sixth run, n tokens each; the others hold `kept` each."""
    s = Simulation(SchedulerLimits(6, 1_000, 512, pass_tokens=pass_tokens, n_window=n_window))
    names = [s.add(family(f, n if f in {0, 2, 5} else kept), wanted=300) for f in range(6)]
    for _ in range(10):
        s.step()
    for f in (1, 3, 4):
        s.scheduler.cancel(names[f])
    return s


def test_sequences_with_a_window_stay_where_they_are_until_their_drafts_are_verified() -> None:
    """A move takes the window at the end, behind the drafts; before them it would have a hole."""
    s = with_gaps(pass_tokens=1_000, n_window=20)
    work = [s.with_drafts(w, 3, 1) for w in s.scheduler.next_step(PrefillLimits(1_000))]
    for w in work:
        s.sequences[w.running.slot].compute(w.all_tokens)
    s.scheduler.advance(work)
    s.do_due()
    assert s.scheduler.make_neighbours() == []
    for w in work:
        s.verify(w)
    for _ in range(3):
        s.step()
    assert places(s) != [0, 2, 5]


def places(s: Simulation) -> list[int]:
    return [r.slot for r in s.scheduler.running]


def test_running_sequences_become_neighbours() -> None:
    """So one pass over the weights serves them all, and what is kept is still found."""
    s = with_gaps(pass_tokens=1_000)
    s.step()
    assert places(s) == [1, 2, 3] or places(s) == [0, 1, 2] or places(s) == [2, 3, 4]
    s.finish_all()
    for f in (1, 3, 4):
        s.add([*family(f, 50), 7], wanted=1)
    assert [r.n_reused for r in s.admit()] == [50, 50, 50]


def test_as_little_as_possible_is_moved() -> None:
    """The sequence with the least moves to the others, whatever lies between."""
    s = with_gaps(pass_tokens=1_000, n=100, kept=10)
    s.log.clear()
    s.step()
    (swap,) = [action for action in s.log if isinstance(action, Swap)]
    assert {swap.sequence, swap.other} == {5, 1}
    assert places(s) == [0, 1, 2]


def test_nothing_is_moved_where_it_does_not_pay_soon() -> None:
    s = with_gaps(pass_tokens=1)
    s.step()
    assert places(s) == [0, 2, 5]
    assert not any(isinstance(action, Swap) for action in s.log)


def test_neighbours_stay_where_they_are() -> None:
    s = with_gaps(pass_tokens=1_000)
    s.step()
    s.log.clear()
    s.finish_all()
    assert not any(isinstance(action, Swap) for action in s.log)


# ---------------------------------------------------------------- adapters

STYLE: AdapterSet = ((0, 1.0),)
OTHER: AdapterSet = ((0, 0.5), (1, 1.0))


def test_a_prefix_serves_no_other_adapters() -> None:
    """What was computed with a set is reused for it alone, in a slot and from the store."""
    s = simulation(n_slots=1, store_tokens=1_000)
    for adapters, n_reused in ((STYLE, 0), ((), 0), (STYLE, 199), (OTHER, 0), ((), 199)):
        s.add(family(1, 200), wanted=1, adapters=adapters)
        s.finish_all()
        assert s.ended[-1].n_reused == n_reused


def test_a_prompt_does_not_wait_for_another_with_other_adapters() -> None:
    """Equal prompts that come together: the second waits to copy the first only if their sets are equal."""
    for adapters, n_running in ((STYLE, 1), (OTHER, 2)):
        s = simulation(n_batch=64)
        s.add(family(1, 500), adapters=STYLE)
        s.step()
        s.add(family(1, 500), adapters=adapters)
        s.step()
        assert len(s.scheduler.running) == n_running


def test_sets_take_turns_of_a_few_steps() -> None:
    """Answers with three sets: each set has TURN_STEPS steps, then the next, round and round."""
    s = simulation(n_slots=3)
    sets: list[AdapterSet] = [(), STYLE, OTHER]
    for f, adapters in enumerate(sets):
        s.add(family(f + 1, 4), wanted=1_000, adapters=adapters)
    for _ in range(3 * TURN_STEPS):  # until each has its turn from the beginning
        s.step()
    turns = [s.step()[0].running.request.adapters for _ in range(6 * TURN_STEPS)]
    runs = [(adapters, len(list(run))) for adapters, run in itertools.groupby(turns)]
    assert all(n == TURN_STEPS for _, n in runs[1:-1])
    assert {turns.count(adapters) for adapters in sets} == {2 * TURN_STEPS}


def test_nobody_gets_more_steps_by_asking_with_many_sets() -> None:
    """An owner with three sets and one with a single one: every other turn is the latter's."""
    s = simulation(n_slots=4)
    for f, scale in enumerate((0.25, 0.5, 0.75)):
        s.add(family(f + 1, 4), wanted=1_000, owner="many", adapters=((0, scale),))
    s.add(family(4, 4), wanted=1_000, owner="one")
    for _ in range(4 * TURN_STEPS):
        s.step()
    owners = [s.step()[0].running.request.owner.name for _ in range(12 * TURN_STEPS)]
    assert owners.count("one") == owners.count("many")


def test_a_turn_ends_with_its_last_request() -> None:
    """No step is lost when nothing of a set is left to compute."""
    s = simulation()
    s.add(family(1, 4), wanted=2, adapters=STYLE)
    s.add(family(2, 4), wanted=20)
    s.finish_all(most_steps=23)


def test_answers_of_another_set_wait_for_a_chunk_of_a_prompt_only() -> None:
    """A long prompt with a set of its own is computed in chunks while an answer has another."""
    s = simulation(n_batch=300)
    s.add(family(1, 4), wanted=1_000)
    s.step()
    s.add(family(2, 900), adapters=STYLE)
    chunks = [
        len(w.tokens) for _ in range(20) for w in s.step(prefill_limit=20) if w.running.in_prefill
    ]
    assert chunks
    assert max(chunks) <= 20


def test_a_key_names_the_adapters() -> None:
    """A stored prefix's key tells them, so that another process knows what it may be used for."""
    for adapters in ((), STYLE, OTHER, ((3, 0.10000000149011612),)):
        assert adapters_of(prefix_key([1, 2], adapters)) == adapters
    assert len({prefix_key([1], a) for a in ((), STYLE, OTHER)}) == 3
