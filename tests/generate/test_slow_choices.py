"""A grammar that takes long holds up its own answer, and no other; one that takes too long fails it.

`Gated` stands for such a grammar: its sampler reads it, and chooses, only once a gate is open.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Literal

import msgspec
import pytest

from dure.engine.executor import Floats, TopK
from dure.engine.local import LocalExecutor
from dure.errors import BusyError, DureError, UsageError, revived
from dure.generate.choosing import MOST_GIVEN_UP, MOST_THREADS, TOKEN_S, SlowWork, Work
from dure.generate.loop import EngineLoop
from dure.generate.request import NOBODY, Failed, Grammar, Owner, Request
from dure.generate.sampling import Sampler
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import whole_executor
from tests.support.engine_loops import DEMO, GREEDY, LIMITS, Eager, Told, question, run, tell
from tests.support.serving import wait_until

STORY = "Tell me a story about a goat."
ANY = Grammar(r"root ::= [^\x00]*")
SLOW = Owner("slow")
WAIT_S = 60.0  # detects a hang


class _Slow(Sampler):
    """A sampler that waits for a gate before each choice."""

    gate: threading.Event
    began: threading.Event

    def choose(self, top: TopK, all_logits: Callable[[], Floats]) -> int:
        self.began.set()
        assert self.gate.wait(60)
        return super().choose(top, all_logits)


class Gated(EngineLoop):
    """A loop whose grammars wait for `reading` before they are read, and for `choosing` at each token.

    Those of an owner with a name, but SLOW, do not wait.
    """

    def __init__(
        self, executor: LocalExecutor, vocabulary: Vocabulary, grammar_s: float = TOKEN_S
    ) -> None:
        proposer = Proposer(Eager(n_max=4))
        super().__init__(executor, vocabulary, proposer=proposer, grammar_s=grammar_s)
        self.reading, self.choosing, self.began = (threading.Event() for _ in range(3))

    def _sampler(self, request: Request) -> Sampler:
        sampler = super()._sampler(request)
        if request.grammar is not None and request.owner.name in {"", SLOW.name}:
            assert self.reading.wait(60)
            sampler.__class__ = _Slow
            assert isinstance(sampler, _Slow)
            sampler.gate, sampler.began = self.choosing, self.began
        return sampler


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


def asked(
    vocabulary: Vocabulary,
    name: str,
    grammar: Grammar | None,
    n: int = 40,
    owner: Owner = NOBODY,
) -> Request:
    prompt = question(vocabulary, STORY)
    return Request(
        id=name,
        prompt=prompt,
        sampling=GREEDY,
        max_tokens=n,
        grammar=grammar,
        n_logprobs=2,
        owner=owner,
    )


def until(loop: EngineLoop, told: dict[str, Told], enough: Callable[[], bool]) -> None:
    """Step until a condition holds."""
    for _ in range(100_000):
        if enough():
            return
        for event in loop.step():
            tell(told[event.id], event)
    raise AssertionError("it never holds")


@pytest.mark.parametrize("stage", ["reading", "choosing"])
def test_others_go_on_while_a_grammar_takes_long(
    demo: LocalExecutor, vocabulary: Vocabulary, stage: str
) -> None:
    """A whole answer is written meanwhile; then the slow one goes on, as if it had been alone."""
    loop = Gated(demo, vocabulary)
    free, slow = asked(vocabulary, "free", None), asked(vocabulary, "slow", ANY)
    told = {"free": Told(), "slow": Told()}
    if stage == "choosing":
        loop.reading.set()
    loop.submit(slow)
    if stage == "choosing":
        until(loop, told, loop.began.is_set)
    loop.submit(free)
    until(loop, told, lambda: told["free"].end is not None)
    assert told["slow"].tokens == []
    loop.reading.set()
    loop.choosing.set()
    until(loop, told, lambda: not loop.busy)
    alone = run(EngineLoop(demo, vocabulary), free)["free"]
    assert told["free"].ids == told["slow"].ids == alone.ids
    logprobs = [token.logprob for token in alone.tokens]
    assert [token.logprob for token in told["slow"].tokens] == pytest.approx(logprobs, abs=1e-3)


@pytest.mark.parametrize("stage", ["reading", "choosing"])
def test_a_request_can_be_cancelled_while_its_grammar_takes_long(
    demo: LocalExecutor, vocabulary: Vocabulary, stage: str
) -> None:
    """It ends at once; what it leaves in the KV cache, drafts that nobody verified too, misleads no one."""
    loop = Gated(demo, vocabulary)
    loop.reading.set()
    loop.choosing.set()
    first = run(loop, asked(vocabulary, "first", None))["first"]
    again = question(vocabulary, STORY) + first.ids[:30]  # repeats itself: there are drafts
    slow = msgspec.structs.replace(asked(vocabulary, "slow", ANY), prompt=again + again)
    told = {"slow": Told()}
    if stage == "reading":
        loop.reading.clear()
        loop.submit(slow)
    else:
        loop.submit(slow)
        until(loop, told, lambda: len(told["slow"].tokens) > 2)
        loop.choosing.clear()
        loop.began.clear()
        until(loop, told, loop.began.is_set)
    loop.cancel("slow")
    until(loop, told, lambda: told["slow"].end is not None)
    assert told["slow"].done.reason == "cancelled"
    loop.reading.set()
    loop.choosing.set()
    taken_up = msgspec.structs.replace(slow, id="after", grammar=None)
    alone = run(EngineLoop(demo, vocabulary), taken_up)["after"]
    assert run(loop, taken_up)["after"].ids == alone.ids


def test_a_grammar_that_cannot_be_read_fails_its_own_request(
    demo: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """The other one is answered."""
    bad = asked(vocabulary, "bad", Grammar("root ::= ("))
    told = run(EngineLoop(demo, vocabulary), bad, asked(vocabulary, "good", None))
    assert isinstance(told["bad"].end, Failed)
    assert len(told["good"].ids) == 40


@pytest.mark.parametrize("stage", ["reading", "choosing"])
def test_slow_grammars_take_no_slots_from_others(
    demo: LocalExecutor, vocabulary: Vocabulary, stage: str
) -> None:
    """All slots had such an answer; they go on when they can, as if they had been alone."""
    loop = Gated(demo, vocabulary)
    free = asked(vocabulary, "free", None)
    alone = run(EngineLoop(demo, vocabulary), free)["free"]
    slow = [asked(vocabulary, f"slow{i}", ANY) for i in range(LIMITS.n_sequences)]
    told = {request.id: Told() for request in [*slow, free]}
    loop.reading.set()
    loop.choosing.set()
    for request in slow:
        loop.submit(request)
    if stage == "reading":
        loop.reading.clear()
    else:
        until(loop, told, lambda: all(len(told[request.id].tokens) > 2 for request in slow))
    loop.choosing.clear()
    loop.submit(free)
    until(loop, told, lambda: told["free"].end is not None)
    assert told["free"].ids == alone.ids
    assert not any(told[request.id].end for request in slow)
    loop.cancel("slow0")
    loop.reading.set()
    loop.choosing.set()
    until(loop, told, lambda: not loop.busy)
    assert told["slow0"].done.reason == "cancelled"
    for request in slow[1:]:
        assert told[request.id].ids == alone.ids


@pytest.fixture(scope="module")
def wide() -> Iterator[LocalExecutor]:
    """One that has slots for more slow answers than an owner has threads."""
    with whole_executor(DEMO, dataclasses.replace(LIMITS, n_sequences=8)) as executor:
        yield executor


@pytest.mark.parametrize("stage", ["reading", "choosing"])
def test_grammars_of_one_owner_hold_up_no_other(
    wide: LocalExecutor, vocabulary: Vocabulary, stage: str
) -> None:
    """They take all the threads that it may have; another's grammar is read and followed to its end."""
    loop = Gated(wide, vocabulary)
    if stage == "choosing":
        loop.reading.set()
    slow = [asked(vocabulary, f"slow{i}", ANY, owner=SLOW) for i in range(MOST_THREADS + 2)]
    other = asked(vocabulary, "other", ANY, owner=Owner("other"))
    told = {request.id: Told() for request in [*slow, other]}
    for request in slow:
        loop.submit(request)
    for _ in range(100):
        loop.step()
    loop.submit(other)
    until(loop, told, lambda: told["other"].end is not None)
    assert len(told["other"].ids) == 40
    assert not any(told[request.id].end for request in slow)
    loop.reading.set()
    loop.choosing.set()
    until(loop, told, lambda: not loop.busy)


