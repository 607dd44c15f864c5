"""OpenAI's Responses API: what a request means, what the stream says, and the official client's view.

The first part is pure; the second talks to a real server on the demo model over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dure.chat.task import (
    ChatEvent,
    ChatTask,
    Content,
    Finished,
    GenerationOptions,
    JsonObject,
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
from dure.http.problems import problem_of
from dure.http.unused_fields import UnusedFields, collecting
from dure.serve.responses import router
from dure.serve.responses.answer import ResponseAnswer
from dure.serve.responses.conversation import sealed
from dure.serve.responses.document import ResponseObject
from dure.serve.responses.echo import echo_of
from dure.serve.responses.mapping import options_of, task_of
from dure.serve.responses.requests import ResponsesRequest
from tests.support.let_through import check_let_through
from tests.support.serving import Script, ScriptedEngine, Served, served, state_of, wait_until

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TIME = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}
DONE = Finished("stop", Timings(prompt_tokens=7, cached_tokens=3, tokens=5), None, 2)


def asked(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": "Hello.", **fields})


def task(**fields: Any) -> ChatTask:
    return task_of(asked(**fields))


def options(**fields: Any) -> GenerationOptions:
    return options_of(asked(**fields), Sampling())


def told(events: list[ChatEvent], **fields: Any) -> tuple[list[dict[str, Any]], ResponseAnswer]:
    """What a stream of these says, and the answer."""
    answer = ResponseAnswer(asked(**fields), echo_of(asked(**fields), "demo", Sampling()))
    return [one for event in events for one in answer.feed(event)], answer


# What a request means.


def test_text_is_a_user_message_and_instructions_come_first() -> None:
    assert task(instructions="Be brief.").messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
    ]


def test_messages_may_be_easy_or_of_parts() -> None:
    """A message needs no type; its parts are joined."""
    parts = [{"type": "input_text", "text": "Hello."}, {"type": "input_text", "text": "You?"}]
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": parts},
    ]
    assert task(input=items).messages == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hello.\nYou?"},
    ]


def test_what_the_model_thought_said_and_called_in_a_row_is_one_message() -> None:
    """An answer's items, handed back as they came, are one turn of the assistant."""
    events: list[ChatEvent] = [
        Reasoning("I need "),
        Reasoning("the weather."),
        Content("Let me look."),
        ToolCall(0, "call_1", "get_weather"),
        ToolArguments(0, '{"city": "Solbat"}'),
        ToolCall(1, "call_2", "get_time"),
        ToolArguments(1, "{}"),
        DONE,
    ]
    _, answer = told(events)
    outputs = [
        {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
        {"type": "function_call_output", "call_id": "call_2", "output": "Noon."},
    ]
    user = {"role": "user", "content": "Weather and time?"}
    messages = task(input=[user, *answer.value()["output"], *outputs]).messages
    weather = {"name": "get_weather", "arguments": '{"city": "Solbat"}'}
    assert messages == [
        user,
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "I need the weather.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": weather},
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        {"role": "tool", "tool_call_id": "call_2", "content": "Noon."},
    ]


def test_two_answers_in_a_row_stay_two_messages() -> None:
    items = [{"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}]
    assert [message["content"] for message in task(input=items).messages] == ["One.", "Two."]


def test_reasoning_comes_back_from_its_sealed_form() -> None:
    """With `include`, an item carries encrypted_content, which alone is enough later."""
    _, answer = told(
        [Reasoning("Hm."), Content("Yes."), DONE], include=["reasoning.encrypted_content"]
    )
    thought = answer.value()["output"][0]
    assert thought["encrypted_content"] == sealed("Hm.")
    bare = {"type": "reasoning", "summary": [], "encrypted_content": sealed("Hm.")}
    message = task(input=[bare, {"role": "assistant", "content": "Yes."}]).messages[0]
    assert message["reasoning_content"] == "Hm."


def test_tools_and_the_choice_of_one() -> None:
    assert task(
        tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}
    ) == ChatTask(
        messages=[{"role": "user", "content": "Hello."}],
        tools=(Tool("get_weather", "The weather of a city.", WEATHER["parameters"]),),  # type: ignore[arg-type]
        tool_choice=NamedTool("get_weather"),
    )


def test_allowed_tools_hides_the_others() -> None:
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "get_time"}],
    }
    found = task(tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool.name for tool in found.tools] == ["get_time"]
    assert found.tool_choice == "required"


