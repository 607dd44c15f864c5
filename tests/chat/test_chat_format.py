"""From a chat to a prompt and a grammar, over templates in the conventions of the families."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from dure.chat.answer_reader import CheckedParser
from dure.chat.format import ChatFormatter, PreparedChat
from dure.chat.reading import broken_promise
from dure.chat.task import (
    ChatTask,
    Content,
    JsonObject,
    JsonSchema,
    NamedTool,
    Reasoning,
    Tool,
    ToolArguments,
    ToolCall,
)
from dure.errors import UsageError
from dure.model.vocabulary import Vocabulary
from tests.support.chat_templates import CODER, GEMMA, HARMONY, LLAMA3, PARTS, R1
from tests.support.gbnf_words import Judge, Words, demo_vocabulary

USER = {"role": "user", "content": "Is it raining?"}
SYSTEM = {"role": "system", "content": "Be kind."}
WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    """The demo model's vocabulary."""
    with demo_vocabulary() as vocabulary:
        yield vocabulary


@pytest.fixture(scope="module")
def judge(vocabulary: Vocabulary) -> Judge:
    """llama.cpp's matcher."""
    return Judge(vocabulary)


def prepared(vocabulary: Vocabulary, task: ChatTask, template: str | None = None) -> PreparedChat:
    return ChatFormatter(vocabulary, default_template=template).prepare(task)


def complaint(chat: PreparedChat, text: str) -> str | None:
    """Return why a whole answer does not follow what was asked for; None if it does."""
    parser = CheckedParser(chat)
    list(parser.feed(text))
    list(parser.finish())
    for promise in parser.promises():
        complaint = broken_promise(None, promise)  # type: ignore[arg-type]  # needs no tools
        if complaint is not None:
            return complaint
    return None


def calls_of(chat: PreparedChat, text: str) -> list[tuple[str, Any]]:
    parser = chat.parser()
    events = parser.feed(text) + parser.finish()
    names = {event.index: event.name for event in events if isinstance(event, ToolCall)}
    texts = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, ToolArguments):
            texts[event.index] += event.text
    return [(names[i], json.loads(texts[i])) for i in names]