@pytest.mark.parametrize("stage", ["reading", "choosing"])
def test_a_grammar_that_takes_too_long_fails_its_answer(
    demo: LocalExecutor, vocabulary: Vocabulary, stage: str
) -> None:
    """With an error that says so; an answer without a grammar goes on as if nothing were."""
    loop = Gated(demo, vocabulary, grammar_s=0.1)
    if stage == "choosing":
        loop.reading.set()
    free = asked(vocabulary, "free", None)
    told = run(loop, asked(vocabulary, "slow", ANY), free)
    end = told["slow"].end
    assert isinstance(end, Failed)
    with pytest.raises(UsageError, match=r"takes longer than 0\.1 s for one token: give a grammar"):
        raise revived(end.error)
    assert told["free"].ids == run(EngineLoop(demo, vocabulary), free)["free"].ids
    loop.reading.set()
    loop.choosing.set()


class Ends:
    """The ends of pieces of work that wait for a gate. begun: those that a thread has begun."""

    def __init__(self, slow: SlowWork) -> None:
        self.slow, self.gate = slow, threading.Event()
        self.begun, self.of = set[str](), dict[str, DureError | Literal["cancelled"] | None]()

    def begin(self, name: str) -> None:
        def do() -> None:
            self.begun.add(name)
            assert self.gate.wait(WAIT_S)

        def done(future: Future[Any]) -> None:
            cancelled = future.cancelled()
            self.of[name] = "cancelled" if cancelled else future.exception()  # type: ignore[assignment]

        self.slow.begin(Work(Request(id=name, prompt=[1], owner=SLOW), do, done))

    def wait(self) -> None:
        """Wait until all have ended."""
        while len(self.slow):
            self.slow.advance(0.1)


