"""Requests with different adapters on one engine's loop: each gets the text that it gets alone.

Real adapters on the demo model, on one rank and on two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dure.engine.adapters import AdapterSet
from dure.engine.executor import FullExecutor
from dure.generate.loop import EngineLoop
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import Failed, PromptLogprobs, Request
from dure.generate.speculative.proposer import Proposer
from dure.model.adapter import open_adapter, plan_adapter
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model
from dure.model.vocabulary import Vocabulary
from tests.support.adapters import write_adapter
from tests.support.cut_models import cut_executor, whole_executor
from tests.support.engine_loops import (
    DEMO,
    GREEDY,
    LIMITS,
    QUESTIONS,
    Eager,
    Told,
    question,
    run,
)

SETS: list[AdapterSet] = [(), ((0, 1.0),), ((1, 0.5),), ((0, 0.5), (1, 1.0))]
N = 24  # tokens of an answer


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of the demo model."""
    directory = tmp_path_factory.mktemp("adapters")
    return [
        write_adapter(
            DEMO, directory / f"{seed}.gguf", seed=seed, rank=6, type_name="F16", strength=4
        )
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def executor(
    request: pytest.FixtureRequest, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullExecutor]:
    """The demo model with both adapters."""
    if request.param == 1:
        with whole_executor(DEMO, LIMITS) as whole:
            for path in adapters:
                whole.load_adapter([str(path)])
            yield whole
        return
    shards = tmp_path_factory.mktemp("shards")
    with open_gguf(DEMO) as model, cut_executor(DEMO, [1, 1], shards, limits=LIMITS) as cut:
        for path in adapters:
            with open_adapter(path) as file:
                parts = plan_adapter(file, plan_cut(model, [1, 1]), shards)
                cut_model(file, parts)
            cut.load_adapter([part.path.name for part in parts])
        yield cut


def asked(vocabulary: Vocabulary, text: str, adapters: AdapterSet, name: str = "") -> Request:
    return Request(
        id=name or f"{text} {adapters}",
        prompt=question(vocabulary, text),
        sampling=GREEDY,
        max_tokens=N,
        ignore_eos=True,
        adapters=adapters,
    )


def alone(executor: FullExecutor, vocabulary: Vocabulary, request: Request) -> Told:
    """What a request gets on a loop that has cached nothing."""
    return run(EngineLoop(executor, vocabulary), request)[request.id]


def test_each_gets_what_it_gets_alone(executor: FullExecutor, vocabulary: Vocabulary) -> None:
    """One question with four sets of adapters at once, and another one: with and without guesses."""
    requests = [asked(vocabulary, text, a) for text in QUESTIONS[:2] for a in SETS]
    expected = {r.id: alone(executor, vocabulary, r).ids for r in requests}
    assert len({tuple(ids) for ids in expected.values()}) == len(requests), (
        "adapters change the text"
    )
    for proposer in (None, Proposer(Eager(8))):
        together = run(EngineLoop(executor, vocabulary, proposer=proposer), *requests)
        assert {name: told.ids for name, told in together.items()} == expected


def test_a_cached_prompt_is_computed_anew_for_other_adapters(
    executor: FullExecutor, vocabulary: Vocabulary
) -> None:
    """The same prompt again is cached; with another set it is not, and its text is right."""
    expected = {a: alone(executor, vocabulary, asked(vocabulary, QUESTIONS[1], a)) for a in SETS}
    loop = EngineLoop(executor, vocabulary)
    for n, (adapters, is_cached) in enumerate(
        ((SETS[1], False), (SETS[1], True), (SETS[0], False), (SETS[3], False), (SETS[0], True))
    ):
        request = asked(vocabulary, QUESTIONS[1], adapters, name=f"r{n}")
        told = run(loop, request)[request.id]
        assert (told.done.timings.cached_tokens > 0) is is_cached
        assert told.ids == expected[adapters].ids


def test_stored_prompts_keep_their_adapters(
    executor: FullExecutor, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """A loop that comes after another reads back what was stored with a set, for that set alone."""
    long = QUESTIONS[1] + " " + " ".join(["Tell me more about the goat and the barley."] * 8)
    expected = {a: alone(executor, vocabulary, asked(vocabulary, long, a)) for a in SETS[:3]}
    first = EngineLoop(
        executor, vocabulary, store=PrefixStore(tmp_path, executor), store_tokens=2_000
    )
    for adapters in SETS[:2]:
        run(first, asked(vocabulary, long, adapters))
    first.persist()
    second = EngineLoop(
        executor, vocabulary, store=PrefixStore(tmp_path, executor), store_tokens=2_000
    )
    for adapters, is_cached in ((SETS[1], True), (SETS[2], False), (SETS[0], True)):
        request = asked(vocabulary, long, adapters)
        told = run(second, request)[request.id]
        assert (told.done.timings.cached_tokens > 0) is is_cached
        assert told.ids == expected[adapters].ids


def test_scores_and_resumed_answers_have_their_adapters(
    executor: FullExecutor, vocabulary: Vocabulary
) -> None:
    """An answer that another engine began goes on as it would have; a prompt's logprobs differ by set."""
    request = asked(vocabulary, QUESTIONS[1], SETS[1])
    whole = alone(executor, vocabulary, request).ids
    rest = msgspec.structs.replace(request, answered=whole[:10])
    beside = asked(vocabulary, QUESTIONS[2], ())
    assert run(EngineLoop(executor, vocabulary), rest, beside)[rest.id].ids == whole[10:]
    scored = [
        alone(executor, vocabulary, msgspec.structs.replace(r, prompt_logprobs=0, max_tokens=1))
        for r in (request, asked(vocabulary, QUESTIONS[1], ()))
    ]
    first, second = ([logprobs_of(event) for event in told.read] for told in scored)
    assert len(first) == len(second)
    assert first != second


def logprobs_of(event: object) -> tuple[float, ...]:
    assert isinstance(event, PromptLogprobs)
    return event.logprobs


def test_an_adapter_that_is_not_there_is_named(
    executor: FullExecutor, vocabulary: Vocabulary
) -> None:
    """Before anything is computed; other requests go on."""
    loop = EngineLoop(executor, vocabulary)
    wrong, right = asked(vocabulary, QUESTIONS[0], ((2, 1.0),)), asked(vocabulary, QUESTIONS[0], ())
    told = run(loop, wrong, right)
    end = told[wrong.id].end
    assert isinstance(end, Failed)
    assert end.error.message == "lora: there is no adapter 2: there are 0, 1"
    assert len(told[right.id].ids) == N