def asked(*cities: str) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{city}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
        }
        for city in cities
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def answered(city: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{city}", "content": f"rain in {city}"}


# ---------------------------------------------------------------- prompts


def test_the_demo_model_is_told_of_its_tools(vocabulary: Vocabulary) -> None:
    """By its own template, and not where no tool may be called."""
    chat = prepared(vocabulary, ChatTask([USER], tools=[WEATHER]))
    assert '{"type": "function", "function": {"name": "get_weather"' in chat.prompt_text
    assert chat.prompt == vocabulary.tokenize(chat.prompt_text, special=True)
    silent = prepared(vocabulary, ChatTask([USER], tools=[WEATHER], tool_choice="none"))
    assert silent.prompt == prepared(vocabulary, ChatTask([USER])).prompt
    assert silent.grammar is None


@pytest.mark.parametrize("template", [None, LLAMA3, GEMMA, HARMONY, CODER, R1, PARTS])
def test_every_template_gets_the_whole_conversation(
    vocabulary: Vocabulary, template: str | None
) -> None:
    """Whatever it refuses: system messages late, one role twice, several calls, null contents."""
    messages: list[dict[str, Any]] = [
        SYSTEM,
        USER,
        {"role": "user", "content": [{"type": "text", "text": "Tell"}, {"type": "text", "text": "me."}]},
        asked("Seoul", "Busan"),
        answered("Seoul"),
        answered("Busan"),
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Thanks."},
    ]  # fmt: skip
    text = prepared(vocabulary, ChatTask(messages, tools=[WEATHER]), template).prompt_text
    places = [text.find(part) for part in ("Be kind.", "Is it raining?", "Tell\nme.")]
    assert -1 not in places
    for part in (
        "Seoul",
        "Busan",
        "rain in Seoul",
        "rain in Busan",
        "Yes.",
        "Be brief.",
        "Thanks.",
    ):
        assert part in text, part
    assert "get_weather" in text


@pytest.mark.parametrize("template", [None, LLAMA3, GEMMA, HARMONY, CODER])
def test_a_call_that_was_cut_can_be_told(vocabulary: Vocabulary, template: str | None) -> None:
    """Its arguments are no JSON; the conversation goes on all the same."""
    call = asked("Seoul")
    call["tool_calls"][0]["function"]["arguments"] = '{"city": "Seo'
    chat = prepared(
        vocabulary, ChatTask([USER, call, answered("Seoul")], tools=[WEATHER]), template
    )
    assert "Seo" in chat.prompt_text
    assert "rain in Seoul" in chat.prompt_text


def test_a_template_that_writes_one_call_a_message_gets_them_paired(vocabulary: Vocabulary) -> None:
    """Each call is followed by its own result."""
    messages = [USER, asked("Seoul", "Busan"), answered("Busan"), answered("Seoul")]
    text = prepared(vocabulary, ChatTask(messages, tools=[WEATHER]), LLAMA3).prompt_text
    places = [text.index(p) for p in ('"Seoul"', "rain in Seoul", '"Busan"', "rain in Busan")]
    assert places == sorted(places)


def test_the_beginning_of_a_text_is_written_once(vocabulary: Vocabulary) -> None:
    """Also where the template writes it itself; the demo model has none at all."""
    chat = prepared(vocabulary, ChatTask([USER]), "{{ bos_token }}" + R1)
    assert chat.prompt == vocabulary.tokenize(chat.prompt_text, special=True, add_bos=False)


def test_an_answer_is_continued_where_it_stops(vocabulary: Vocabulary) -> None:
    """In its content, in its thoughts, and in harmony's channels."""
    begun = {"role": "assistant", "content": "The rain in"}
    thought = {"role": "assistant", "content": "", "reasoning_content": "Let me"}
    chat = prepared(vocabulary, ChatTask([USER, begun], continue_last=True))
    assert chat.prompt_text.endswith("<|im_start|>assistant\nThe rain in")
    parser = chat.parser()
    assert parser.feed(" Seoul") == [Content(" Seoul")]
    thinking = prepared(vocabulary, ChatTask([USER, thought], continue_last=True), R1)
    assert thinking.prompt_text.endswith("<think>\nLet me")
    parser = thinking.parser()
    assert parser.feed("see.</think>Yes") == [Reasoning("see."), Content("Yes")]
    closed = prepared(vocabulary, ChatTask([USER, begun], continue_last=True), R1)
    assert closed.prompt_text.endswith("</think>\n\nThe rain in")
    harmony = prepared(vocabulary, ChatTask([USER, begun], continue_last=True), HARMONY)
    assert harmony.prompt_text.endswith("<|start|>assistant<|channel|>final<|message|>The rain in")


# ---------------------------------------------------------------- grammars


@pytest.mark.parametrize("template", [None, LLAMA3, GEMMA, HARMONY, CODER, R1])
@pytest.mark.parametrize("parallel", [True, False])
def test_a_forced_call_is_one_of_the_tools_and_is_read_back(
    vocabulary: Vocabulary, judge: Judge, template: str | None, parallel: bool
) -> None:
    """Whatever the grammar allows: a call, its arguments after the tool's schema, read by the parser."""
    task = ChatTask(
        [USER], tools=[WEATHER, ADD], tool_choice="required", parallel_tool_calls=parallel
    )
    chat = prepared(vocabulary, task, template)
    assert chat.grammar is not None
    assert not chat.grammar.lazy
    words, chance, most = Words(chat.grammar.gbnf), random.Random(5), 0
    for _ in range(40):
        text = words.draw(chance)
        assert judge.allows(chat.grammar.gbnf, text), text
        calls = calls_of(chat, text)
        assert calls, text
        for name, arguments in calls:
            assert name in ("get_weather", "add")
            assert isinstance(arguments.get("city", ""), str)
            assert isinstance(arguments.get("a", 0), int)
        most = max(most, len(calls))
    assert parallel or most == 1


def test_a_named_tool_is_the_only_one_called(vocabulary: Vocabulary) -> None:
    """Though the model is told of all."""
    task = ChatTask([USER], tools=[WEATHER, ADD], tool_choice=NamedTool("add"))
    chat = prepared(vocabulary, task)
    assert chat.grammar is not None
    assert '\\"add\\"' in chat.grammar.gbnf
    assert "get_weather" not in chat.grammar.gbnf
    assert "get_weather" in chat.prompt_text


AUTO: list[tuple[str | None, str, bool]] = [
    (None, "It rains.", True),
    (None, 'Hm.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Seoul"}}\n</tool_call>', True),
    (None, '<tool_call>\n{"name": "get_weather", "arguments": {"town": 1}}\n</tool_call>', False),
    (None, '<tool_call>\n{"name": "other"', False),
    (GEMMA, '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', True),
    (CODER, "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n</function>\n</tool_call>", True),
    (CODER, "<tool_call>\n<function=add>\n<parameter=a>\nseven\n</parameter>\n</function>", False),
    (LLAMA3, "It rains.", True),
    (LLAMA3, '{"name": "get_weather", "parameters": {"city": "Seoul"}}', True),
    (LLAMA3, '{"name": "get_weather", "parameters": {"town": 1}}', False),
    (LLAMA3, '{"name": "Mina", "parameters": {"town": 1}}', True),
    (HARMONY, "<|channel|>final<|message|>It rains.", True),
    (HARMONY, '<|channel|>commentary to=functions.add<|message|>{"a": 1}', True),
    (HARMONY, '<|channel|>commentary to=functions.add<|message|>{"b": 1}', False),
    (HARMONY, '<|channel|>commentary to=elsewhere<|message|>{"b": 1}', False),
]  # fmt: skip


@pytest.mark.parametrize(("template", "text", "allowed"), AUTO)
def test_an_answer_is_free_until_it_calls(
    vocabulary: Vocabulary, judge: Judge, template: str | None, text: str, allowed: bool
) -> None:
    """Then the call must be one of the tools, with the arguments it wants."""
    chat = prepared(vocabulary, ChatTask([USER], tools=[WEATHER, ADD]), template)
    assert chat.grammar is not None
    assert chat.grammar.lazy
    assert judge.allows_lazily(chat.grammar, text) == allowed


@pytest.mark.parametrize("template", [None, LLAMA3, GEMMA, HARMONY, CODER])
def test_what_triggers_a_grammar_is_its_beginning(
    vocabulary: Vocabulary, judge: Judge, template: str | None
) -> None:
    """Else llama.cpp would end the process: every beginning of every call is tried at every length."""
    chat = prepared(vocabulary, ChatTask([USER], tools=[WEATHER, ADD]), template)
    assert chat.grammar is not None
    words, chance, fired = Words(chat.grammar.gbnf), random.Random(11), 0
    for _ in range(30):
        text = words.draw(chance)
        for pattern in chat.grammar.triggers:
            for lead in ("", "<|channel|>commentary"):
                for end in range(len(text) + 1):
                    found = re.search(pattern, lead + text[:end])
                    if found is not None:
                        fired += 1
                        begun = (lead + text[:end])[found.start(1) :]
                        assert begun.lstrip() == text[:end].lstrip()
                        assert text.endswith(begun + text[end:])
    assert fired or chat.grammar.trigger_tokens


@pytest.mark.parametrize("template", [None, LLAMA3, GEMMA, HARMONY, CODER])
def test_one_expression_waits_for_a_call_of_any_of_many_tools(
    vocabulary: Vocabulary, judge: Judge, template: str | None
) -> None:
    """So a token of a free answer takes no longer than with one tool."""
    tools = [Tool(f"tool.{n}", "", {"type": "object"}) for n in range(60)]
    chat = prepared(vocabulary, ChatTask([USER], tools=tools), template)
    assert chat.grammar is not None
    assert len({*chat.grammar.triggers, *chat.grammar.trigger_tokens}) == 1
    if template == LLAMA3:
        for name, allowed in (("tool.0", True), ("tool.59", True), ("toolx59", False)):
            begun = f'{{"name": "{name}", "parameters": '
            assert judge.allows_lazily(chat.grammar, begun + "{}}")
            assert judge.allows_lazily(chat.grammar, begun + "oops") != allowed


@pytest.mark.parametrize("template", [None, GEMMA, HARMONY, R1])
def test_a_json_answer_may_be_thought_about_first(
    vocabulary: Vocabulary, judge: Judge, template: str | None
) -> None:
    """Where the model thinks; its content is JSON that follows the schema, and `check` agrees."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    chat = prepared(vocabulary, ChatTask([USER], response_format=JsonSchema(schema)), template)
    assert chat.grammar is not None
    words, chance, thought = Words(chat.grammar.gbnf), random.Random(2), False
    for _ in range(40):
        text = words.draw(chance)
        assert judge.allows(chat.grammar.gbnf, text), text
        parser = chat.parser()
        events = parser.feed(text) + parser.finish()
        content = "".join(event.text for event in events if isinstance(event, Content))
        thought |= any(isinstance(event, Reasoning) for event in events)
        assert complaint(chat, text) is None, (text, content)
    assert thought == (template != GEMMA)


STRANGE: list[dict[str, Any]] = [
    {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"pattern": "(?=x)"}}},
    {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}},
    {"properties": {"a": {"$ref": "elsewhere.json"}}},
    {"properties": {"a": {"type": "dict"}}},
    {"type": "dict"},
    {"not": {}},
    {"properties": {"a": {"not": {}, "uniqueItems": True}, "root": False}, "required": ["root"]},
    {"$ref": "#"},
    {"properties": {"a": {"allOf": [{"type": "string"}, {"type": "null"}]}}},
    {"properties": {"a": {"enum": []}, "b": {"minLength": 10**9, "type": "string"}}},
    {"patternProperties": {"^x": {}}, "minProperties": 1},
]


@pytest.mark.parametrize("template", [None, LLAMA3, HARMONY, CODER])
@pytest.mark.parametrize("schema", STRANGE)
def test_a_tool_that_is_not_strict_may_have_any_schema(
    vocabulary: Vocabulary, judge: Judge, template: str | None, schema: dict[str, Any]
) -> None:
    """Where no grammar can say it, any value is allowed; llama.cpp reads the grammar all the same."""
    tool = Tool("odd", "", schema)
    task = ChatTask([USER], tools=[tool], tool_choice="required", parallel_tool_calls=False)
    chat = prepared(vocabulary, task, template)
    assert chat.grammar is not None
    words, chance = Words(chat.grammar.gbnf), random.Random(4)
    for _ in range(5):
        text = words.draw(chance)
        assert judge.allows(chat.grammar.gbnf, text), text
        assert [name for name, _ in calls_of(chat, text)] == ["odd"]


def test_json_and_tools_leave_the_choice(vocabulary: Vocabulary, judge: Judge) -> None:
    """A call, or an answer in JSON; nothing else."""
    task = ChatTask([USER], tools=[ADD], response_format=JsonObject())
    chat = prepared(vocabulary, task)
    assert chat.grammar is not None
    gbnf = chat.grammar.gbnf
    assert judge.allows(gbnf, '{"any": [1]}')
    assert judge.allows(gbnf, '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    assert not judge.allows(gbnf, "words")


def test_what_was_cut_is_told(vocabulary: Vocabulary) -> None:
    """An answer that ended by length is no JSON, and arguments of a strict tool are checked too."""
    strict = Tool("add", "", {**ADD.parameters, "required": ["a"]}, strict=True)
    task = ChatTask([USER], tools=[strict], response_format=JsonObject())
    chat = prepared(vocabulary, task)
    call = '<tool_call>\n{"name": "add", "arguments": %s}\n</tool_call>'
    assert complaint(chat, '{"a": 1}') is None
    assert "is no JSON" in (complaint(chat, '{"a": ') or "")
    assert "is not of type 'object'" in (complaint(chat, "[1]") or "")
    assert complaint(chat, call % '{"a": 1}') is None
    assert "'a' is a required property" in (complaint(chat, call % "{}") or "")


def test_a_callers_grammar_holds_for_the_answer_after_the_thoughts(
    vocabulary: Vocabulary, judge: Judge
) -> None:
    """Its own rules keep their names."""
    gbnf = 'root ::= "yes" | "no" gap\ngap ::= "!"'
    chat = prepared(vocabulary, ChatTask([USER], grammar=gbnf), R1)
    assert chat.grammar is not None
    assert judge.allows(chat.grammar.gbnf, "So.</think>\n\nno!", chat.grammar.root)
    assert not judge.allows(chat.grammar.gbnf, "no!", chat.grammar.root)
    plain = prepared(vocabulary, ChatTask([USER], grammar=gbnf), GEMMA)
    assert plain.grammar is not None
    assert plain.grammar.gbnf == gbnf


def test_a_template_that_has_no_clock_is_told_the_date(vocabulary: Vocabulary) -> None:
    """Llama 3's templates fall back to a day of 2024; a request may say another day."""
    dated = "{%- if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    template = dated + "{{- date_string }}"
    today = datetime.now().strftime("%d %b %Y")
    assert prepared(vocabulary, ChatTask([USER]), template).prompt_text == today
    told = ChatTask([USER], template_kwargs={"date_string": "1 May 2030"})
    assert prepared(vocabulary, told, template).prompt_text == "1 May 2030"


# ---------------------------------------------------------------- thinking


def test_thinking_is_switched_by_the_template(vocabulary: Vocabulary) -> None:
    """The demo model thinks when it is told to; efforts are a switch there, and degrees in harmony."""
    on = prepared(vocabulary, ChatTask([USER], enable_thinking=True))
    assert on.prompt_text.endswith("<think>\n")
    assert on.parser().feed("Hm.") == [Reasoning("Hm.")]
    off = prepared(vocabulary, ChatTask([USER], reasoning_effort="none"))
    assert off.prompt_text.endswith("assistant\n")
    assert prepared(vocabulary, ChatTask([USER], reasoning_effort="low")).prompt == on.prompt
    kwargs = {"enable_thinking": True}
    assert prepared(vocabulary, ChatTask([USER], template_kwargs=kwargs)).prompt == on.prompt
    harmony = prepared(vocabulary, ChatTask([USER], reasoning_effort="high"), HARMONY)
    assert "Reasoning: high" in harmony.prompt_text


def test_not_thinking_is_no_wish_where_a_model_cannot(vocabulary: Vocabulary) -> None:
    """So it is granted."""
    plain = prepared(vocabulary, ChatTask([USER]), GEMMA)
    assert (
        prepared(vocabulary, ChatTask([USER], enable_thinking=False), GEMMA).prompt == plain.prompt
    )


def test_marks_that_are_special_tokens_are_asked_for(vocabulary: Vocabulary) -> None:
    """Harmony's and others' are only then in the text; the demo model's tags always are."""
    assert not prepared(vocabulary, ChatTask([USER], tools=[ADD])).special
    hidden = R1.replace("</think>", "<|im_end|>").replace("<think>", "<|im_start|>")
    assert not prepared(vocabulary, ChatTask([USER]), hidden).special
    piece = vocabulary.tokenize("<|im_end|>", special=True)[0]
    assert vocabulary.piece(piece) == b""


# ---------------------------------------------------------------- refusals

REFUSED: list[tuple[str | None, ChatTask, str]] = [
    (None, ChatTask([]), "at least one message"),
    (None, ChatTask([{"role": "wizard", "content": "x"}]), "messages[0].role 'wizard'"),
    (
        None,
        ChatTask([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "messages[0].content[0]: parts of type 'image_url' are not supported",
    ),
    (None, ChatTask([{"role": "user", "content": 3}]), "messages[0].content"),
    (None, ChatTask([USER], tools=[ADD], tool_choice=NamedTool("x")), "no tool 'x'"),
    (None, ChatTask([USER], tool_choice="required"), "'required' needs tools"),
    (None, ChatTask([USER], tools=[ADD, ADD]), "tools[1].function.name 'add' is there twice"),
    (None, ChatTask([USER], tools=[Tool('a"b')]), "tools[0].function.name"),
    (
        None,
        ChatTask([USER], tools=[Tool("t", "", {"properties": {"a": {"not": {}}}}, strict=True)]),
        "the parameters of the tool 't': schema #/properties/a: the keyword 'not'",
    ),
    (None, ChatTask([USER], response_format=JsonSchema({"not": {}})), "response_format: schema #: the"),
    (None, ChatTask([USER], enable_thinking=True, reasoning_effort="none"), "contradicts"),
    (None, ChatTask([USER], template_kwargs={"messages": []}), "'messages' is set by the server"),
    (None, ChatTask([USER], continue_last=True), "the last message is none"),
    (None, ChatTask([USER], grammar="root ::= ", response_format=JsonObject()), "exclude each other"),
    (None, ChatTask([USER], grammar='root ::= "a'), "grammar: line 1"),
    (None, ChatTask([USER], grammar='root ::= root "a"'), "may begin with itself"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "task", "told"), REFUSED)
def test_what_cannot_be_honoured_is_named(
    vocabulary: Vocabulary, template: str | None, task: ChatTask, told: str
) -> None:
    """In one line, never dropped."""
    with pytest.raises(UsageError, match=re.escape(told)) as error:
        prepared(vocabulary, task, template)
    assert "\n" not in str(error.value)


UNMET = [
    (GEMMA, ChatTask([USER], reasoning_effort="low"), "reasoning_effort", "does not think"),
    (GEMMA, ChatTask([USER], enable_thinking=True), "enable_thinking", "does not think"),
    (HARMONY, ChatTask([USER], reasoning_effort="none"), "reasoning_effort", "always thinks"),
    (HARMONY, ChatTask([USER], reasoning_effort="xhigh"), "reasoning_effort", "it gets 'high'"),
    (
        None,
        ChatTask([USER], template_kwargs={"colour": 1}),
        "chat_template_kwargs.colour",
        "not read",
    ),
]


def test_thoughts_that_a_template_always_opens_are_closed_if_nobody_wants_them(
    vocabulary: Vocabulary,
) -> None:
    """As llama-server's `--reasoning off` does it; what follows is the answer."""
    thinking = prepared(vocabulary, ChatTask([USER]), R1)
    answering = prepared(vocabulary, ChatTask([USER], enable_thinking=False), R1)
    assert answering.prompt_text == thinking.prompt_text + "</think>"
    assert not answering.unmet
    parser = answering.parser()
    assert [*parser.feed("Hello."), *parser.finish()] == [Content("Hello.")]


@pytest.mark.parametrize(("template", "task", "name", "reason"), UNMET)
def test_a_wish_that_the_model_does_not_grant_is_told_and_no_error(
    vocabulary: Vocabulary, template: str | None, task: ChatTask, name: str, reason: str
) -> None:
    """Users of a program cannot change what it asks every model."""
    unmet = prepared(vocabulary, task, template).unmet
    assert list(unmet) == [name]
    assert reason in unmet[name]
