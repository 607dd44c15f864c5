"""Answers taken apart: the same events however the text comes in pieces, and not a letter lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dure.chat.formats.base import Opened
from dure.chat.formats.function_tags import CODER
from dure.chat.formats.harmony import Harmony
from dure.chat.formats.json_calls import HERMES, LLAMA3
from dure.chat.parser import ChatParser, Parsed, joined
from dure.chat.plan import Marks
from dure.chat.task import Content, Reasoning, ToolArguments, ToolCall

NAMES: dict[str, dict[str, Any]] = {
    "get_weather": {"properties": {"city": {"type": "string"}}},
    "add": {"properties": {"a": {"type": "integer"}, "b": {}}},
}
THINK = Marks("<think>", "</think>")
PARSERS: dict[str, Callable[[], ChatParser]] = {
    "hermes": lambda: HERMES.parser(NAMES, Opened(THINK), None),
    "hermes, thinking": lambda: HERMES.parser(NAMES, Opened(THINK, reasoning=True), None),
    "hermes, one call": lambda: HERMES.parser(NAMES, Opened(Marks()), 1),
    "hermes, no tools": lambda: HERMES.parser({}, Opened(THINK), None),
    "hermes, continued": lambda: HERMES.parser(NAMES, Opened(THINK, content=True), None),
    "coder": lambda: CODER.parser(NAMES, Opened(THINK), None),
    "llama3": lambda: LLAMA3.parser(NAMES, Opened(Marks()), None),
    "harmony": lambda: Harmony().parser(NAMES, Opened(Marks()), None),
    "harmony, continued": lambda: Harmony().parser(NAMES, Opened(Marks(), content=True), None),
}
Told = list[tuple[str, ...]]


def told(events: Iterable[Parsed]) -> Told:
    """Events as values, without the calls' random ids."""
    result: Told = []
    for event in joined(events):
        match event:
            case ToolCall(index, _, name):
                result.append(("call", str(index), name))
            case ToolArguments(index, text):
                result.append(("arguments", str(index), text))
            case _:
                result.append((type(event).__name__.lower(), event.text))
    return result


