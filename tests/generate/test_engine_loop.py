"""The engine's loop on real models: every request gets the text it would get alone.

The demo model where real logits matter, a parrot where the text must be known beforehand, and two ranks
where it must be the same over MPI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from dure.engine.executor import FullExecutor
from dure.engine.kv import Clear
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.generate.checkpoints import Checkpoints
from dure.generate.loop import EngineLoop
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import (
    Failed,
    Grammar,
    PrefillProgress,
    Request,
    Sampling,
    Token,
)
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary
from tests.support.cut_models import cut_executor, prefill_and_decode, step, whole_executor
from tests.support.engine_loops import (
    DEMO,
    GREEDY,
    KINDS,
    LIMITS,
    QUESTIONS,
    WILD,
    Eager,
    Told,
    question,
    run,
    tell,
)
from tests.support.parrot import write_parrot

SAYS = [*range(300, 340)]  # a parrot's text


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    """The demo model, four sequences of 1,024."""
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullExecutor]:
    """The demo model cut over two ranks."""
    with cut_executor(DEMO, [1, 1], tmp_path_factory.mktemp("shards"), limits=LIMITS) as executor:
        yield executor


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    """A parrot with two sequences of 256."""
    path = tmp_path_factory.mktemp("parrot") / "parrot.gguf"
    write_parrot(path, DEMO, SAYS)
    executor = LocalExecutor(path, Limits(256, threads=1, n_sequences=2))
    yield executor
    executor.close()


@pytest.fixture
def loop(demo: LocalExecutor, vocabulary: Vocabulary) -> EngineLoop:
    """A loop on the demo model that has cached nothing."""
    return EngineLoop(demo, vocabulary)


def asked(vocabulary: Vocabulary, texts: Sequence[str], max_tokens: int = 40) -> list[Request]:
    return [
        Request(id=text, prompt=question(vocabulary, text), sampling=GREEDY, max_tokens=max_tokens)
        for text in texts
    ]


# ---------------------------------------------------------------- many at once


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_many_at_once_get_the_text_they_get_alone(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, ranks: str
) -> None:
    """Six questions on four sequences, batched and one by one, on one rank and on two: the same."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    requests = asked(vocabulary, QUESTIONS)
    together = run(EngineLoop(executor, vocabulary), *requests)
    for r in requests:
        alone = run(EngineLoop(executor, vocabulary), r)[r.id]
        assert together[r.id].ids == alone.ids
        assert together[r.id].done.reason == alone.done.reason
        assert together[r.id].done.end_token == alone.done.end_token


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_answers_go_on_where_they_have_moved_to(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, ranks: str
) -> None:
    """When answers between them have ended, the others become neighbours; their text is the same."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    requests = [
        msgspec.structs.replace(r, max_tokens=3 if n in {1, 2} else 40)
        for n, r in enumerate(asked(vocabulary, QUESTIONS[:4]))
    ]
    loop = EngineLoop(executor, vocabulary, pass_tokens=1_000)
    places: set[tuple[int, ...]] = set()
    together = run(
        loop,
        *requests,
        after_step=lambda *_: places.add(tuple(r.slot for r in loop._scheduler.running)),
    )
    assert (0, 1) in places or (2, 3) in places
    for r in requests:
        assert together[r.id].ids == run(EngineLoop(executor, vocabulary), r)[r.id].ids


def test_a_request_that_comes_later_joins_those_that_run(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """It does not wait for them, and nobody's text changes."""
    first, second = asked(vocabulary, QUESTIONS[1::2][:2], max_tokens=60)
    told = {first.id: Told(), second.id: Told()}
    loop.submit(first)
    for n in range(300):
        if n == 10:
            loop.submit(second)
        for event in loop.step():
            tell(told[event.id], event)
        if n == 20:
            assert told[first.id].end is None
            assert told[second.id].ids
    for r in (first, second):
        assert told[r.id].ids == run(EngineLoop(loop._executor, vocabulary), r)[r.id].ids


