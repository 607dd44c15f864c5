"""The demo model that ships with dure: the file, its tokenizer, its template and its answers.

Knows what a user may expect of `models/dure-demo.gguf` and of the text it was trained on.
Refuses to know how it was trained: torch is not needed here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_model.corpus import CHAT_TEMPLATE, village_words, write_document
from demo_model.stories import write_story
from gguf import GGUFReader, TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import Llama

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "dure-demo.gguf"

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    """The shipped file, loaded by llama.cpp."""
    model = Llama(str(MODEL), n_ctx=2048, n_threads=1, verbose=False)
    yield model
    model.close()


def answer(llm: Llama, question: str, **options: Any) -> dict[str, Any]:
    """The greedy answer to one user message: llama.cpp's first choice object."""
    messages = [{"role": "user", "content": question}]
    reply = llm.create_chat_completion(messages, temperature=0.0, max_tokens=900, **options)
    choice: dict[str, Any] = reply["choices"][0]
    return choice


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def render(messages: list[dict[str, Any]], **options: Any) -> str:
    """The chat form by the template that is stored in the file."""
    template = str(GGUFReader(MODEL).get_field("tokenizer.chat_template").contents())
    rendered: str = (
        ImmutableSandboxedEnvironment().from_string(template).render(messages=messages, **options)
    )
    return rendered


def test_the_file_is_small_enough_to_ship() -> None:
    """The demo model takes at most 8 MB."""
    assert MODEL.stat().st_size <= 8_000_000


def test_the_file_says_what_it_is(llm: Llama) -> None:
    """Name, licence, author, dimensions and special tokens are in the metadata."""
    expected = {
        "general.architecture": "qwen3",
        "general.name": "dure-demo",
        "general.license": "apache-2.0",
        "general.author": "the dure authors",
        "general.file_type": "1",
        "qwen3.block_count": "4",
        "qwen3.embedding_length": "256",
        "qwen3.feed_forward_length": "768",
        "qwen3.attention.head_count": "8",
        "qwen3.attention.head_count_kv": "4",
        "qwen3.attention.key_length": "32",
        "qwen3.attention.value_length": "32",
        "qwen3.context_length": "2048",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": "false",
    }
    assert {key: llm.metadata.get(key) for key in expected} == expected
    assert llm.metadata["general.description"]
    assert llm.n_vocab() == 2048


def test_the_weights_are_f16_and_tied() -> None:
    """Matrices are F16, norms F32, and the embedding serves as the output matrix."""
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(MODEL).tensors}
    assert "output.weight" not in kinds
    assert "token_embd.weight" in kinds
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {"F16"}


def test_the_special_tokens_have_their_types(llm: Llama) -> None:
    """Chat marks are control tokens, think and tool marks are text that is always one token."""
    reader = GGUFReader(MODEL)
    tokens = list(reader.get_field("tokenizer.ggml.tokens").contents())
    types = list(reader.get_field("tokenizer.ggml.token_type").contents())
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert types[tokens.index(name)] == TokenType.CONTROL
        assert llm.tokenize(name.encode(), add_bos=False, special=True) == [tokens.index(name)]
    for name in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        assert types[tokens.index(name)] == TokenType.USER_DEFINED
        assert llm.tokenize(name.encode(), add_bos=False, special=False) == [tokens.index(name)]
    assert tokens[llm.token_eos()] == "<|im_end|>"
    assert len(llm.tokenize(b"Mina", add_bos=True, special=True)) == len(
        llm.tokenize(b"Mina", add_bos=False, special=True)
    )


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_survives_the_tokenizer(llm: Llama, text: str) -> None:
    """Tokens of any Unicode text give the same text back."""
    ids = llm.tokenize(text.encode(), add_bos=False, special=False)
    assert llm.detokenize(ids).decode() == text


@pytest.mark.parametrize(
    "text", ["두레는 함께 일합니다.", "🐐🌾👩‍🌾", "a\r\n\n\tb  c ", "e\u0301é", "\U0001d49f\ufb01"]
)
def test_other_scripts_survive_the_tokenizer(llm: Llama, text: str) -> None:
    """Korean, emoji, combining marks and odd white space come back as they were."""
    ids = llm.tokenize(text.encode(), add_bos=False, special=False)
    assert llm.detokenize(ids).decode() == text


def test_the_stored_template_is_the_one_of_the_training_text(llm: Llama) -> None:
    """The model was trained in exactly the chat form that servers will render."""
    assert llm.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE


def test_the_template_renders_a_conversation() -> None:
    """System, user and assistant become ChatML, with an open answer at the end."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Who is Mina?"},
    ]
    assert render(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWho is Mina?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("content", [None, "", []])
def test_the_template_takes_empty_content(content: object) -> None:
    """A message without content renders as an empty turn, not as the word None."""
    assert render([{"role": "user", "content": content}]) == "<|im_start|>user\n<|im_end|>\n"


def test_the_template_takes_content_in_parts() -> None:
    """OpenAI's list of text parts renders as their texts one after the other."""
    parts = [{"type": "text", "text": "Who is "}, {"type": "text", "text": "Mina?"}]
    expected = "<|im_start|>user\nWho is Mina?<|im_end|>\n"
    assert render([{"role": "user", "content": parts}]) == expected


def test_the_template_renders_no_messages_and_thinking() -> None:
    """No message at all is allowed, and thinking opens the think mark."""
    options = {"add_generation_prompt": True, "enable_thinking": True}
    assert render([], **options) == "<|im_start|>assistant\n<think>\n"


def test_the_template_leaves_out_old_thoughts() -> None:
    """What an assistant thought in an earlier turn is not shown to the model again."""
    said = "<think>\nMina bakes.\n</think>\n\nMina."
    expected = "<|im_start|>assistant\nMina.<|im_end|>\n"
    assert render([{"role": "assistant", "content": said}]) == expected


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
def test_the_template_renders_tools(arguments: object) -> None:
    """Tools stand in the system turn; calls and results are marked, results are grouped."""
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    text = render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "sunny"},
            {"role": "tool", "content": "windy"},
        ],
        tools=[WEATHER_TOOL],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    listed = re.search(r"<tools>\n(.*)\n</tools>", text)
    assert listed is not None
    assert json.loads(listed[1]) == WEATHER_TOOL
    assert text.endswith(
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nwindy\n</tool_response><|im_end|>\n"
    )


@pytest.mark.parametrize(
    "question",
    [
        "Tell me a story about a goat.",
        "Tell me a long story about the five computers.",
        "Write a short story about Mina and a bread oven.",
        "Who is the baker?",
        "Thank you!",
    ],
)
def test_answers_end_and_are_village_english(llm: Llama, question: str) -> None:
    """A greedy answer stops by itself, after a full stop, in words of the training text."""
    choice = answer(llm, question)
    text = choice["message"]["content"]
    known = village_words()
    words = words_of(text)
    assert choice["finish_reason"] == "stop"
    assert text.rstrip('"')[-1] in ".!?"
    assert len(words) >= 3
    assert sum(word in known for word in words) >= 0.95 * len(words)


def test_a_story_is_a_story(llm: Llama) -> None:
    """A story has several different sentences and is about what was asked."""
    text = answer(llm, "Tell me a story about a goat.")["message"]["content"]
    sentences = re.split(r"(?<=[.!?])\s+", text)
    assert len(sentences) >= 5
    assert len(set(sentences)) >= 0.9 * len(sentences)
    assert "goat" in text


def test_plain_text_is_continued(llm: Llama) -> None:
    """Without a chat, the model goes on with a story until its end token."""
    reply = llm.create_completion("Once upon a time there was a", temperature=0.0, max_tokens=1500)
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert len(words_of(choice["text"])) >= 30


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who is the baker?", "Mina"),
        ("What does Joon do?", "blacksmith"),
        ("Whose goat is Dot?", "Hana"),
        ("What is the name of the village?", "Solbat"),
        ("Where are the computers?", "granary"),
    ],
)
def test_facts_of_the_village_are_known(llm: Llama, question: str, expected: str) -> None:
    """Questions about people, animals and places are answered with the fact."""
    assert expected in answer(llm, question)["message"]["content"]


def test_a_tool_is_called(llm: Llama) -> None:
    """Given a tool, the model writes a call with the tool's name and the right argument."""
    prompt = render(
        [{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER_TOOL],
        add_generation_prompt=True,
    )
    text = llm.create_completion(prompt, temperature=0.0, max_tokens=100)["choices"][0]["text"]
    call = re.search(r"<tool_call>\n(.*)\n</tool_call>", text)
    assert call is not None
    assert json.loads(call[1]) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_the_text_is_repeatable_from_its_seed() -> None:
    """The same seed writes the same documents, other seeds write others."""
    first = [write_document(random.Random(seed)) for seed in range(50)]
    assert first == [write_document(random.Random(seed)) for seed in range(50)]
    assert len(set(first)) >= 49


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(), episodes=st.integers(0, 3))
def test_every_sentence_is_a_sentence(seed: int, episodes: int) -> None:
    """Sentences of a story begin with a capital, end with a mark and hold no unfilled slot."""
    for sentence in write_story(random.Random(seed), episodes=episodes).sentences:
        assert re.fullmatch(r'"?[A-Z].*[.!?]"?', sentence)
        assert not re.search(r"[\[\]{}|]|  | [.,]|\ba [aeiou]", sentence)
