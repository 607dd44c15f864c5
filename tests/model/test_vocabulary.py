"""Text to tokens and back, and conversations to prompts, as the demo model's file defines them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dure.errors import ModelError
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.random_models import Shape, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


def opened(path: Path) -> Vocabulary:
    with open_gguf(path) as gguf:
        return Vocabulary(gguf)


def written(vocabulary: Vocabulary, tokens: list[int], *, special: bool = False) -> bytes:
    return b"".join(vocabulary.piece(token, special=special) for token in tokens)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
@example("")
@example("한국어 두레 🐐🎉 👩‍👩‍👧 e\u0301 \u200b\ufeff")
@example("\r\n\t  \x00\x7f  \n\n\n")
@example("a" * 5000)
@example("<think>, </tool_call> and <|im_end|> are no marks in a user's text")
@example("1234567890 ١٢٣ ½ ²")
def test_every_text_comes_back_from_its_tokens(vocabulary: Vocabulary, text: str) -> None:
    """The pieces of a text's tokens, put together, are the text, byte by byte."""
    tokens = vocabulary.tokenize(text)
    assert written(vocabulary, tokens) == text.encode()
    assert all(0 <= token < vocabulary.n_tokens for token in tokens)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
@example(b"\xf4\xb8\xb5\x80")  # above U+10FFFF: llama.cpp itself aborts the process
def test_bytes_that_are_no_text_are_tokens_all_the_same(
    vocabulary: Vocabulary, data: bytes
) -> None:
    """Whatever a pipe brings becomes tokens of the vocabulary."""
    tokens = vocabulary.tokenize(data.decode("utf-8", "surrogateescape"))
    assert bool(tokens) == bool(data)
    assert all(0 <= token < vocabulary.n_tokens for token in tokens)


def test_a_broken_byte_leaves_the_text_around_it(vocabulary: Vocabulary) -> None:
    """A byte that is no UTF-8, or half of a pair, becomes U+FFFD, and nothing else changes."""
    text = (b"The goat \xff " + "두레".encode()).decode("utf-8", "surrogateescape")
    back = written(vocabulary, vocabulary.tokenize(text)).decode()
    assert back == "The goat \N{REPLACEMENT CHARACTER} 두레"
    half = written(vocabulary, vocabulary.tokenize("goat \ud83d!")).decode()
    assert half == "goat \N{REPLACEMENT CHARACTER}!"


def test_special_tokens_are_marks_only_where_that_is_asked_for(vocabulary: Vocabulary) -> None:
    """A user who writes <|im_end|> writes text; the template's is one token, which ends an answer."""
    mark = "<|im_end|>"
    (token,) = vocabulary.tokenize(mark, special=True)
    assert vocabulary.is_end(token)
    assert vocabulary.piece(token) == b""
    assert vocabulary.piece(token, special=True) == mark.encode()
    plain = vocabulary.tokenize(mark)
    assert len(plain) > 1
    assert not any(vocabulary.is_end(t) for t in plain)


def test_only_a_few_tokens_end_an_answer(vocabulary: Vocabulary) -> None:
    """Of 2,048 tokens, the chat's and the text's end are such."""
    ends = [token for token in range(vocabulary.n_tokens) if vocabulary.is_end(token)]
    names = {vocabulary.piece(token, special=True).decode() for token in ends}
    assert vocabulary.n_tokens == 2048
    assert names >= {"<|im_end|>", "<|endoftext|>"}
    assert len(ends) < 10


def test_no_token_is_put_before_a_text_that_wants_none(vocabulary: Vocabulary) -> None:
    """The demo model has no begin token, so `add_bos` adds none."""
    assert vocabulary.tokenize("goat") == vocabulary.tokenize("goat", add_bos=False)


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """Random weights and shards have none."""
    path = tmp_path / "mute.gguf"
    write_random_model(path, Shape("qwen3", 1, 64, 4, 2, 32, 64, 320, tied=True), "F16")
    with pytest.raises(ModelError, match=r"mute\.gguf has no tokenizer .* whole model"):
        opened(path)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """A kind of tokenizer that llama.cpp does not know is told, with the file's name."""
    path = tmp_path / "odd.gguf"
    data = DEMO.read_bytes()
    key, kind = b"tokenizer.ggml.model", b"gpt2"
    at = data.index(kind, data.index(key))
    path.write_bytes(data[:at] + b"gpt9" + data[at + len(kind) :])
    with pytest.raises(ModelError, match=r"cannot read the tokenizer of odd\.gguf"):
        opened(path)