def test_parallel_calls_can_be_switched_off() -> None:
    assert not task(tools=[WEATHER], parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObject()),
        (
            {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True},
            JsonSchema({"type": "object"}, "city"),
        ),
        (
            {"type": "json_schema", "name": "x", "schema": {}, "description": "A city."},
            JsonSchema({"description": "A city."}, "x", strict=False),
        ),
    ],
)
def test_the_format_of_the_text(wanted: dict[str, Any], expected: object) -> None:
    assert task(text={"format": wanted}).response_format == expected


def test_options_stand_where_given_and_defaults_elsewhere() -> None:
    found = options(temperature=0.5, max_output_tokens=9)
    assert found == GenerationOptions(sampling=Sampling(temperature=0.5), max_tokens=9)


def test_logprobs_come_where_they_are_included() -> None:
    include = ["message.output_text.logprobs"]
    assert options(include=include).n_logprobs == 0
    assert options(include=include, top_logprobs=4).n_logprobs == 4
    assert options().n_logprobs is None


def test_effort_is_handed_on() -> None:
    assert task(reasoning={"effort": "low", "summary": "auto"}).reasoning_effort == "low"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("background", {"background": True}),
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": "conv_1"}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "web_search"}}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}),
    ("tool_choice", {"tool_choice": "required"}),
    ("input[0]", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (
        "input[0].content[0]",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
    ),
    ("input", {"input": []}),
    (
        "encrypted_content",
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "~"}]},
    ),
    ("did you mean max_output_tokens", {"max_output_token": 1}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("top_p", {"top_p": 1.5}),
    ("temperature", {"temperature": "hot"}),
]


@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, fields: dict[str, Any]) -> None:
    """No parameter is dropped silently."""
    with pytest.raises((UsageError, ValidationError)) as found:
        assert (task(**fields), options(**fields)) is None
    assert name in str(found.value)


IGNORED: list[tuple[str, dict[str, Any]]] = [
    ("store", {"store": True}),
    ("truncation", {"truncation": "auto"}),
    ("text.verbosity", {"text": {"verbosity": "low"}}),
    ("reasoning.summary", {"reasoning": {"summary": "detailed"}}),
    ("include", {"include": ["everything"]}),
    ("stream_options", {"stream_options": {"include_obfuscation": True}}),
    ("tools.0", {"tools": [{"type": "web_search"}]}),
    ("tools.0", {"tools": [{"type": "namespace", "name": "agents", "tools": []}]}),
    ("moderation", {"moderation": {"model": "x"}}),
    ("service_tier", {"service_tier": "flex"}),
    ("client_metadata", {"client_metadata": {"id": "1"}}),
    (
        "input.id",
        {"input": [{"type": "message", "id": "msg_1", "role": "user", "content": "Hello."}]},
    ),
]


@pytest.mark.parametrize(("name", "fields"), IGNORED)
def test_what_cannot_change_the_answer_is_let_through_by_name(
    name: str, fields: dict[str, Any]
) -> None:
    """And the rest of the request means what it means without it."""
    check_let_through(name, fields, task, options)


def test_values_that_ask_for_nothing_are_taken() -> None:
    """What a client says by default is no reason to refuse it, even if the server is strict."""
    with collecting(UnusedFields(strict=True)) as found:
        _usual_defaults()
    assert list(found.names) == ["max_tool_calls"]


def _usual_defaults() -> None:
    task(
        store=False,
        background=False,
        previous_response_id=None,
        truncation="disabled",
        service_tier="auto",
        text={"verbosity": None},
        stream_options={"include_obfuscation": False},
        metadata={"a": "b"},
        user="me",
        include=["file_search_call.results"],
        max_tool_calls=3,
    )


# What the stream says.