def test_random_choice_is_the_same_in_every_company(
    parrot: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """With a seed, penalties and a bias, an answer does not depend on what runs beside it."""
    sampling = msgspec.structs.replace(
        WILD, repeat_penalty=1.2, presence_penalty=0.3, dry_multiplier=0.5, logit_bias={5: 1.0}
    )
    requests = [
        Request(
            id=str(seed),
            prompt=[7, 8, 9],
            sampling=msgspec.structs.replace(sampling, seed=seed),
            max_tokens=50,
        )
        for seed in range(5)
    ]
    together = run(EngineLoop(parrot, vocabulary), *requests)
    assert len({tuple(told.ids) for told in together.values()}) == 5
    for r in requests:
        assert run(EngineLoop(parrot, vocabulary), r)[r.id].ids == together[r.id].ids


def test_a_long_prompt_comes_in_chunks_beside_an_answer(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """The answer goes on while the prompt is computed; progress is told, and both texts are right."""
    talk = asked(vocabulary, QUESTIONS[1:2], max_tokens=200)[0]
    long = Request(
        id="long",
        prompt=vocabulary.tokenize("Mina bakes bread, and Joon makes hooks. " * 75),
        sampling=GREEDY,
        max_tokens=8,
    )
    assert len(long.prompt) > loop._executor.info.n_batch
    answered: list[int] = []
    told = run(loop, talk, long, after_step=lambda _, t: answered.append(len(t[talk.id].tokens)))
    assert max(b - a for a, b in pairwise(answered)) == 1
    processed = [p.processed for p in told["long"].progress]
    assert processed == sorted(processed)
    assert processed[-1] == len(long.prompt)
    assert len(processed) > 2
    assert all(p.total == len(long.prompt) for p in told["long"].progress)
    for r in (talk, long):
        assert told[r.id].ids == run(EngineLoop(loop._executor, vocabulary), r)[r.id].ids


def test_one_that_is_admitted_is_told_of_before_it_is_computed(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """So that a request that ends the process is known to have run."""
    (r,) = asked(vocabulary, QUESTIONS[:1])
    loop.submit(r)
    (event,) = loop.admit()
    assert isinstance(event, PrefillProgress)
    assert (event.id, event.processed) == (r.id, 0)
    assert loop.stats().steps == 0
    loop.cancel(r.id)


# ---------------------------------------------------------------- prefixes


def test_the_next_turn_reuses_the_last(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """All but the new question is cached, and the answer is that of an empty cache."""
    (first,) = asked(vocabulary, QUESTIONS[1:2])
    answer = run(loop, first)[first.id]
    prompt = first.prompt + answer.ids + question(vocabulary, QUESTIONS[4])
    turn = Request(id="turn", prompt=prompt, sampling=GREEDY, max_tokens=30)
    told = run(loop, turn)["turn"]
    assert told.done.timings.cached_tokens >= len(first.prompt) + len(answer.ids) - 1
    assert told.progress[0].cached == told.done.timings.cached_tokens
    fresh = run(EngineLoop(loop._executor, vocabulary), turn)["turn"]
    assert fresh.done.timings.cached_tokens == 0
    assert told.ids == fresh.ids


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_a_shared_prompt_is_computed_once_for_all(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, ranks: str
) -> None:
    """Four requests that begin with the same 100 tokens: three copy them, and each text is right."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    system = vocabulary.tokenize("The goat looked at the barley, and Mina baked bread. " * 8)
    assert len(system) >= 100
    requests = [
        Request(id=q, prompt=system + question(vocabulary, q), sampling=GREEDY, max_tokens=12)
        for q in QUESTIONS[:4]
    ]
    together = run(EngineLoop(executor, vocabulary), *requests)
    cached = [told.done.timings.cached_tokens for told in together.values()]
    assert sorted(cached)[0] == 0
    assert all(n >= len(system) for n in sorted(cached)[1:])
    for r in requests:
        assert together[r.id].ids == run(EngineLoop(executor, vocabulary), r)[r.id].ids


def test_without_caching_nothing_is_reused_or_left(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """The same prompt again is computed again."""
    (r,) = asked(vocabulary, QUESTIONS[:1])
    r = msgspec.structs.replace(r, cache_prompt=False)
    for _ in range(2):
        assert run(loop, r)[r.id].done.timings.cached_tokens == 0
    assert loop.stats().kv_kept == 0
    assert loop.stats().sequences_held == 0


# ---------------------------------------------------------------- ends


def test_max_tokens_ends_with_length(parrot: LocalExecutor, vocabulary: Vocabulary) -> None:
    """Exactly so many tokens; none where none are wanted, with the prompt computed."""
    for n in (0, 1, 7):
        r = Request(id="r", prompt=[7, 8], sampling=GREEDY, max_tokens=n)
        told = run(EngineLoop(parrot, vocabulary), r)["r"]
        assert told.ids == SAYS[:n]
        assert told.done.reason == "length"
        assert told.done.timings.tokens == n
        assert told.progress[-1].processed == 2


@pytest.mark.parametrize("n_prompt", [1, 100, 255])
def test_a_full_context_ends_with_length(
    parrot: LocalExecutor, vocabulary: Vocabulary, n_prompt: int
) -> None:
    """Prompt and answer fill it, and no step fails."""
    told = run(
        EngineLoop(parrot, vocabulary), Request(id="r", prompt=[7] * n_prompt, sampling=GREEDY)
    )["r"]
    assert told.ids == (SAYS * 7)[: 256 - n_prompt]
    assert told.done.reason == "length"


def test_the_models_end_is_stop_and_no_token(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """It is told as the end's token; with `ignore_eos` the answer goes on instead."""
    (r,) = asked(vocabulary, QUESTIONS[:1], max_tokens=200)
    told = run(loop, r)[r.id]
    assert told.done.reason == "stop"
    assert told.done.end_token in vocabulary.ends
    assert not set(told.ids) & set(vocabulary.ends)
    on = run(loop, msgspec.structs.replace(r, ignore_eos=True))[r.id]
    assert on.done.reason == "length"
    assert len(on.ids) == 200
    assert on.ids[: len(told.ids)] == told.ids
    assert not set(on.ids) & set(vocabulary.ends)


def test_a_callers_own_end_token_is_stop(parrot: LocalExecutor, vocabulary: Vocabulary) -> None:
    """Also where the model's end is ignored."""
    r = Request(id="r", prompt=[7], sampling=GREEDY, end_tokens=(SAYS[5], SAYS[9]), ignore_eos=True)
    told = run(EngineLoop(parrot, vocabulary), r)["r"]
    assert told.ids == SAYS[:5]
    assert (told.done.reason, told.done.end_token) == ("stop", SAYS[5])


def test_a_grammar_is_followed_to_its_end(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """Beside a free answer, one says what its grammar wants, and ends there."""
    free, bound = asked(vocabulary, QUESTIONS[:2])
    grammar = Grammar('root ::= "The answer is " ("yes" | "no") "."')
    told = run(loop, free, msgspec.structs.replace(bound, grammar=grammar))
    text = b"".join(vocabulary.piece(token) for token in told[bound.id].ids)
    assert text in (b"The answer is yes.", b"The answer is no.")
    assert told[bound.id].done.reason == "stop"
    assert told[free.id].ids == run(EngineLoop(loop._executor, vocabulary), free)[free.id].ids


def test_where_all_is_forbidden_the_answer_ends(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """A grammar that has ended, and no end that may be chosen: stop, without a token for it."""
    (r,) = asked(vocabulary, QUESTIONS[:1])
    told = run(loop, msgspec.structs.replace(r, grammar=Grammar('root ::= "A"'), ignore_eos=True))
    assert told[r.id].done.reason == "stop"
    assert told[r.id].done.end_token is None


def test_a_cancelled_request_ends_wherever_it_is(loop: EngineLoop, vocabulary: Vocabulary) -> None:
    """In its answer, in the middle of its prompt, and while it waits; the others do not notice."""
    first, *_ = requests = asked(vocabulary, QUESTIONS[:4], max_tokens=30)
    long = Request(id="long", prompt=[7] * 1000, sampling=GREEDY)
    waiting = Request(id="waiting", prompt=[9] * 100, sampling=GREEDY)

    def cancel(n: int, told: dict[str, Told]) -> None:
        if n == 2:
            loop.cancel("waiting")
        if len(told[first.id].tokens) == 5:
            loop.cancel(first.id)
        if told["long"].progress and 0 < told["long"].progress[-1].processed < 1000:
            loop.cancel("long")

    told = run(loop, long, *requests, waiting, after_step=cancel)
    assert {told[name].done.reason for name in ("long", "waiting", first.id)} == {"cancelled"}
    assert told["long"].ids == told["waiting"].ids == []
    assert told["waiting"].progress == []
    assert 5 <= len(told[first.id].ids) < 30
    for r in requests[1:]:
        assert told[r.id].ids == run(EngineLoop(loop._executor, vocabulary), r)[r.id].ids
    loop.cancel("long")  # again, or one that never was: nothing happens
    loop.cancel("nobody")


def test_no_sequence_is_lost_over_many_requests(
    parrot: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """After 60 requests, half of them cancelled, all is free and the next text is right."""
    loop = EngineLoop(parrot, vocabulary)
    requests = [
        Request(id=str(n), prompt=[7] * (n % 90 + 1), sampling=GREEDY, max_tokens=6)
        for n in range(60)
    ]

    def cancel(n: int, _: dict[str, Told]) -> None:
        loop.cancel(str(2 * n % 60))

    run(loop, *requests, after_step=cancel)
    stats = loop.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)
    assert (
        run(loop, Request(id="r", prompt=[5], sampling=GREEDY, max_tokens=3))["r"].ids == SAYS[:3]
    )


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "kind", "named"),
    [
        ({"prompt": []}, "UsageError", "prompt is empty"),
        ({"prompt": [7] * 1024}, "ContextError", "1024 tokens"),
        ({"prompt": [7, 2048]}, "ParameterError", "no token 2048"),
        ({"prompt": [7, -1]}, "ParameterError", "no token -1"),
        ({"prompt": [2**40]}, "ParameterError", "no token 1099511627776"),
        ({"sampling": Sampling(logit_bias={2**40: 1.0})}, "ParameterError", "logit_bias"),
        ({"end_tokens": (5000,)}, "ParameterError", "end_tokens"),
        ({"grammar": Grammar("root ::= (")}, "UsageError", "grammar cannot be read"),
    ],
)
def test_a_request_that_makes_no_sense_fails_alone(
    loop: EngineLoop, vocabulary: Vocabulary, wrong: dict[str, object], kind: str, named: str
) -> None:
    """It is told why, and the one beside it is answered."""
    (good,) = asked(vocabulary, QUESTIONS[:1], max_tokens=5)
    bad = Request(**{"id": "bad", "prompt": [7], **wrong})  # type: ignore[arg-type]
    told = run(loop, bad, good)
    failed = told["bad"].end
    assert isinstance(failed, Failed)
    assert failed.error.kind == kind
    assert named in failed.error.message
    assert len(told[good.id].ids) == 5
    assert loop.stats().running == 0


def test_a_replayed_answer_goes_on_as_if_never_stopped(
    parrot: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Given the tokens so far, the rest is that of the undisturbed answer, seed and penalties included."""
    sampling = msgspec.structs.replace(WILD, repeat_penalty=1.5, dry_multiplier=0.8)
    r = Request(id="r", prompt=[7, 8], sampling=sampling, max_tokens=40)
    undisturbed = run(EngineLoop(parrot, vocabulary), r)["r"].ids
    assert len(undisturbed) == 40
    for n in (1, 17, 39):
        replayed = msgspec.structs.replace(r, answered=undisturbed[:n])
        told = run(EngineLoop(parrot, vocabulary), replayed)["r"]
        assert told.ids == undisturbed[n:]
        assert told.done.timings.tokens == 40


# ---------------------------------------------------------------- logprobs and embeddings


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64)
    return np.asarray(x - x.max() - np.log(np.exp(x - x.max()).sum()))


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=3, top_k=0, top_p=1, seed=3)])
def test_logprobs_are_those_of_all_logits(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, ranks: str, sampling: Sampling
) -> None:
    """The chosen token's and the best five's, against log-softmax of the model's whole logits."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    prompt = question(vocabulary, QUESTIONS[1])
    r = Request(id="r", prompt=prompt, sampling=sampling, max_tokens=6, n_logprobs=5)
    told = run(EngineLoop(executor, vocabulary), r)["r"]
    rows = prefill_and_decode(executor, [*prompt, *told.ids[:-1]], len(prompt))
    for token, logits in zip(told.tokens, rows, strict=True):
        expected = log_softmax(logits)
        assert token.logprob == pytest.approx(expected[token.token], abs=0.02)
        assert len(token.top) == 5
        best = np.sort(expected)[::-1][:5]
        np.testing.assert_allclose([p for _, p in token.top], best, atol=0.02)
        for top, p in token.top:
            assert p == pytest.approx(expected[top], abs=0.02)
        assert sum(np.exp(p) for _, p in token.top) <= 1 + 1e-4


def test_logprobs_of_no_best_are_the_chosen_ones_alone(
    loop: EngineLoop, vocabulary: Vocabulary
) -> None:
    """n_logprobs 0: its own, and no others; without it, nothing."""
    (r,) = asked(vocabulary, QUESTIONS[:1], max_tokens=3)
    for token in run(loop, msgspec.structs.replace(r, n_logprobs=0))[r.id].tokens:
        assert token.logprob is not None
        assert token.logprob <= 0
        assert token.top == ()
    assert all(t.logprob is None for t in run(loop, r)[r.id].tokens)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_embeddings_do_not_depend_on_what_runs_beside_them(
    demo: LocalExecutor, vocabulary: Vocabulary, pooling: str
) -> None:
    """A short and a long text, alone and beside two answers: the same vectors, and right answers."""
    texts = [
        vocabulary.tokenize("The goat looked at the barley."),
        vocabulary.tokenize("Mina bakes bread, and Joon makes hooks. " * 75),
    ]
    assert len(texts[1]) > demo.info.n_batch
    embeds = [Request(id=f"e{i}", prompt=text, embed=True) for i, text in enumerate(texts)]
    alone = [run(EngineLoop(demo, vocabulary, pooling=pooling), e)[e.id].embedding for e in embeds]
    answers = asked(vocabulary, QUESTIONS[1:3])
    loop = EngineLoop(demo, vocabulary, pooling=pooling)
    told = run(loop, answers[0], *embeds, answers[1])
    for e, vector in zip(embeds, alone, strict=True):
        assert vector.shape == (demo._model.n_embd,)
        assert np.linalg.norm(vector) > 0
        np.testing.assert_allclose(told[e.id].embedding, vector, rtol=0.05, atol=0.05)
        again = run(loop, e)[e.id].embedding  # nothing of it was cached
        np.testing.assert_allclose(again, vector, rtol=0.05, atol=0.05)
    for r in answers:
        assert told[r.id].ids == run(EngineLoop(demo, vocabulary), r)[r.id].ids


def test_two_ranks_embed_as_one(
    demo: LocalExecutor, two_ranks: FullExecutor, vocabulary: Vocabulary
) -> None:
    """Last token's and mean, within the rounding of the sums."""
    text = vocabulary.tokenize("The goat looked at the barley, and then at Mina.")
    for pooling in ("last", "mean"):
        one, two = (
            run(
                EngineLoop(executor, vocabulary, pooling=pooling),
                Request(id="e", prompt=text, embed=True),
            )["e"].embedding
            for executor in (demo, two_ranks)
        )
        cosine = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
        assert cosine > 0.999


def test_a_mean_is_the_mean_of_every_tokens_hidden_state(
    demo: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Over chunks of 32 as over tokens one by one, whose last hidden states are known."""
    text = vocabulary.tokenize("The goat looked at the barley, and then at Mina. " * 4)
    assert len(text) > demo.info.n_outputs

    def embedding(pooling: str, prompt: list[int]) -> npt.NDArray[np.float32]:
        loop = EngineLoop(demo, vocabulary, pooling=pooling)
        return run(loop, Request(id="e", prompt=prompt, embed=True))["e"].embedding

    each = [embedding("last", text[:n]) for n in range(1, len(text) + 1)]
    np.testing.assert_allclose(embedding("mean", text), np.mean(each, axis=0), atol=0.05)
    np.testing.assert_allclose(embedding("cls", text), each[0], atol=0.05)


# ---------------------------------------------------------------- speculative decoding


@pytest.mark.parametrize("kind", KINDS)
def test_speculative_decoding_changes_no_token(
    parrot: LocalExecutor, vocabulary: Vocabulary, kind: str
) -> None:
    """A text that repeats itself, of every kind, alone and beside others; many guesses are right."""
    requests = [
        Request(
            id=f"{kind}{i}", prompt=[7, 8, 9 + i], max_tokens=200, ignore_eos=True, **KINDS[kind]
        )
        for i in range(3)
    ]
    plain = run(EngineLoop(parrot, vocabulary), *requests)
    guessed = run(EngineLoop(parrot, vocabulary, proposer=Proposer(Eager())), *requests)
    alone = run(EngineLoop(parrot, vocabulary, proposer=Proposer(Eager())), requests[0])
    for name, told in guessed.items():
        assert told.ids == plain[name].ids
        assert [t.logprob for t in told.tokens] == [t.logprob for t in plain[name].tokens]
        assert told.done.reason == plain[name].done.reason
        assert told.done.timings.tokens == 200
    assert alone[requests[0].id].ids == plain[requests[0].id].ids
    accepted = guessed[requests[0].id].done.timings.accepted
    assert accepted > 50 if kind in {"greedy", "logprobs"} else accepted >= 0


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_a_models_own_text_is_the_same_with_guesses(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, ranks: str
) -> None:
    """Greedy texts of the demo model that go on for long: some guesses are right, some are not."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    asked = [
        Request(
            id=q,
            prompt=question(vocabulary, q),
            sampling=GREEDY,
            max_tokens=300,
            ignore_eos=True,
        )
        for q in QUESTIONS[:3]
    ]
    plain = run(EngineLoop(executor, vocabulary), *asked)
    guessed = run(EngineLoop(executor, vocabulary, proposer=Proposer(Eager())), *asked)
    assert {q: told.ids for q, told in guessed.items()} == {
        q: told.ids for q, told in plain.items()
    }
    drafted = sum(told.done.timings.drafted for told in guessed.values())
    accepted = sum(told.done.timings.accepted for told in guessed.values())
    assert 0 < accepted < drafted


def test_after_wrong_guesses_a_sequence_is_what_it_says(
    parrot: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """The next turn takes up the sequence of the answer, and says what a fresh one says."""
    loop = EngineLoop(parrot, vocabulary, proposer=Proposer(Eager()))
    first = Request(id="a", prompt=[7, 8, 9] * 5, sampling=WILD, max_tokens=90, ignore_eos=True)
    said = run(loop, first)["a"]
    assert said.done.timings.accepted < said.done.timings.drafted
    later = msgspec.structs.replace(first, id="b", prompt=[*first.prompt, *said.ids, 9])
    again = run(loop, later)["b"]
    assert again.done.timings.cached_tokens >= len(first.prompt) + len(said.ids) - 1
    assert again.ids == run(EngineLoop(parrot, vocabulary), later)["b"].ids


def test_guesses_end_with_the_answer(parrot: LocalExecutor, vocabulary: Vocabulary) -> None:
    """Exactly as many tokens as asked for; a context that is full ends it too."""
    for n in (1, 2, 17, 64):
        request = Request(id="r", prompt=SAYS * 3, sampling=GREEDY, max_tokens=n, ignore_eos=True)
        told = run(EngineLoop(parrot, vocabulary, proposer=Proposer(Eager())), request)["r"]
        assert told.ids == (SAYS * 3)[:n]
        assert told.done.reason == "length"
    endless = Request(id="r", prompt=SAYS * 3, sampling=GREEDY, ignore_eos=True)
    plain = run(EngineLoop(parrot, vocabulary), endless)["r"]
    told = run(EngineLoop(parrot, vocabulary, proposer=Proposer(Eager())), endless)["r"]
    assert told.ids == plain.ids
    assert told.done.reason == "length"


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_more_conversations_than_sequences_are_stored_and_loaded(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, tmp_path: Path, ranks: str
) -> None:
    """Six long talks on four sequences: each is found again, and goes on with the same text."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    store = PrefixStore(tmp_path / "store", executor)
    loop = EngineLoop(executor, vocabulary, store=store, store_tokens=10_000)
    talks = [
        Request(
            id=q,
            prompt=vocabulary.tokenize(f"{q} " * 15) + question(vocabulary, q),
            sampling=GREEDY,
            max_tokens=5,
        )
        for q in QUESTIONS
    ]
    fresh = {q.id: run(loop, q)[q.id].ids for q in talks}
    assert list((tmp_path / "store").glob("*.tokens"))
    for talk in talks:
        again = run(loop, talk)[talk.id]
        assert again.done.timings.cached_tokens == len(talk.prompt) - 1
        assert again.ids == fresh[talk.id]


def long_talk(vocabulary: Vocabulary, n: int = 0) -> Request:
    prompt = vocabulary.tokenize(f"Number {n}: the goat looked at the barley. " * 12)
    return Request(id=f"talk{n}", prompt=prompt, sampling=GREEDY, max_tokens=5)


def persisted(executor: FullExecutor, vocabulary: Vocabulary, directory: Path) -> list[int]:
    """Store one talk in a directory; its answer."""
    loop = EngineLoop(
        executor, vocabulary, store=PrefixStore(directory, executor), store_tokens=5_000
    )
    answer = run(loop, long_talk(vocabulary))["talk0"].ids
    loop.persist()
    loop.persist()  # again: there is nothing new
    assert len(list(directory.glob("*.tokens"))) == 1
    return answer


def taken_up(executor: FullExecutor, vocabulary: Vocabulary, directory: Path) -> Told:
    """The same talk by a loop that knows only the directory."""
    store = PrefixStore(directory, executor)
    loop = EngineLoop(executor, vocabulary, store=store, store_tokens=5_000)
    return run(loop, long_talk(vocabulary))["talk0"]


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_a_store_survives_a_restart(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, tmp_path: Path, ranks: str
) -> None:
    """A new loop finds the prompt cached, and says the same."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    answer = persisted(executor, vocabulary, tmp_path)
    told = taken_up(executor, vocabulary, tmp_path)
    assert told.done.timings.cached_tokens == len(long_talk(vocabulary).prompt) - 1
    assert told.ids == answer


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_damaged_store_is_computed_again(
    request: pytest.FixtureRequest,
    vocabulary: Vocabulary,
    tmp_path: Path,
    ranks: str,
    damage: str,
) -> None:
    """One rank's file missing, empty, cut off, or something else: the text is right all the same."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    answer = persisted(executor, vocabulary, tmp_path)
    path = sorted(tmp_path.glob("*.rank*"))[-1]
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:-1000])
        case "other":
            path.write_bytes(b"something else" * 100)
    told = taken_up(executor, vocabulary, tmp_path)
    assert told.done.timings.cached_tokens == 0
    assert told.ids == answer
    assert list(tmp_path.iterdir()) == []


class _Every50(Checkpoints):
    """Says that storing pays with every fifty tokens, however long it takes here."""

    def __init__(self) -> None:
        super().__init__(worth_s=50)

    def is_due(self, n_new: int, n_all: int, tokens_per_s: float, now: float) -> bool:
        self._token_s = self._rest_until = 0.0
        return super().is_due(n_new, n_all, min(tokens_per_s, 1.0), now)


@pytest.mark.parametrize("ranks", ["demo", "two_ranks"])
def test_an_answer_that_goes_on_is_stored_as_it_grows(
    request: pytest.FixtureRequest, vocabulary: Vocabulary, tmp_path: Path, ranks: str
) -> None:
    """One file at a time, ever longer; the text is that of a loop that stores nothing."""
    executor: FullExecutor = request.getfixturevalue(ranks)
    talk = msgspec.structs.replace(long_talk(vocabulary), max_tokens=200, ignore_eos=True)
    plain = run(EngineLoop(executor, vocabulary), talk)["talk0"].ids
    store = PrefixStore(tmp_path, executor)
    loop = EngineLoop(executor, vocabulary, store=store, store_tokens=5_000, checkpoints=_Every50())
    loop.submit(talk)
    sizes, ids = [], []
    while loop.busy:
        ids += [event.token for event in loop.step() if isinstance(event, Token)]
        sizes += [path.stat().st_size // 4 for path in tmp_path.glob("*.tokens")]
        assert len(list(tmp_path.glob("*.tokens"))) <= 1
    assert ids == plain
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 4  # of 200 tokens
    assert max(sizes) > len(talk.prompt)


def test_a_sequence_is_right_after_a_failed_load(
    demo: LocalExecutor, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """What was half read is gone: the logits are those of a clean sequence."""
    tokens = vocabulary.tokenize("The goat looked at the barley. " * 6)
    clean = step(demo, tokens, 0, kv=[Clear()])
    demo.save(0, str(tmp_path / "x"))
    path = tmp_path / "x.rank0"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not demo.load(1, str(tmp_path / "x"), len(tokens))
    np.testing.assert_allclose(step(demo, tokens, 0, sequence=1), clean, atol=1e-3)