def read(name: str, pieces: Iterable[str]) -> Told:
    parser = PARSERS[name]()
    events = [event for piece in pieces for event in parser.feed(piece)]
    events += parser.finish()
    assert parser.called == any(isinstance(event, ToolCall) for event in events)
    assert all(isinstance(event, ToolCall) or event.text for event in events)
    return told(events)


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Seoul"}}\n</tool_call>'
HARMONY_CALL = (
    "<|channel|>analysis<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.get_weather <|constrain|>json<|message|>{"city": "Seoul"}<|call|>'
)
SEOUL: Told = [("call", "0", "get_weather"), ("arguments", "0", '{"city": "Seoul"}')]
CODER_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nSeoul\n</parameter>\n"
    "</function>\n</tool_call>"
)
BUSAN: Told = [("call", "1", "get_weather"), ("arguments", "1", '{"city": "Seoul"}')]
READINGS: list[tuple[str, str, Told]] = [
    ("hermes", "", []),
    ("hermes", "Hello.\n", [("content", "Hello.\n")]),
    ("hermes", CALL, SEOUL),
    ("hermes", f"\n\n{CALL}\n", SEOUL),
    ("hermes", f"Wait. \n{CALL}", [("content", "Wait."), *SEOUL]),
    (
        "hermes",
        f"<think>\nHm, {{.\n</think>\n\nYes.\n{CALL}",
        [("reasoning", "Hm, {."), ("content", "Yes."), *SEOUL],
    ),
    (
        "hermes",
        '<tool_call>{"name":"add","arguments":{"a":"}</tool_call>\\"","b":[{"c":{}}]}}</tool_call>',
        [("call", "0", "add"), ("arguments", "0", '{"a":"}</tool_call>\\"","b":[{"c":{}}]}')],
    ),
    (
        "hermes",
        f'{CALL}\n<tool_call>\n{{"arguments": {{"a": 1}}, "name": "add"}}\n</tool_call>',
        [*SEOUL, ("call", "1", "add"), ("arguments", "1", '{"a": 1}')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        [("call", "0", "add"), ("arguments", "0", '{"a": 1}')],
    ),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', [("call", "0", "add"), ("arguments", "0", "{}")]),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b',
        [("call", "0", "add"), ("arguments", "0", '{"a": 1, "b')],
    ),
    (
        "hermes",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        [("content", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>')],
    ),
    ("hermes", "<tool_call>no JSON</tool_call>", [("content", "<tool_call>no JSON</tool_call>")]),
    ("hermes", f"<tool_call>{CALL}", [("content", "<tool_call>"), *SEOUL]),
    ("hermes", "a <tool_ca", [("content", "a <tool_ca")]),
    ("hermes", "<thinking is hard", [("content", "<thinking is hard")]),
    ("hermes", f"<think>So {CALL}", [("reasoning", "So"), *SEOUL]),
    ("hermes", "<think>cut", [("reasoning", "cut")]),
    ("hermes, thinking", "Hm.\n</think>\n\nYes.", [("reasoning", "Hm."), ("content", "Yes.")]),
    ("hermes, thinking", "<think>Hm.</think>Yes.", [("reasoning", "Hm."), ("content", "Yes.")]),
    ("hermes, one call", f"{CALL}\n{CALL}", [*SEOUL, ("content", CALL)]),
    ("hermes, no tools", CALL, [("content", CALL)]),
    ("hermes, continued", " and so on", [("content", " and so on")]),
    ("coder", CODER_CALL, SEOUL),
    ("coder", f"Hm.\n{CODER_CALL}\n{CODER_CALL}", [("content", "Hm."), *SEOUL, *BUSAN]),
    (
        "coder",
        "<tool_call><function=add><parameter=a>1</parameter><parameter=b>\n<b>\n\"x\"\n</parameter>"
        "</function></tool_call>",
        [("call", "0", "add"), ("arguments", "0", '{"a": 1, "b": "<b>\\n\\"x\\""}')],
    ),
    (
        "coder",
        "<tool_call>\n<function=add>\n<parameter=b>\nTrue\n</parameter>\n<parameter=c>\ncut",
        [("call", "0", "add"), ("arguments", "0", '{"b": true, "c": "cut')],
    ),
    (
        "coder",
        "<tool_call>\n<function=add>\n</function>\n</tool_call>",
        [("call", "0", "add"), ("arguments", "0", "{}")],
    ),
    ("coder", "<tool_call><function=no>", [("content", "<tool_call><function=no>")]),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Seoul"}}', SEOUL),
    ("llama3", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Seoul"}}', SEOUL),
    (
        "llama3",
        '{"name": "get_weather", "parameters": {"city": "Seoul"}}; {"name": "add", "parameters": {}}',
        [*SEOUL, ("call", "1", "add"), ("arguments", "1", "{}")],
    ),
    (
        "llama3",
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Seoul"}}',
        SEOUL,
    ),
    ("llama3", '{"name": "Mina", "age": 7}', [("content", '{"name": "Mina", "age": 7}')]),
    ("llama3", '<|python_tag|>print("x")', [("content", '<|python_tag|>print("x")')]),
    ("llama3", 'So {"name": "add", "parameters": 1}', [("content", 'So {"name": "add", "parameters": 1}')]),
    ("harmony", HARMONY_CALL, [("reasoning", "Let me look."), *SEOUL]),
    (
        "harmony",
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Seoul"}',
        SEOUL,
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        [("reasoning", "Hm."), ("content", "Yes.")],
    ),
    (
        "harmony",
        "<|channel|>commentary<|message|>I will look.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Done.",
        [("content", "I will look.Done.")],
    ),
    ("harmony", "Plain words.", [("content", "Plain words.")]),
    ("harmony", "<|start|>user", [("content", "<|start|>user")]),
    ("harmony, continued", " and so on<|end|>", [("content", " and so on")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "events"), READINGS)
def test_an_answer_is_read_alike_in_any_pieces(name: str, text: str, events: Told) -> None:
    """Whole, letter by letter, and cut in two at every place."""
    assert read(name, [text]) == events
    assert read(name, text) == events
    for at in range(len(text)):
        assert read(name, [text[:at], text[at:]]) == events, at


WORDS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_", "<|python_tag|>", "<"),
        *("<|channel|>", "<|message|>", "<|end|>", "<|start|>assistant", "<|call|>", " to="),
        *("analysis", "final", "commentary", "to=functions.add", "name", "arguments", "add"),
        *('"name"', '"arguments"', '"parameters"', '"get_weather"', "1", "é", "두레", "🐐"),
        *("{", "}", "[", "]", '"', "\\", ":", ",", ";", " ", "\n", "\n\n"),
        *('{"name": "add", "arguments": {', '{"name": "add", "parameters": {'),
        *("<function=add>", "</function>", "<parameter=a>", "</parameter>"),
        *(CALL, HARMONY_CALL, CODER_CALL),
    ]
)
GARBAGE = st.lists(WORDS | st.text(max_size=4), max_size=14).map("".join)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=100, deadline=None)
@given(text=GARBAGE, cuts=st.lists(st.integers(0, 200), max_size=8))
@example(text='<tool_call>{"arguments": {}, "name": "add"}x', cuts=[3])
def test_garbage_is_read_alike_in_any_pieces(name: str, text: str, cuts: list[int]) -> None:
    """It never raises, and pieces change nothing."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    whole = read(name, [text])
    assert read(name, pieces) == whole
    assert read(name, text) == whole


@pytest.mark.parametrize("name", ["hermes", "hermes, no tools", "llama3", "coder"])
@settings(max_examples=100, deadline=None)
@given(text=GARBAGE)
def test_what_is_no_call_is_given_back(name: str, text: str) -> None:
    """Every letter of an answer without calls comes back; only tags of thoughts and space go."""
    events = read(name, [text])
    if any(kind == "call" for kind, *_ in events):
        return
    given_back = "".join(text for _, text in events)
    kept = text.replace("<think>", "", 1).replace("</think>", "", 1)
    assert "".join(kept.split()) in (
        "".join(given_back.split()),
        "".join(given_back.replace("<think>", "", 1).replace("</think>", "", 1).split()),
    )


def test_arguments_stream_as_they_come() -> None:
    """A long argument is not held back until its end."""
    parser = PARSERS["hermes"]()
    head = parser.feed('<tool_call>\n{"name": "add", "arguments": {"a": "')
    assert told(head) == [("call", "0", "add"), ("arguments", "0", '{"a": "')]
    for word in ("one ", "two ", "three"):
        assert told(parser.feed(word)) == [("arguments", "0", word)]
    assert told(parser.feed('"}}')) == [("arguments", "0", '"}')]
    assert told(parser.feed("\n</tool_call>") + parser.finish()) == []


def test_json_that_cannot_be_a_call_streams_at_once() -> None:
    """A model without call tags that answers in JSON does not keep its reader waiting."""
    parser = PARSERS["llama3"]()
    assert parser.feed('{"na') == []
    assert told(parser.feed('tion": "')) == [("content", '{"nation": "')]
    assert told(parser.feed("Korea")) == [("content", "Korea")]


def test_text_streams_at_once() -> None:
    """Only what may begin a tag is held back."""
    parser = PARSERS["hermes"]()
    assert told(parser.feed("Hello")) == [("content", "Hello")]
    assert parser.feed(" <tool") == []
    assert told(parser.feed("box>")) == [("content", " <toolbox>")]


def test_every_call_has_its_own_id() -> None:
    """As OpenAI's look."""
    parser = PARSERS["hermes"]()
    ids = [event.id for event in parser.feed(CALL + CALL) if isinstance(event, ToolCall)]
    assert len(set(ids)) == 2
    assert all(name.startswith("call_") and len(name) == 29 for name in ids)


def test_a_long_garbled_answer_is_read_quickly() -> None:
    """Openings without end do not make reading quadratic."""
    text = '<tool_call>{"name": "add", ' * 3000
    events = read("hermes", [text])
    assert events == [("content", text)]


def test_kinds_of_events_are_the_tasks_own() -> None:
    """Nothing but what a dialect expects."""
    parser = PARSERS["hermes"]()
    events = parser.feed(f"<think>Hm.</think>Yes.{CALL}") + parser.finish()
    assert [type(event) for event in events] == [Reasoning, Content, ToolCall, ToolArguments]
