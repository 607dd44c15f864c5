"""Anthropic's Messages API: what a request means, what the stream says, and the official client's view.

The first part is pure; the second talks to a real server on the demo model over HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dure.chat.task import (
    ChatEvent,
    ChatTask,
    Content,
    Finished,
    GenerationOptions,
    JsonSchema,
    NamedTool,
    PromptProgress,
    Reasoning,
    Tool,
    ToolArguments,
    ToolCall,
)
from dure.errors import BusyError, EngineError, UsageError
from dure.generate.request import Sampling, Timings
from dure.http.problems import Problem
from dure.http.sse import Silence
from dure.serve.anthropic import anthropic_error, router
from dure.serve.anthropic.answer import MessageAnswer
from dure.serve.anthropic.document import MessageObject
from dure.serve.anthropic.mapping import options_of, quieter, task_of, thoughts_of
from dure.serve.anthropic.requests import MessagesRequest
from tests.support.let_through import check_let_through
from tests.support.serving import Script, ScriptedEngine, Served, served, state_of, wait_until

USER = {"role": "user", "content": "Hello."}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TIMINGS = Timings(prompt_tokens=10, cached_tokens=4, tokens=5)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def asked(**fields: Any) -> MessagesRequest:
    return MessagesRequest.model_validate({"max_tokens": 64, "messages": [USER], **fields})


def task(**fields: Any) -> ChatTask:
    return task_of(asked(**fields))


def options(**fields: Any) -> GenerationOptions:
    return options_of(asked(**fields), Sampling())


def told(events: list[ChatEvent], **settings: Any) -> tuple[list[dict[str, Any]], MessageAnswer]:
    """What a stream of these says, and the answer."""
    answer = MessageAnswer("demo", 10, 64, ["END"], **settings)
    return [one for event in events for one in answer.feed(event)], answer


# What a request means.


def test_the_system_may_be_text_or_blocks() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert task(system="Be brief.").messages == [system, USER]
    block = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    assert task(system=[block]).messages == [system, USER]


def test_what_claude_code_tells_the_accountants_is_not_told_to_the_model() -> None:
    """It differs in every session, and stands before everything that could be cached."""
    note = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.407;"}
    block = {"type": "text", "text": "Be brief."}
    expected = [{"role": "system", "content": "Be brief."}, USER]
    assert task(system=[note, block]).messages == expected
    assert task(system=[note]).messages == [USER]


def test_a_tool_loop_becomes_calls_and_results() -> None:
    """Thoughts, text and calls are one message; results follow the calls, before what is said."""
    answer = [
        {"type": "thinking", "thinking": "I need the weather.", "signature": ""},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Solbat"}},
    ]
    results = [
        {"type": "text", "text": "Here:"},
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [{"type": "text", "text": "Rain."}],
        },
    ]
    turns = [USER, {"role": "assistant", "content": answer}, {"role": "user", "content": results}]
    function = {"name": "get_weather", "arguments": '{"city":"Solbat"}'}
    assert task(messages=turns).messages == [
        USER,
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "I need the weather.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        {"role": "user", "content": "Here:"},
    ]


def test_the_model_is_told_that_a_call_failed() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "No city.", "is_error": True}
    messages = task(messages=[USER, {"role": "user", "content": [result]}]).messages
    assert messages[-1]["content"] == "Error: No city."


def test_an_answer_that_was_begun_goes_on() -> None:
    assert task(messages=[USER, {"role": "assistant", "content": "I am"}]).continue_last
    assert not task().continue_last


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "get_weather"}, NamedTool("get_weather")),
    ],
)
def test_the_choice_of_a_tool(choice: dict[str, Any] | None, expected: object) -> None:
    found = task(tools=[WEATHER], tool_choice=choice)
    assert found.tool_choice == expected
    assert found.tools == (Tool("get_weather", "The weather of a city.", WEATHER["input_schema"]),)  # type: ignore[arg-type]


def test_parallel_calls_can_be_switched_off() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert not task(tools=[WEATHER], tool_choice=choice).parallel_tool_calls
    assert task(tools=[WEATHER]).parallel_tool_calls


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 32}, True),
        ({"type": "adaptive"}, None),
    ],
)
def test_thinking_is_switched_or_left_to_the_model(thinking: Any, expected: bool | None) -> None:
    found = task(thinking=thinking)
    assert found.enable_thinking is expected
    assert quieter(asked(thinking=thinking), found) is None


def test_without_being_asked_the_model_is_kept_from_thinking() -> None:
    """Where it can be; one that always thinks is then asked as it is."""
    quiet = quieter(asked(), task())
    assert quiet is not None
    assert quiet.enable_thinking is False
    assert task().enable_thinking is None


def test_options_stand_where_given_and_defaults_elsewhere() -> None:
    found = options(temperature=0.5, top_k=3, top_p=0.9, stop_sequences=["END"])
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.9)
    assert found == GenerationOptions(sampling=sampling, max_tokens=64, stop=("END",))


def test_structured_output_and_effort() -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    found = task(output_config={"format": wanted, "effort": "low"})
    assert found.response_format == JsonSchema(SCHEMA)
    assert found.reasoning_effort == "low"
    assert task(output_format=wanted).response_format == JsonSchema(SCHEMA)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": []}),
    ("max_tokens", {"max_tokens": 0}),
    ("image input is not supported", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    (
        "messages.0.content.0.content.0: image",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}],
                }
            ]
        },
    ),
    (
        "messages.0.content.0: blocks of type 'document'",
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
    ),
    (
        "messages.0.content.0",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                }
            ]
        },
    ),
    (
        "tool_result",
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                }
            ]
        },
    ),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 64}}),
    ("stop_sequences", {"stop_sequences": [""]}),
    ("container", {"container": "x"}),
    ("mcp_servers", {"mcp_servers": [{"url": "https://mcp.example"}]}),
    ("did you mean max_tokens", {"max_token": 4}),
    (
        "output_format",
        {
            "output_format": {"type": "json_schema", "schema": {}},
            "output_config": {"format": {"type": "json_schema", "schema": {}}},
        },
    ),
]


@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, fields: dict[str, Any]) -> None:
    """No parameter is dropped silently."""
    with pytest.raises((UsageError, ValidationError)) as found:
        assert (task(**fields), options(**fields)) is None
    assert name in str(found.value)


IGNORED: list[tuple[str, dict[str, Any]]] = [
    ("tools.0", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("service_tier", {"service_tier": "priority"}),
    ("metadata", {"metadata": {"user_id": "me", "more": 1}}),
    ("context_management", {"context_management": {"edits": []}}),
    ("output_config.task_budget", {"output_config": {"task_budget": {"tokens": 9}}}),
    (
        "messages.content.cache_control",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hello.", "cache_control": {"type": "x"}}],
                }
            ]
        },
    ),
    ("messages.output_config", {"messages": [{**USER, "output_config": {"effort": "low"}}]}),
    ("a_new_one", {"a_new_one": {"of": "next year"}}),
]


@pytest.mark.parametrize(("name", "fields"), IGNORED)
def test_what_cannot_change_the_answer_is_let_through_by_name(
    name: str, fields: dict[str, Any]
) -> None:
    """And the rest of the request means what it means without it."""
    check_let_through(name, fields, task, options)


def test_a_deferred_tool_is_shown_once_a_search_has_found_it() -> None:
    """As Anthropic's own servers do: a placeholder is never shown."""
    tools = [WEATHER, {**WEATHER, "name": "tides", "defer_loading": True}]
    assert [tool.name for tool in task(tools=tools).tools] == ["get_weather"]
    search = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
    reference = {"type": "tool_reference", "tool_name": "tides"}
    found = {"type": "tool_result", "tool_use_id": "a", "content": [reference]}
    asked = task(
        tools=tools,
        messages=[
            USER,
            {"role": "assistant", "content": [search]},
            {"role": "user", "content": [found]},
        ],
    )
    assert [tool.name for tool in asked.tools] == ["get_weather", "tides"]
    assert "tides" in asked.messages[-1]["content"]


