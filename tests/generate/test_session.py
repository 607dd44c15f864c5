"""A conversation on an executor: what is kept of it, how it ends, and that its text is right.

Runs on the demo model in this process, and on a parrot where the text must be known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dure.engine.compute.llama import LoadedModel
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.errors import UsageError
from dure.generate.request import Sampling
from dure.generate.session import Session
from dure.model.vocabulary import Vocabulary
from tests.support.conversations import conversations
from tests.support.parrot import tokens_of, write_parrot

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GREEDY = Sampling(temperature=0)
N_CTX = 1024
QUESTIONS = ["Tell me a story about a goat.", "Who is the story about?", "Where was the goat?"]


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """The demo model, with room for 1,024 tokens."""
    executor = LocalExecutor(DEMO, Limits(N_CTX, threads=1))
    yield executor
    executor.close()


@pytest.fixture
def session(executor: LocalExecutor, vocabulary: Vocabulary) -> Session:
    """A session that has cached nothing."""
    return Session(executor, vocabulary)


def text_of(
    session: Session,
    prompt: Sequence[int],
    sampling: Sampling = GREEDY,
    max_tokens: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    pieces = session.answer(prompt, sampling, max_tokens=max_tokens, cancelled=cancelled)
    return "".join(piece.text for piece in pieces)


def turns(vocabulary: Vocabulary, questions: Sequence[str], answers: Sequence[str]) -> list[int]:
    """The prompt after some questions, all but the last answered."""
    messages = []
    for question, answer in zip(questions, [*answers, ""], strict=True):
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    return conversations(vocabulary).turn(messages[:-1]).prompt


def test_later_turns_reuse_the_cache_and_write_the_same_text(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Cached tokens grow from turn to turn, and every answer is that of an empty cache."""
    prompts: list[list[int]] = []
    answers: list[str] = []
    cached: list[int] = []
    for i in range(len(QUESTIONS)):
        prompts.append(turns(vocabulary, QUESTIONS[: i + 1], answers))
        answers.append(text_of(session, prompts[-1]))
        cached.append(session.timings.cached_tokens)
        assert session.timings.prompt_tokens == len(prompts[-1])
    assert cached[0] == 0
    assert cached[1] > len(prompts[0])
    assert cached[2] > len(prompts[1])
    for prompt, answer in zip(prompts, answers, strict=True):
        uncached = Session(executor, vocabulary)
        assert text_of(uncached, prompt) == answer
        assert uncached.timings.cached_tokens == 0


def test_the_same_prompt_again_computes_its_last_token_only(
    session: Session, vocabulary: Vocabulary
) -> None:
    """Of a prompt that is all cached, one token is decoded anew for its logits."""
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    first = text_of(session, prompt, max_tokens=20)
    again = text_of(session, prompt, max_tokens=20)
    assert again == first
    assert session.timings.cached_tokens == len(prompt) - 1