def test_events_come_in_the_order_of_the_official_api() -> None:
    events, _ = told(
        [
            PromptProgress(7, 3, 7, 0.1),
            Reasoning("Hm."),
            Content("Yes"),
            Content("."),
            ToolCall(0, "call_1", "get_time"),
            ToolArguments(0, "{}"),
            DONE,
        ]
    )
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["output_index"] for event in events if "item" in event] == [0, 0, 1, 1, 2, 2]


def test_usage_tells_cached_and_reasoning_tokens() -> None:
    _, answer = told([Content("Yes."), DONE])
    assert answer.value()["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_an_answer_cut_off_by_length_is_incomplete() -> None:
    """So is the item that was being written, a call too."""
    cut = Finished("length", Timings(tokens=3))
    events, answer = told([ToolCall(0, "call_1", "get_time"), ToolArguments(0, '{"a'), cut])
    assert events[-1]["type"] == "response.incomplete"
    assert answer.value()["status"] == "incomplete"
    assert answer.value()["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in answer.value()["output"]] == ["incomplete"]


def test_a_failure_in_the_middle_ends_the_stream_as_failed() -> None:
    _, answer = told([Content("Ye")])
    last = answer.fail(problem_of(EngineError("the engine died")))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "the engine died"}
    assert last["response"]["output"][0]["status"] == "incomplete"


PIECES = st.one_of(
    st.builds(Content, st.text(max_size=4)),
    st.builds(Reasoning, st.text(max_size=4)),
    st.builds(PromptProgress, st.just(9), st.just(1), st.just(5), st.just(0.1)),
)


@given(st.lists(PIECES), st.lists(st.text(max_size=4)), st.sampled_from(["stop", "length"]))
def test_every_item_opens_once_closes_once_and_is_the_sum_of_its_deltas(
    pieces: list[ChatEvent], arguments: list[str], reason: Any
) -> None:
    """Whatever the model writes, the stream's parts add up to the final response."""
    calls: list[ChatEvent] = []
    for index, text in enumerate(arguments):
        calls += [ToolCall(index, f"call_{index}", "f"), ToolArguments(index, text)]
    events, answer = told([*pieces, *calls, Finished(reason, Timings())])
    final = answer.value()["output"]
    assert events[0]["response"]["output"] == []
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in final]
    assert [event["item"] for event in done] == final
    written = dict.fromkeys((item["id"] for item in final), "")
    for event in events:
        if "delta" in event:
            written[event["item_id"]] += event["delta"]
    for item in final:
        whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert written[item["id"]] == whole


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
def client(url: str) -> Iterator[openai.OpenAI]:
    """The official client, which is not to try again."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, input: Any = "Hello.", **fields: Any) -> Any:  # noqa: A002 (OpenAI's)
    """A response, or its stream, whose items' types the tests know better than mypy."""
    return client.responses.create(model="any", input=input, **fields)


class City(BaseModel):
    """What `parse` is to find."""

    name: str


