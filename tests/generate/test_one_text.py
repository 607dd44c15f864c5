"""The same request gives the same text, whatever runs beside it and however much is guessed ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from dure.engine.executor import FullExecutor
from dure.engine.wire import Wire
from dure.generate.loop import EngineLoop
from dure.generate.request import Request, Sampling
from dure.generate.speculative.budget import DraftBudget
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import cut_executor, whole_executor, write_in_type
from tests.support.engine_loops import DEMO, GREEDY, LIMITS, QUESTIONS, Eager, question, run
from tests.support.products import needs_ours

pytestmark = needs_ours

REPEATS = 20
CHOICES = {"greedy": GREEDY, "sampled": Sampling(temperature=1.0, seed=3)}


@pytest.fixture(scope="module", params=["F16", "Q8_0", "Q4_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in a type."""
    return write_in_type(DEMO, request.param, tmp_path_factory.mktemp("model") / "demo.gguf")


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def executor(request: pytest.FixtureRequest, model: Path) -> Iterator[FullExecutor]:
    """The model on one rank or on two, with four sequences."""
    with ExitStack() as stack:
        if request.param == 1:
            yield stack.enter_context(whole_executor(model, LIMITS))
        else:
            shards = model.with_name("shards")
            yield stack.enter_context(
                cut_executor(model, [1, 1], shards, wire=Wire.Q8, limits=LIMITS)
            )


@pytest.fixture
def demo() -> Iterator[FullExecutor]:
    """The demo model on one rank."""
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


def test_a_request_has_one_text(executor: FullExecutor, vocabulary: Vocabulary) -> None:
    """Twenty times, with the probabilities of its tokens, which would show a difference before the text.

    Beside it are none to three other requests, one of them with a long prompt; as many tokens are guessed
    ahead as pays, or none, or always some; and its prompt is cached or not.
    """
    random = np.random.default_rng(5)
    told: dict[str, set[tuple[tuple[int, float | None], ...]]] = {name: set() for name in CHOICES}
    drafted = 0
    for n in range(REPEATS):
        proposers = [Proposer(DraftBudget()), None, Proposer(Eager(3)), Proposer(Eager(15))]
        loop = EngineLoop(executor, vocabulary, proposer=proposers[n % 4])
        for name in sorted(CHOICES, reverse=n % 2 > 0):  # the second finds the prompt cached
            events = run(loop, asked(vocabulary, name), *others(random, n))
            answer = events[name]
            told[name].add(tuple((token.token, token.logprob) for token in answer.tokens))
            drafted += answer.done.timings.drafted
    assert drafted > REPEATS
    assert {name: len(texts) for name, texts in told.items()} == dict.fromkeys(CHOICES, 1)


def test_a_seed_is_guessed_for_only_where_it_repeats(
    demo: FullExecutor, vocabulary: Vocabulary
) -> None:
    """Where a step's size decides the last bits, requests with a seed get no guesses; others do."""
    for repeats in (True, False):
        proposer = Proposer(Eager(3), repeats=repeats)
        for seed in (None, 3):
            loop = EngineLoop(demo, vocabulary, proposer=proposer)
            request = asked(
                vocabulary, "greedy"
            )  # its text repeats itself, so there is much to guess
            request.sampling = Sampling(temperature=0, seed=seed)
            request.max_tokens = 200
            drafted = run(loop, request)["greedy"].done.timings.drafted
            assert (drafted > 0) is (repeats or seed is None)


def asked(vocabulary: Vocabulary, name: str) -> Request:
    """Return the request that is repeated; its prompt repeats itself, so that there is much to guess."""
    prompt = question(vocabulary, " ".join([*QUESTIONS, *QUESTIONS]))
    return Request(
        id=name,
        prompt=prompt,
        sampling=CHOICES[name],
        max_tokens=60,
        n_logprobs=1,
        ignore_eos=True,
    )


def others(random: np.random.Generator, n: int) -> list[Request]:
    """Return other requests that come at the same time."""
    lengths = random.integers(1, 90, n % 4).tolist() + ([600] if n % 5 == 1 else [])
    return [
        Request(
            id=f"other {i}",
            prompt=random.integers(300, 1900, length).tolist(),
            sampling=Sampling(temperature=1.0),
            max_tokens=int(random.integers(1, 60)),
        )
        for i, length in enumerate(lengths)
    ]