def test_a_prompt_that_differs_keeps_what_is_common(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """After another ending the rest of the cache is forgotten, and the text is right."""
    text_of(session, turns(vocabulary, ["Tell me a story about a goat."], []), max_tokens=30)
    prompt = turns(vocabulary, ["Tell me a story about a spoon."], [])
    text = text_of(session, prompt, max_tokens=30)
    assert 0 < session.timings.cached_tokens < len(prompt) - 1
    assert text == text_of(Session(executor, vocabulary), prompt, max_tokens=30)


def test_an_answer_cancelled_while_decoding_leaves_a_cache_that_is_right(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Stopped after some tokens, it ends as "cancelled", and the next answers are right."""
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    whole = text_of(session, prompt, max_tokens=40)
    looks = iter([False] * 10)
    part = text_of(session, prompt, cancelled=lambda: next(looks, True))
    assert session.finish == "cancelled"
    assert 0 < len(part) < len(whole)
    assert whole.startswith(part)
    assert text_of(session, prompt, max_tokens=40) == whole
    later = turns(vocabulary, QUESTIONS[:2], [part])
    assert text_of(session, later) == text_of(Session(executor, vocabulary), later)


def test_an_answer_cancelled_while_prefilling_leaves_a_cache_that_is_right(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Stopped between two batches of a long prompt, it says nothing, and the next is right."""
    long = vocabulary.tokenize("The goat looked at the barley. " * 110)
    assert executor.info.n_batch < len(long) < N_CTX
    looks = iter([False])
    assert text_of(session, long, cancelled=lambda: next(looks, True)) == ""
    assert session.finish == "cancelled"
    text = text_of(session, long, max_tokens=8)
    assert session.timings.cached_tokens == executor.info.n_batch
    assert text == text_of(Session(executor, vocabulary), long, max_tokens=8)
    assert text_of(session, long, cancelled=lambda: True) == ""
    short = turns(vocabulary, QUESTIONS[:1], [])
    text = text_of(session, short, max_tokens=8)
    assert text == text_of(Session(executor, vocabulary), short, max_tokens=8)


def test_an_answer_that_nobody_reads_to_its_end_leaves_a_cache_that_is_right(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """Dropping the iterator is as good as cancelling."""
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    pieces = session.answer(prompt, GREEDY)
    for _ in range(5):
        next(pieces)
    del pieces
    expected = text_of(Session(executor, vocabulary), prompt, max_tokens=12)
    assert text_of(session, prompt, max_tokens=12) == expected


def test_a_prompt_of_several_batches_reads_as_one(session: Session, vocabulary: Vocabulary) -> None:
    """Decoded in batches of 512 or of 64, a long prompt is continued with the same text."""
    prompt = vocabulary.tokenize("Mina bakes bread, and Joon makes hooks. " * 70)
    assert len(prompt) > 512
    text = text_of(session, prompt, max_tokens=16)
    small = LocalExecutor(DEMO, Limits(N_CTX, threads=1, n_batch=64))
    assert text_of(Session(small, vocabulary), prompt, max_tokens=16) == text
    small.close()


@pytest.mark.parametrize("max_tokens", [1, 7])
def test_max_tokens_ends_with_length(
    session: Session, vocabulary: Vocabulary, max_tokens: int
) -> None:
    """Exactly so many tokens come."""
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    tokens = [piece.token for piece in session.answer(prompt, GREEDY, max_tokens=max_tokens)]
    assert len(tokens) == max_tokens == session.timings.tokens
    assert session.timings.n_steps == max_tokens - 1
    assert session.finish == "length"


def test_the_models_own_end_is_stop_and_is_no_text(
    session: Session, vocabulary: Vocabulary
) -> None:
    """The token that ends an answer is neither counted nor shown."""
    prompt = (
        conversations(vocabulary).turn([{"role": "user", "content": "Who is the baker?"}]).prompt
    )
    pieces = list(session.answer(prompt, GREEDY))
    assert session.finish == "stop"
    tokens = [piece.token for piece in pieces if piece.token is not None]
    assert not any(vocabulary.is_end(token) for token in tokens)
    assert "<|" not in "".join(piece.text for piece in pieces)


def test_the_answer_ends_with_length_where_the_context_is_full(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """Every position of the context is used, and no step fails; the session goes on afterwards."""
    path, says = tmp_path / "parrot.gguf", [*range(300, 340)]
    write_parrot(path, DEMO, says)
    executor = LocalExecutor(path, Limits(256, threads=1))
    session = Session(executor, vocabulary)
    for n_prompt in (1, 100, 255):
        tokens = [piece.token for piece in session.answer([7] * n_prompt, GREEDY)]
        assert tokens == (says * 7)[: 256 - n_prompt]
        assert session.finish == "length"
    executor.close()


def test_a_prompt_that_leaves_no_room_is_refused(
    session: Session, executor: LocalExecutor, vocabulary: Vocabulary
) -> None:
    """As long as the context or longer, it is told with both lengths, and nothing is decoded."""
    for n_prompt in (N_CTX, N_CTX + 1):
        with pytest.raises(
            UsageError, match=rf"{n_prompt} tokens > ({N_CTX - 1}|{N_CTX}) maximum.* larger --ctx"
        ):
            text_of(session, [7] * n_prompt)
    with pytest.raises(UsageError, match="prompt is empty"):
        text_of(session, [])
    with pytest.raises(UsageError, match="--max-tokens 0"):
        text_of(session, [7], max_tokens=0)
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    expected = text_of(Session(executor, vocabulary), prompt, max_tokens=5)
    assert text_of(session, prompt, max_tokens=5) == expected


@pytest.mark.parametrize("text", ["한🎉", "🐐!", "é→ß", "두레 \n"])
def test_a_character_of_several_tokens_comes_out_whole(
    tmp_path: Path, vocabulary: Vocabulary, text: str
) -> None:
    """Pieces are empty in the middle of a character, and no piece is a broken one."""
    tokens = list(dict.fromkeys(vocabulary.tokenize(text)))
    said = b"".join(vocabulary.piece(token) for token in tokens).decode(errors="replace")
    assert len(tokens) > len(text)
    path = tmp_path / "parrot.gguf"
    write_parrot(path, DEMO, tokens)
    executor = LocalExecutor(path, Limits(256, threads=1))
    pieces = list(Session(executor, vocabulary).answer([7], GREEDY, max_tokens=len(tokens)))
    executor.close()
    assert [piece.token for piece in pieces if piece.token is not None] == tokens
    assert "".join(piece.text for piece in pieces) == said
    assert "" in [piece.text for piece in pieces]


def test_a_character_cut_off_by_the_limit_is_shown_as_broken(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """Bytes that never became a character end as U+FFFD, and do not vanish."""
    path = tmp_path / "parrot.gguf"
    write_parrot(path, DEMO, tokens_of(DEMO, "🎉"))
    executor = LocalExecutor(path, Limits(256, threads=1))
    assert text_of(Session(executor, vocabulary), [7], max_tokens=2) == "\N{REPLACEMENT CHARACTER}"
    executor.close()


def test_sampling_from_a_seed_repeats_on_a_used_cache(
    session: Session, vocabulary: Vocabulary
) -> None:
    """The same seed draws the same text, whatever was cached before."""
    prompt = turns(vocabulary, QUESTIONS[:1], [])
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=11)
    first = text_of(session, prompt, sampling, max_tokens=25)
    text_of(session, turns(vocabulary, ["What does Joon do?"], []), max_tokens=5)
    assert text_of(session, prompt, sampling, max_tokens=25) == first


def test_what_interrupts_the_loading_is_not_swallowed() -> None:
    """Ctrl-C or SIGTERM while llama.cpp loads ends the loading, and reaches the caller."""

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoadedModel(DEMO, Limits(256, threads=1), progress=stop)