def test_create_answers_and_echoes(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.default = Script("Hello there.", cached=2)
    response = ask(client, "Hello.", instructions="Be brief.", temperature=0.5, metadata={"a": "b"})
    assert response.output_text == "Hello there."
    assert (response.status, response.model) == ("completed", "dure-demo")
    assert (response.instructions, response.temperature) == ("Be brief.", 0.5)
    assert response.metadata == {"a": "b"}
    assert response.usage.input_tokens == len(engine.requests[0].prompt)
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert engine.requests[0].sampling.temperature == 0.5
    ResponseObject.model_validate(response.to_dict())


def test_the_client_rebuilds_the_answer_from_the_stream(client: openai.OpenAI) -> None:
    """Its deltas and its final response say the same."""
    with client.responses.stream(model="any", input="Hello.") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Hello there."


def test_every_event_is_one_that_the_client_knows(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    """Validated strictly against the client's own types."""
    engine.default = Script(f"<think>\nHm.\n</think>\n\nLet me look.\n{CALL}")
    with ask(
        client,
        "Weather?",
        tools=[WEATHER],
        reasoning={"effort": "high"},
        stream=True,
    ) as stream:
        kinds = {type(event).model_validate(event.to_dict()).type for event in stream}
    assert kinds >= {
        "response.reasoning_text.delta",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "response.completed",
    }


def test_a_function_is_called_and_its_result_answered(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    """The items of an answer can be handed back as the client gave them."""
    engine.scripts = [Script(CALL), Script("Rain in Solbat.")]
    first = ask(client, "Weather?", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Solbat"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = ask(
        client,
        [{"role": "user", "content": "Weather?"}, *first.output, result],
        tools=[WEATHER],
    )
    assert second.output_text == "Rain in Solbat."


def test_parse_gives_an_object(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.default = Script('{"name": "Solbat"}')
    response = client.responses.parse(model="any", input="A city?", text_format=City)
    assert response.output_parsed == City(name="Solbat")
    assert engine.requests[0].grammar is not None


def test_thoughts_are_an_item_of_their_own(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.default = Script("<think>\nHm.\n</think>\n\nYes.")
    response = ask(client, "?", reasoning={"effort": "high"})
    assert [item.type for item in response.output] == ["reasoning", "message"]
    thought = response.output[0]
    assert thought.type == "reasoning"
    assert thought.content[0].text.strip() == "Hm."
    assert response.output_text == "Yes."
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_logprobs_come_with_text_and_deltas(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="any", input="Hello.", top_logprobs=2, include=["message.output_text.logprobs"]
    ) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    message = final.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(one.token for one in part.logprobs) == "Hello there."
    assert len(part.logprobs[0].top_logprobs) == 2
    assert sum(len(event.logprobs) for event in deltas) == len(part.logprobs)


def test_an_answer_cut_by_max_output_tokens_says_so(client: openai.OpenAI) -> None:
    response = ask(client, "Hello.", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


def test_telemetry_of_llama_server_comes_where_it_is_asked_for(url: str) -> None:
    """Progress of the prompt, and timings with every delta."""
    body = {"input": "Hi.", "stream": True, "return_progress": True, "timings_per_token": True}
    answer = httpx.post(f"{url}/responses", json=body)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:6] == "data: "]
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert progress[-1]["processed"] == progress[-1]["total"] > 0
    timed = {event["type"] for event in events if "timings" in event}
    assert timed >= {"response.output_text.delta", "response.completed"}


def test_a_refused_parameter_is_a_400_that_names_it(client: openai.OpenAI) -> None:
    """As the client sees it, with the parameter."""
    with pytest.raises(openai.BadRequestError) as found:
        ask(client, "Hello.", background=True)
    assert found.value.param == "background"
    with pytest.raises(openai.BadRequestError) as found:
        ask(client, "Hello.", extra_body={"max_output_token": 1})
    assert found.value.param == "max_output_token"


@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_event_are_statuses(
    client: openai.OpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    """A full queue is 429 with Retry-After, a prompt too long 400, a model that loads 503."""
    engine.scripts = [Script(refusal=BusyError("full", retry_after_s=3.0))]
    with pytest.raises(openai.RateLimitError) as busy:
        ask(client, "Hello.", stream=stream)
    assert busy.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.BadRequestError):
        ask(client, "Hello. " * 3000, stream=stream)
    engine.state = "loading"
    with pytest.raises(openai.InternalServerError) as loading:
        ask(client, "Hello.", stream=stream)
    assert loading.value.status_code == 503


def test_a_failure_in_the_middle_is_an_event(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.default = Script("Hello there.", failure=EngineError("the engine is gone"))
    with ask(client, "Hello.", stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert "the engine is gone" in last.response.error.message


def test_a_client_that_hangs_up_ends_the_work(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    hold = threading.Event()
    engine.default = Script("Hello there.", hold=hold)
    with ask(client, "Hello.", stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
    wait_until(lambda: engine.cancelled, "the engine works on for nobody")
    hold.set()


def test_the_asynchronous_client_streams_too(url: str) -> None:
    async def ask() -> str:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client,
            client.responses.stream(model="any", input="Hello.") as stream,
        ):
            return (await stream.get_final_response()).output_text

    assert asyncio.run(ask()) == "Hello there."
