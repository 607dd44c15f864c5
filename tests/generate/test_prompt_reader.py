"""What a model gives to a prompt itself: its tokens' logprobs, and all of its logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from dure.engine.executor import TOP_K, Batch
from dure.engine.kv import Clear
from dure.engine.local import LocalExecutor
from dure.generate.loop import EngineLoop
from dure.generate.request import PromptLogits, PromptLogprobs, Request
from dure.model.vocabulary import Vocabulary
from tests.support.engine_loops import DEMO, GREEDY, LIMITS, question, run

N_OUTPUTS = LIMITS.n_outputs
TEXT = "Once upon a time a goat went to the mill, and the baker asked it for flour. " * 4


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(DEMO, LIMITS)
    yield executor
    executor.close()


@pytest.fixture
def loop(executor: LocalExecutor, vocabulary: Vocabulary) -> EngineLoop:
    return EngineLoop(executor, vocabulary)


def one_by_one(executor: LocalExecutor, tokens: list[int]) -> npt.NDArray[np.float32]:
    """Return all logits after each token, computed a token a step: float32 [n, n_vocab]."""
    rows = []
    for at, token in enumerate(tokens):
        batch = Batch(
            np.array([token], np.int32),
            np.array([at], np.int32),
            np.zeros(1, np.int32),
            (0,),
            kv=[Clear()] if at == 0 else [],
        )
        executor.step(batch)
        rows.append(executor.logits(0))
    return np.stack(rows)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def read(loop: EngineLoop, *requests: Request) -> dict[str, list[PromptLogprobs | PromptLogits]]:
    """Answer requests, and return what was told of their prompts, in its order."""
    return {name: told.read for name, told in run(loop, *requests).items()}


def test_logits_are_those_of_each_token_alone(
    executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """A prompt over several chunks gets what it gets token by token, and every row once."""
    tokens = vocabulary.tokenize(TEXT)
    assert len(tokens) > 2 * N_OUTPUTS
    alone = one_by_one(executor, tokens)
    events = read(
        EngineLoop(executor, vocabulary), Request(id="a", prompt=tokens, prompt_logits=True)
    )["a"]
    assert [event.start for event in events] == list(range(0, len(tokens), N_OUTPUTS))
    values = b"".join(event.values for event in events if isinstance(event, PromptLogits))
    rows = np.frombuffer(values, np.float32).reshape(len(tokens), -1)
    np.testing.assert_allclose(rows, alone, atol=0.15)
    assert (rows.argmax(1) == alone.argmax(1)).mean() > 0.95


def test_logprobs_follow_from_the_logits(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """Each token but the first has its logprob after those before it, with the likeliest."""
    tokens = vocabulary.tokenize(TEXT)
    told = read(
        loop,
        Request(id="logits", prompt=tokens, prompt_logits=True),
        Request(id="logprobs", prompt=tokens, prompt_logprobs=2, max_tokens=0),
    )
    values = b"".join(event.values for event in told["logits"] if isinstance(event, PromptLogits))
    expected = log_softmax(np.frombuffer(values, np.float32).reshape(len(tokens), -1))
    events = [event for event in told["logprobs"] if isinstance(event, PromptLogprobs)]
    own = [logprob for event in events for logprob in event.logprobs]
    tops = [top for event in events for top in event.tops]
    assert [event.start for event in events] == list(range(1, len(tokens), N_OUTPUTS))
    assert len(own) == len(tops) == len(tokens) - 1
    np.testing.assert_allclose(own, expected[np.arange(len(own)), tokens[1:]], atol=1e-4)
    for top, row in zip(tops, expected[:-1], strict=True):
        assert [token for token, _ in top] == np.argsort(-row, kind="stable")[:2].tolist()
    ranks = (-expected[:-1]).argsort(1).argsort(1)[np.arange(len(own)), tokens[1:]]
    assert max(ranks) > TOP_K > min(ranks), "some are not among those that ranks report"


def test_the_answer_goes_on_as_without_them(
    executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """A prompt whose logprobs are asked for gets the same answer, beside others, and they theirs."""
    prompts = {
        name: question(vocabulary, name) for name in ("Who is the baker?", "Tell me a story.")
    }
    plain = run(
        EngineLoop(executor, vocabulary),
        *(Request(id=i, prompt=p, sampling=GREEDY, max_tokens=40) for i, p in prompts.items()),
    )
    told = run(
        EngineLoop(executor, vocabulary),
        *(
            Request(
                id=i,
                prompt=p,
                sampling=GREEDY,
                max_tokens=40,
                prompt_logprobs=0 if "baker" in i else None,
            )
            for i, p in prompts.items()
        ),
    )
    assert {i: t.ids for i, t in told.items()} == {i: t.ids for i, t in plain.items()}


def test_a_cached_prompt_is_read_again_and_serves_others(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """All logprobs come though the prompt is cached; a later request reuses what was read."""
    tokens = vocabulary.tokenize(TEXT)
    request = Request(id="a", prompt=tokens, prompt_logprobs=0, max_tokens=0)
    first, again = read(loop, request), read(loop, request)
    assert again == first
    assert sum(len(e.logprobs) for e in again["a"] if isinstance(e, PromptLogprobs)) == (
        len(tokens) - 1
    )
    later = run(loop, Request(id="b", prompt=tokens, sampling=GREEDY, max_tokens=1))["b"]
    assert later.done.timings.cached_tokens == len(tokens) - 1