def test_thoughts_that_only_anthropic_can_read_are_skipped() -> None:
    sealed = {"type": "redacted_thinking", "data": "x"}
    said = {"type": "text", "text": "Hello."}
    messages = task(
        messages=[USER, {"role": "assistant", "content": [sealed, said]}, USER]
    ).messages
    assert messages[1] == {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_the_types_of_the_official_api(status: int, kind: str) -> None:
    body = anthropic_error(Problem(status, "whatever", "It went wrong."))
    assert body == {"type": "error", "error": {"type": kind, "message": "It went wrong."}}


# What the stream says.


def test_events_come_in_the_order_of_the_official_api() -> None:
    events, _ = told(
        [
            PromptProgress(10, 4, 10, 0.1),
            Reasoning("Hm."),
            Content("Yes"),
            Content("."),
            ToolCall(0, "call_1", "get_weather"),
            ToolArguments(0, '{"city": "Solbat"}'),
            Finished("tool_calls", TIMINGS, None, 2),
        ]
    )
    kinds = [(event["type"], event.get("index")) for event in events]
    assert kinds == [
        ("message_start", None),
        ("ping", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[4]["delta"] == {"type": "signature_delta", "signature": ""}


def test_the_message_is_what_the_stream_said() -> None:
    """Calls have their arguments as an object; usage tells cached and thinking tokens."""
    call: list[ChatEvent] = [
        ToolCall(0, "call_1", "f"),
        ToolArguments(0, '{"a": '),
        ToolArguments(0, "1}"),
    ]
    _, answer = told(
        [Reasoning("Hm."), Content("Yes."), *call, Finished("tool_calls", TIMINGS, None, 2)]
    )
    message = answer.value()
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Yes.", "citations": None},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
    }


@pytest.mark.parametrize(
    ("finished", "reason", "sequence"),
    [
        (Finished("stop", TIMINGS), "end_turn", None),
        (Finished("stop", TIMINGS, "END"), "stop_sequence", "END"),
        (Finished("stop", TIMINGS, "<|im_end|>"), "end_turn", None),
        (Finished("tool_calls", TIMINGS), "tool_use", None),
        (Finished("length", Timings(tokens=64)), "max_tokens", None),
        (Finished("length", Timings(tokens=9)), "model_context_window_exceeded", None),
    ],
)
def test_the_reason_of_the_end(finished: Finished, reason: str, sequence: str | None) -> None:
    """A text that ends the model's own format is no stop sequence of the request."""
    _, answer = told([Content("Yes."), finished])
    value = answer.value()
    assert (value["stop_reason"], value["stop_sequence"]) == (reason, sequence)


def test_omitted_thoughts_leave_a_block_without_text() -> None:
    events, answer = told(
        [Reasoning("Hm."), Reasoning("Hm."), Content("Yes."), Finished("stop", TIMINGS)],
        thoughts="omitted",
    )
    assert answer.value()["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert not any(event.get("delta", {}).get("type") == "thinking_delta" for event in events)


def test_thoughts_that_nobody_asked_for_are_hidden() -> None:
    """Programs that read `content[0].text` go on working with a model that thinks unasked."""
    events, answer = told(
        [Reasoning("Hm."), Content("Yes."), Finished("stop", TIMINGS)], thoughts="hidden"
    )
    assert answer.value()["content"] == [{"type": "text", "text": "Yes.", "citations": None}]
    assert [event["index"] for event in events if "index" in event] == [0, 0, 0]
    assert thoughts_of(asked()) == thoughts_of(asked(thinking={"type": "disabled"})) == "hidden"
    assert thoughts_of(asked(thinking={"type": "adaptive"})) == "told"


PIECES = st.one_of(
    st.builds(Content, st.text(max_size=4)),
    st.builds(Reasoning, st.text(max_size=4)),
    st.builds(PromptProgress, st.just(9), st.just(1), st.just(5), st.just(0.1)),
)


@given(st.lists(PIECES), st.integers(0, 3), st.sampled_from(["stop", "length", "tool_calls"]))
def test_blocks_open_and_close_in_turn_and_are_the_sum_of_their_deltas(
    pieces: list[ChatEvent], n_calls: int, reason: Any
) -> None:
    """Whatever the model writes, the stream's parts add up to the message."""
    calls: list[ChatEvent] = []
    for index in range(n_calls):
        calls += [ToolCall(index, f"call_{index}", "f"), ToolArguments(index, "{}")]
    events, answer = told([*pieces, *calls, Finished(reason, TIMINGS)])
    content = answer.value()["content"]
    order = [
        (e["type"], e["index"])
        for e in events
        if e["type"] in ("content_block_start", "content_block_stop")
    ]
    assert order == [
        step
        for i in range(len(content))
        for step in (("content_block_start", i), ("content_block_stop", i))
    ]
    for index, block in enumerate(content):
        deltas = [
            event["delta"] for event in events if "delta" in event and event.get("index") == index
        ]
        name = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}[block["type"]]
        whole = "{}" if block["type"] == "tool_use" else block[name]
        assert "".join(delta.get(name, "") for delta in deltas) == whole


# What the official client sees of a server.

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Solbat"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server with this API."""
    with served(state_of(ScriptedEngine()), [router()]) as server:
        yield server


@pytest.fixture
def engine(server: Served) -> ScriptedEngine:
    """What the server's model says next."""
    server.state.model.engine = engine = ScriptedEngine()
    return engine


@pytest.fixture
def url(server: Served, engine: ScriptedEngine) -> str:
    """Where the server is."""
    return server.url


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    """The official client, which is not to try again."""
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    """A message on its own, whose content's types the tests know better than mypy."""
    return client.messages.create(
        **{"model": "any", "max_tokens": 64, "messages": [USER], **fields}
    )


def stream(client: anthropic.Anthropic, **fields: Any) -> Any:
    """A streamed message, to be entered."""
    return client.messages.stream(
        **{"model": "any", "max_tokens": 64, "messages": [USER], **fields}
    )


def test_create_answers_with_usage(client: anthropic.Anthropic, engine: ScriptedEngine) -> None:
    engine.default = Script("Hello there.", cached=2)
    message = ask(client, system="Be brief.", extra_body={"temperature": 0.5, "top_k": 7})
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hello there.", "citations": None}
    ]
    assert (message.stop_reason, message.model) == ("end_turn", "dure-demo")
    assert message.usage.cache_read_input_tokens == 2
    assert message.usage.input_tokens == len(engine.requests[0].prompt) - 2
    assert (engine.requests[0].sampling.temperature, engine.requests[0].sampling.top_k) == (0.5, 7)
    assert engine.requests[0].max_tokens == 64
    MessageObject.model_validate(message.to_dict())


def test_the_client_rebuilds_the_message_from_the_stream(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    """Its texts, its final message and the message on its own say the same."""
    engine.default = Script("Hello there.", cached=2)
    with stream(client) as events:
        texts = list(events.text_stream)
        final = events.get_final_message()
    whole = ask(client)
    assert "".join(texts) == "Hello there."
    assert len(texts) > 1
    assert [block.text for block in final.content] == [block.text for block in whole.content]
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)


def test_a_tool_is_called_and_its_result_answered(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    """The content of a streamed answer can be handed back as the client gave it."""
    engine.scripts = [Script(f"Let me look.\n{CALL}"), Script("Rain in Solbat.")]
    with stream(client, tools=[WEATHER]) as events:
        first = events.get_final_message()
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Solbat"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
    turns = [
        USER,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = ask(client, messages=turns, tools=[WEATHER])
    assert second.content[0].text == "Rain in Solbat."


def test_thoughts_are_a_block_of_their_own(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    engine.default = Script("<think>\nHm.\n</think>\n\nYes.")
    with stream(client, thinking={"type": "enabled", "budget_tokens": 32}) as events:
        final = events.get_final_message()
    thought, text = final.content
    assert (thought.type, thought.thinking.strip()) == ("thinking", "Hm.")
    assert (text.type, text.text) == ("text", "Yes.")
    assert final.usage.output_tokens_details.thinking_tokens > 0


@pytest.mark.parametrize(
    ("script", "kinds"),
    [(Script(tokens=()), []), (Script("<think>\nHm.\n</think>\n\n"), ["thinking"])],
)
def test_an_answer_without_text_is_as_the_official_api_sends_it(
    client: anthropic.Anthropic,
    engine: ScriptedEngine,
    script: Script,
    kinds: list[str],
) -> None:
    """No block, or the thoughts alone: no text is made up. The client reads it, and may hand it back."""
    engine.default = script
    thinking = {"type": "enabled", "budget_tokens": 32}
    with stream(client, thinking=thinking) as events:
        final = events.get_final_message()
    for message in (final, ask(client, thinking=thinking)):
        assert [block.type for block in message.content] == kinds
        assert message.stop_reason == "end_turn"
    engine.default = Script("Hello there.")
    turns = [USER, {"role": "assistant", "content": final.content}, USER]
    assert ask(client, messages=turns).content[0].text == "Hello there."


def test_a_stop_sequence_ends_the_answer_and_is_named(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    message = ask(client, stop_sequences=["there", "never"])
    assert message.content[0].text == "Hello "
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "there")


def test_an_answer_cut_by_max_tokens_says_so(client: anthropic.Anthropic) -> None:
    assert ask(client, max_tokens=1).stop_reason == "max_tokens"


def test_structured_output_follows_a_grammar(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    engine.default = Script('{"city": "Solbat"}')
    schema = {**SCHEMA, "required": ["city"], "additionalProperties": False}
    message = ask(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert message.content[0].text == '{"city": "Solbat"}'
    assert engine.requests[0].grammar is not None


def test_tokens_are_counted_as_they_are_for_an_answer(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    """Thoughts handed back count too; nothing is generated."""
    count = client.messages.count_tokens
    plain: Any = [USER, {"role": "assistant", "content": "Yes."}, USER]
    n_tokens = count(model="any", messages=plain, tools=[WEATHER]).input_tokens  # type: ignore[list-item]
    assert engine.requests == []
    ask(client, messages=plain, tools=[WEATHER])
    assert len(engine.requests[0].prompt) == n_tokens


def test_a_refused_parameter_is_a_400_that_names_it(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as found:
        ask(client, extra_body={"container": "x"})
    assert found.value.type == "invalid_request_error"
    assert "container" in str(found.value)


@pytest.mark.parametrize("streamed", [False, True])
def test_errors_before_the_first_event_are_statuses(
    client: anthropic.Anthropic, engine: ScriptedEngine, streamed: bool
) -> None:
    """A full queue is 429 with Retry-After, a prompt too long 400, a model that loads 503."""
    engine.scripts = [Script(refusal=BusyError("full", retry_after_s=3.0))]
    with pytest.raises(anthropic.RateLimitError) as busy:
        ask(client, stream=streamed)
    assert busy.value.type == "rate_limit_error"
    assert busy.value.response.headers["retry-after"] == "3"
    with pytest.raises(anthropic.BadRequestError):
        ask(client, messages=[{"role": "user", "content": "Hello. " * 3000}], stream=streamed)
    engine.state = "loading"
    with pytest.raises(anthropic.InternalServerError) as loading:
        ask(client, stream=streamed)
    assert (loading.value.status_code, loading.value.type) == (503, "overloaded_error")


def test_a_failure_in_the_middle_is_an_error_event(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    engine.default = Script("Hello there.", failure=EngineError("the engine is gone"))
    with (
        stream(client) as events,
        pytest.raises(anthropic.APIStatusError, match="the engine is gone"),
    ):
        list(events)


def test_a_client_that_hangs_up_ends_the_work(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    hold = threading.Event()
    engine.default = Script("Hello there.", hold=hold)
    with stream(client) as events:
        next(iter(events.text_stream))
    wait_until(lambda: engine.cancelled, "the engine works on for nobody")
    hold.set()


def test_a_silent_stream_pings(engine: ScriptedEngine) -> None:
    """While nothing is said, the client hears that the server lives."""
    hold = threading.Event()
    engine.default = Script("Hello there.", hold=hold)
    body = {"model": "any", "max_tokens": 64, "messages": [USER], "stream": True}
    pings = 0
    with (
        served(state_of(engine, silence=Silence(comment_s=0.05)), [router()]) as server,
        httpx.stream("POST", f"{server.url}/v1/messages", json=body) as answer,
    ):
        for line in answer.iter_lines():
            pings += line == "event: ping"
            if pings > 2:
                hold.set()
    assert pings > 2


def test_the_asynchronous_client_streams_too(url: str) -> None:
    async def answer() -> str:
        user: Any = USER
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="none") as client,
            client.messages.stream(model="any", max_tokens=64, messages=[user]) as events,
        ):
            return await events.get_final_text()

    assert asyncio.run(answer()) == "Hello there."
