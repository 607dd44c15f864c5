"""A turn without a server: what `dure run` and `dure chat` give a model, and read of its answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dure.chat.format import ChatFormatter
from dure.chat.parser import Parsed, joined
from dure.chat.task import ChatTask, Content, Reasoning
from dure.chat.turn import Conversations
from dure.errors import UsageError
from dure.model.vocabulary import Vocabulary
from tests.support.gbnf_words import demo_vocabulary

USER = {"role": "user", "content": "Who rings the bell?"}
THOUGHTS = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    "<|im_start|>assistant\n{# <think> </think> #}"
)


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with demo_vocabulary() as words:
        yield words


def read(vocabulary: Vocabulary, text: str, template: str | None = None) -> list[Parsed]:
    """The pieces of an answer with this text."""
    turn = Conversations(vocabulary, template=template).turn([USER])
    tokens = vocabulary.tokenize(text, special=True, add_bos=False)
    pieces = [piece for token in tokens for piece in turn.feed(token)]
    return joined([*pieces, *turn.finish()])


def test_a_turn_has_the_prompt_that_the_server_makes(vocabulary: Vocabulary) -> None:
    """Also where it ends after the last message."""
    conversations, formatter = Conversations(vocabulary), ChatFormatter(vocabulary)
    for begins in (True, False):
        turn = conversations.turn([USER], add_generation=begins)
        task = ChatTask([USER], add_generation=begins)
        assert turn.prompt == formatter.prepare(task).prompt


def test_text_comes_back_as_it_was_generated(vocabulary: Vocabulary) -> None:
    """Characters that span tokens too."""
    assert read(vocabulary, "The goat 🐐 rings it: 두레.") == [
        Content("The goat 🐐 rings it: 두레.")
    ]


def test_reasoning_is_told_apart_from_the_answer(vocabulary: Vocabulary) -> None:
    pieces = read(vocabulary, "<think>\nWho, then?\n</think>\n\nThe goat.", THOUGHTS)
    assert pieces == [Reasoning("Who, then?"), Content("The goat.")]


def test_half_a_character_at_the_end_is_shown_as_such(vocabulary: Vocabulary) -> None:
    turn = Conversations(vocabulary).turn([USER])
    tokens = vocabulary.tokenize("🐐", add_bos=False)
    assert len(tokens) > 1, "the vocabulary has this character whole"
    assert turn.feed(tokens[0]) == []
    assert [piece.text for piece in turn.finish() if isinstance(piece, Content)] == ["\ufffd"]


def test_messages_that_make_no_sense_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(UsageError, match="at least one message"):
        Conversations(vocabulary).turn([])
