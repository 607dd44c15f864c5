"""A grammar that takes long holds up its own answer, and no other.

`Gated` stands for such a grammar: its sampler reads it, and chooses, only once a gate is open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from dure.engine.executor import Floats, TopK
from dure.engine.local import LocalExecutor
from dure.generate.loop import EngineLoop
from dure.generate.request import Failed, Grammar, Request
from dure.generate.sampling import Sampler
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import whole_executor
from tests.support.engine_loops import DEMO, GREEDY, LIMITS, Eager, Told, question, run, tell

STORY = "Tell me a story about a goat."
ANY = Grammar(r"root ::= [^\x00]*")


class _Slow(Sampler):
    """A sampler that waits for a gate before each choice."""

    gate: threading.Event
    began: threading.Event

    def choose(self, top: TopK, all_logits: Callable[[], Floats]) -> int:
        self.began.set()
        assert self.gate.wait(60)
        return super().choose(top, all_logits)


class Gated(EngineLoop):
    """A loop whose grammars wait for `reading` before they are read, and for `choosing` at each token."""

    def __init__(self, executor: LocalExecutor, vocabulary: Vocabulary) -> None:
        super().__init__(executor, vocabulary, proposer=Proposer(Eager(n_max=4)))
        self.reading, self.choosing, self.began = (threading.Event() for _ in range(3))

    def _sampler(self, request: Request) -> Sampler:
        sampler = super()._sampler(request)
        if request.grammar is not None:
            assert self.reading.wait(60)
            sampler.__class__ = _Slow
            assert isinstance(sampler, _Slow)
            sampler.gate, sampler.began = self.choosing, self.began
        return sampler


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


def asked(vocabulary: Vocabulary, name: str, grammar: Grammar | None, n: int = 40) -> Request:
    prompt = question(vocabulary, STORY)
    return Request(
        id=name, prompt=prompt, sampling=GREEDY, max_tokens=n, grammar=grammar, n_logprobs=2
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
