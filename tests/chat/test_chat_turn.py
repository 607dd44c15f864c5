"""A turn without a server: what `dure run` and `dure chat` give a model, and read of its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dure.chat.format import ChatFormatter
from dure.chat.parser import Parsed, joined
from dure.chat.task import ChatTask, Content, Reasoning, ToolArguments, ToolCall
from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.chat_templates import HARMONY, LLAMA3
from tests.support.conversations import conversations
from tests.support.gbnf_words import DEMO, demo_vocabulary
from tests.support.parrot import write_parrot

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
    turn = conversations(vocabulary, template=template).turn([USER])
    tokens = vocabulary.tokenize(text, special=True, add_bos=False)
    pieces = [piece for token in tokens for piece in turn.feed(token)]
    return joined([*pieces, *turn.finish()])


def written(vocabulary: Vocabulary, tokens: Sequence[int]) -> bytes:
    """The bytes of tokens, special ones too."""
    return b"".join(vocabulary.piece(token, special=True) for token in tokens)


def vocabulary_of(path: Path) -> Vocabulary:
    with open_gguf(path) as gguf:
        return Vocabulary(gguf)


def test_a_turn_has_the_prompt_that_the_server_makes(vocabulary: Vocabulary) -> None:
    """Also where it ends after the last message."""
    chats, formatter = conversations(vocabulary), ChatFormatter(vocabulary)
    for begins in (True, False):
        turn = chats.turn([USER], add_generation=begins)
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


@pytest.mark.parametrize(
    ("text", "template", "told"),
    [
        (
            'So:\n<tool_call>\n{"name": "a", "arguments": {"b": 1}}\n</tool_call>',
            None,
            ["So:", "a", '{"b": 1}'],
        ),
        ("<tool_call>no JSON</tool_call>", None, ["<tool_call>no JSON</tool_call>"]),
        (
            "<|channel|>commentary to=functions.a <|constrain|>json<|message|>{}<|call|>",
            HARMONY,
            ["a", "{}"],
        ),
        ('{"name": "a", "parameters": {}}', LLAMA3, ['{"name": "a", "parameters": {}}']),
    ],
)
def test_a_call_of_a_tool_that_nobody_offered_is_read_as_one(
    vocabulary: Vocabulary, text: str, template: str | None, told: list[str]
) -> None:
    """If it is marked as such: bare JSON may be what was asked for."""
    pieces = read(vocabulary, text, template)
    assert [one.name if isinstance(one, ToolCall) else one.text for one in pieces] == told
    assert len(told) == 1 or isinstance(pieces[-1], ToolArguments)


def test_half_a_character_at_the_end_is_shown_as_such(vocabulary: Vocabulary) -> None:
    turn = conversations(vocabulary).turn([USER])
    tokens = vocabulary.tokenize("🐐", add_bos=False)
    assert len(tokens) > 1, "the vocabulary has this character whole"
    assert turn.feed(tokens[0]) == []
    assert [piece.text for piece in turn.finish() if isinstance(piece, Content)] == ["\ufffd"]


def test_messages_that_make_no_sense_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(UsageError, match="at least one message"):
        conversations(vocabulary).turn([])


def test_a_conversation_is_written_as_the_template_says(vocabulary: Vocabulary) -> None:
    """ChatML, up to where the answer begins."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who is the baker?"},
        {"role": "assistant", "content": "Mina."},
        {"role": "user", "content": "두레?"},
    ]
    prompt = written(vocabulary, conversations(vocabulary).turn(messages).prompt).decode()
    assert prompt == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nWho is the baker?<|im_end|>\n"
        "<|im_start|>assistant\nMina.<|im_end|>\n"
        "<|im_start|>user\n두레?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ended = conversations(vocabulary).turn(messages[:2], add_generation=False).prompt
    assert written(vocabulary, ended).decode().endswith("baker?<|im_end|>\n")


def test_the_marks_of_a_conversation_are_single_tokens(vocabulary: Vocabulary) -> None:
    """The template's marks are not spelled out in letters."""
    prompt = conversations(vocabulary).turn([{"role": "user", "content": "hi"}]).prompt
    (start,) = vocabulary.tokenize("<|im_start|>", special=True)
    (end,) = vocabulary.tokenize("<|im_end|>", special=True)
    assert (prompt.count(start), prompt.count(end)) == (2, 1)


def test_without_a_chat_template_there_is_no_conversation(tmp_path: Path) -> None:
    """The cure is to give it one, or to continue text."""
    path = tmp_path / "plain.gguf"
    write_parrot(path, DEMO, [5, 6], template="")
    vocabulary = vocabulary_of(path)
    assert not vocabulary.has_chat_template
    with pytest.raises(UsageError, match=r"plain\.gguf has no chat template: --chat-template FILE"):
        conversations(vocabulary).turn([{"role": "user", "content": "hi"}])
    vocabulary.close()
    vocabulary.close()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_raises_anything_is_a_refusal(
    tmp_path: Path, template: str, reason: str
) -> None:
    """A template is a program from the file: its syntax errors, refusals and bugs are told alike."""
    path = tmp_path / "broken.gguf"
    write_parrot(path, DEMO, [5, 6], template=template)
    vocabulary = vocabulary_of(path)
    told = rf"template of broken\.gguf refuses these messages: .*{re.escape(reason)}"
    with pytest.raises(UsageError, match=told):
        conversations(vocabulary).turn([{"role": "user", "content": "hi"}])
    vocabulary.close()


def test_a_template_that_is_no_program_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    write_parrot(path, DEMO, [5, 6], template="{% if %}")
    vocabulary = vocabulary_of(path)
    with pytest.raises(
        UsageError, match=r"template of broken\.gguf is damaged: Expected an expression"
    ):
        conversations(vocabulary)
    vocabulary.close()
