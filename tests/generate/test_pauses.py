"""An answer that pauses for another owner's goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dure.engine.local import LocalExecutor
from dure.generate.loop import EngineLoop
from dure.generate.request import Owner, Request
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import whole_executor
from tests.support.engine_loops import DEMO, GREEDY, KINDS, LIMITS, Eager, Told, question, run, tell
from tests.support.parrot import write_parrot

STORY = "Tell me a story about a goat."


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    """A parrot, whose logits are the same in every batch."""
    path = tmp_path_factory.mktemp("parrot") / "parrot.gguf"
    write_parrot(path, DEMO, [*range(300, 340)])
    executor = LocalExecutor(path, LIMITS)
    yield executor
    executor.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_prompt", [True, False])
def test_a_paused_answer_has_the_text_it_would_have_had(
    parrot: LocalExecutor, vocabulary: Vocabulary, kind: str, cache_prompt: bool
) -> None:
    """With every kind of sampler, and drafts; whether its tokens stay in the KV cache or not."""

    def asked(name: str, owner: str, **more: Any) -> Request:
        prompt = question(vocabulary, STORY)
        return Request(
            id=name,
            prompt=prompt,
            owner=Owner(owner),
            max_tokens=30,
            cache_prompt=cache_prompt,
            **more,
        )

    long = [asked(f"long {i}", "greedy", **KINDS[kind]) for i in range(5)]
    late = [asked(f"late {i}", "modest", sampling=GREEDY) for i in range(2)]
    loop = EngineLoop(parrot, vocabulary, proposer=Proposer(Eager(n_max=3)))
    told = {request.id: Told() for request in (*long, *late)}
    for request in long:
        loop.submit(request)
    for n in range(100_000):
        if not loop.busy:
            break
        if n == 12:
            for request in late:
                loop.submit(request)
        for event in loop.step():
            tell(told[event.id], event)
    pauses = {owner.name: owner.pauses for owner in loop.stats().owners}
    assert pauses == {"greedy": 2, "modest": 0}
    alone = run(EngineLoop(parrot, vocabulary), long[0])[long[0].id]
    for request in long:
        assert told[request.id].ids == alone.ids
        assert told[request.id].done.timings.tokens == len(alone.ids)
        progress = [event.processed for event in told[request.id].progress]
        assert progress == sorted(progress), "told once"


def test_a_paused_answer_can_be_cancelled(demo: LocalExecutor, vocabulary: Vocabulary) -> None:
    """Its end tells the tokens that it had."""
    prompt = question(vocabulary, STORY)
    low = [
        Request(id=f"{i}", prompt=prompt, sampling=GREEDY, owner=Owner("low", priority=-1))
        for i in range(4)
    ]
    high = [
        Request(id=f"high {i}", prompt=prompt, sampling=GREEDY, owner=Owner("high", priority=1))
        for i in range(4)
    ]
    loop = EngineLoop(demo, vocabulary)
    told = {request.id: Told() for request in (*low, *high)}

    def step() -> None:
        for event in loop.step():
            tell(told[event.id], event)

    for request in low:
        loop.submit(request)
    while not told["3"].tokens:
        step()
    for request in high:
        loop.submit(request)
    step()
    assert loop.stats().waiting == 4
    for request in (*low, *high):
        loop.cancel(request.id)
    step()
    assert not loop.busy
    for request in low:
        assert told[request.id].done.reason == "cancelled"
        assert told[request.id].done.timings.tokens == len(told[request.id].tokens) > 0