def test_threads_that_do_not_end_are_replaced_up_to_a_number() -> None:
    """The next work then waits for none: it fails, until one of them ends."""
    ends, n = Ends(SlowWork(token_s=0.1)), 3 * (MOST_THREADS + MOST_GIVEN_UP)
    for i in range(n):
        ends.begin(str(i))
    ends.wait()
    kinds = [type(ends.of[str(i)]) for i in range(n)]
    n_slow = len(ends.begun)
    assert n_slow > MOST_GIVEN_UP
    assert kinds == [UsageError] * n_slow + [BusyError] * (n - n_slow)
    ends.gate.set()
    ends.begin("after")
    ends.wait()
    while ends.of["after"] is not None:
        ends.begin("after")
        ends.wait()


def test_work_for_a_cancelled_request_is_not_begun() -> None:
    """It leaves the queue; what a thread has begun goes on."""
    ends = Ends(SlowWork(TOKEN_S))
    for i in range(MOST_THREADS + 1):
        ends.begin(str(i))
    wait_until(lambda: "0" in ends.begun, "it does not begin")
    ends.slow.cancel(str(MOST_THREADS))
    ends.slow.cancel("0")
    ends.gate.set()
    ends.wait()
    assert [ends.of[str(i)] for i in range(MOST_THREADS + 1)] == [None] * MOST_THREADS + [
        "cancelled"
    ]
    assert ends.begun == {str(i) for i in range(MOST_THREADS)}
