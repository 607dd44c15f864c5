"""The official openai client gets from a server what OpenAI's API promises: chat, tools, completions."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from dure.errors import BusyError, EngineError, NotReadyError
from dure.generate.request import Sampling
from tests.support.serving import (
    Script,
    ScriptedEngine,
    Served,
    served,
    state_of,
    vocabulary,
    wait_until,
)

QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "Who rings the bell?"}
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Solbat"}}\n</tool_call>'
TOOLS: list[openai.types.chat.ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(state_of(ScriptedEngine())) as running:
        yield running


@pytest.fixture
def engine(server: Served) -> ScriptedEngine:
    found = server.state.model.engine
    assert isinstance(found, ScriptedEngine)
    found.scripts.clear()
    found.requests.clear()
    found.cancelled.clear()
    found.state = "ready"
    return found


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_is_answered_with_text_usage_and_a_reason(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does.", cached=3)]
    answer = client.chat.completions.create(model="any", messages=QUESTION)
    assert answer.model == "dure-demo"
    assert answer.choices[0].message.content == "Dae does."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.requests[0].prompt)
    assert answer.usage.completion_tokens == len(engine.tokens_of(Script("Dae does.")))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_a_stream_says_the_same_as_a_whole_answer(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does. 🤗")]
    chunks = list(
        client.chat.completions.create(
            model="any", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "Dae does. 🤗"
    assert len(chunks) > 4
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_asynchronous_client_streams_many_answers_at_once(
    server: Served, engine: ScriptedEngine
) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="any", messages=QUESTION, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            return await asyncio.gather(*(ask(client) for _ in range(16)))

    assert asyncio.run(all_of_them()) == ["Hello there."] * 16


def test_parameters_reach_the_sampler(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    client.chat.completions.create(
        model="any",
        messages=QUESTION,
        temperature=0.3,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        seed=7,
        logit_bias={"5": -100},
        max_completion_tokens=9,
        extra_body={"top_k": 5, "min_p": 0.01, "typical_p": 0.9, "dry_multiplier": 0.5},
    )
    request = engine.requests[0]
    assert request.max_tokens == 9
    assert request.sampling == Sampling(
        temperature=0.3,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        seed=7,
        logit_bias={5: -100.0},
        top_k=5,
        min_p=0.01,
        typical_p=0.9,
        dry_multiplier=0.5,
    )


def test_what_a_request_leaves_out_is_the_servers_own_default(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    client.chat.completions.create(model="any", messages=QUESTION)
    assert engine.requests[0].sampling == Sampling()
    assert engine.requests[0].max_tokens is None


def test_choices_have_seeds_of_their_own_and_are_all_answered(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("One."), Script("Two."), Script("Three.")]
    answer = client.chat.completions.create(model="any", messages=QUESTION, n=3, seed=5)
    assert [choice.message.content for choice in answer.choices] == ["One.", "Two.", "Three."]
    assert [request.sampling.seed for request in engine.requests] == [5, 6, 7]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.requests[0].prompt)


def test_streamed_choices_come_under_their_own_index(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("One."), Script("Two.")]
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="any", messages=QUESTION, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["One.", "Two."]


def test_more_choices_than_the_engine_has_room_for_are_all_answered(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script(str(n)) for n in range(10)]
    engine.scripts[6:6] = [Script(refusal=BusyError("others wait as well", retry_after_s=0.01))]
    answer = client.chat.completions.create(model="any", messages=QUESTION, n=10)
    assert sorted(choice.message.content or "" for choice in answer.choices) == list("0123456789")
    assert [choice.index for choice in answer.choices] == list(range(10))


def test_an_answer_that_does_not_follow_its_schema_is_an_error_and_not_an_answer(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script('{"ringer": "Dae", "rings": "three"}')]
    with pytest.raises(openai.InternalServerError, match="response_format"):
        client.chat.completions.parse(model="any", messages=QUESTION, response_format=Bell)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_over_token_borders_ends_the_answer_and_the_engines_work(
    client: openai.OpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    engine.scripts = [Script("The bell rings at noon, and again at dusk.")]
    if stream:
        chunks = list(
            client.chat.completions.create(
                model="any", messages=QUESTION, stop="gs at no", stream=True
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        answer = client.chat.completions.create(model="any", messages=QUESTION, stop="gs at no")
        text, reason = answer.choices[0].message.content or "", answer.choices[0].finish_reason
    assert (text, reason) == ("The bell rin", "stop")
    assert engine.cancelled == {engine.requests[0].id}


def test_an_answer_that_reaches_its_limit_says_length(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    answer = client.chat.completions.create(model="any", messages=QUESTION, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


def test_logprobs_tell_every_token_of_the_text(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does.")]
    answer = client.chat.completions.create(
        model="any", messages=QUESTION, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert "".join(entry.token for entry in content) == "Dae does."
    assert all(bytes(entry.bytes or ()).decode() == entry.token for entry in content)
    assert [len(entry.top_logprobs) for entry in content] == [2] * len(content)
    assert content[0].top_logprobs[0].logprob == -0.5


def test_a_tool_call_is_parsed(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.scripts = [Script(CALL)]
    answer = client.chat.completions.create(model="any", messages=QUESTION, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert calls[0].function.arguments.replace(" ", "") == '{"city":"Solbat"}'
    assert calls[0].id


def test_a_streamed_tool_call_names_the_tool_first_and_then_its_arguments(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script(CALL)]
    arguments, names = "", []
    for chunk in client.chat.completions.create(
        model="any", messages=QUESTION, tools=TOOLS, stream=True
    ):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
    assert names == ["weather"]
    assert arguments.replace(" ", "") == '{"city":"Solbat"}'
    assert chunk.choices[0].finish_reason == "tool_calls"


def test_a_tools_result_is_taken_back(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.scripts = [Script(CALL), Script("It rains.")]
    first = client.chat.completions.create(model="any", messages=QUESTION, tools=TOOLS)
    calls = first.choices[0].message.tool_calls
    assert calls is not None
    answer = client.chat.completions.create(
        model="any",
        tools=TOOLS,
        messages=[
            *QUESTION,
            first.choices[0].message.model_dump(),  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": calls[0].id, "content": "rain"},
        ],
    )
    assert answer.choices[0].message.content == "It rains."


def test_functions_are_the_old_form_of_tools(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    """Asked for with functions, a call is told as they did: whole, streamed, and taken back."""
    engine.scripts = [Script(CALL), Script(CALL), Script("It rains."), Script("Hello.")]
    functions = [tool["function"] for tool in TOOLS]
    asked: dict[str, Any] = {"model": "any", "messages": QUESTION, "functions": functions}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    call = choice.message.function_call
    assert call is not None
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Solbat"})
    shown = engine.requests[0].prompt
    with_tools = {**asked, "tools": TOOLS, "parallel_tool_calls": False}
    del with_tools["functions"]

    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    parts = [one.delta.function_call for one in deltas if one.delta.function_call]
    assert [part.name for part in parts if part.name] == ["weather"]
    assert "".join(part.arguments or "" for part in parts) == call.arguments
    assert deltas[-1].finish_reason == "function_call"

    result = {"role": "function", "name": "weather", "content": "rain in the valley"}
    history = [*QUESTION, choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**{**asked, "messages": history})
    assert answer.choices[0].message.content == "It rains."
    told = b"".join(vocabulary().piece(token, special=True) for token in engine.requests[2].prompt)
    assert b"<tool_response>" in told
    assert b"rain in the valley" in told
    client.chat.completions.create(**with_tools)
    assert engine.requests[3].prompt == shown, "the model is shown the same"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "a"}], "tools": [{"function": {"name": "b"}}]}, "functions"),
        ({"functions": [{"name": "a"}], "function_call": {"name": "b"}}, "function_call"),
        ({"functions": [{"name": "a"}, {"name": "a"}]}, "tools"),
    ],
)
def test_functions_that_make_no_sense_are_refused(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", messages=QUESTION, extra_body=fields)
    assert caught.value.param == param


def test_a_function_that_must_be_called_is(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    functions = [{"name": "a"}, {"name": "b", "parameters": {"type": "object"}}]
    choice = {"name": "b"}
    client.chat.completions.create(  # type: ignore[call-overload]
        model="any", messages=QUESTION, functions=functions, function_call=choice
    )
    grammar = engine.requests[0].grammar
    assert grammar is not None
    assert not grammar.lazy
    assert '\\"b\\"' in grammar.gbnf
    assert '\\"a\\"' not in grammar.gbnf


class Bell(BaseModel):
    """What a caller wants to have."""

    ringer: str
    rings: int


def test_parse_gives_an_object_of_the_callers_own_class(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script('{"ringer": "Dae", "rings": 3}')]
    answer = client.chat.completions.parse(model="any", messages=QUESTION, response_format=Bell)
    assert answer.choices[0].message.parsed == Bell(ringer="Dae", rings=3)
    assert engine.requests[0].grammar is not None


def test_thoughts_come_apart_from_the_answer(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.scripts = [Script("<think>\nDae has the key.\n</think>\n\nDae does.")]
    answer = client.chat.completions.create(model="any", messages=QUESTION)
    message = answer.choices[0].message
    assert (message.content or "").strip() == "Dae does."
    assert "key" in message.model_dump()["reasoning_content"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert (answer.usage.completion_tokens_details.reasoning_tokens or 0) > 3


def test_a_completion_continues_text(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.scripts = [Script(" a time.")]
    answer = client.completions.create(model="any", prompt="Once upon", echo=True)
    assert answer.choices[0].text == "Once upon a time."
    assert engine.requests[0].prompt == vocabulary().tokenize("Once upon", special=True)


def test_a_completion_of_several_prompts_answers_each_in_order(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script(text) for text in ("A", "B", "C", "D")]
    answer = client.completions.create(model="any", prompt=["x", "y"], n=2)
    assert [choice.text for choice in answer.choices] == ["A", "B", "C", "D"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_a_completion_takes_tokens(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    client.completions.create(model="any", prompt=[[5, 6], [7]])
    client.completions.create(model="any", prompt=[8, 9])
    assert [request.prompt for request in engine.requests] == [[5, 6], [7], [8, 9]]


def test_the_best_of_several_is_the_likeliest(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    answer = client.completions.create(model="any", prompt="x", best_of=3, n=1)
    assert len(answer.choices) == 1
    assert len(engine.requests) == 3


def test_logprobs_of_a_completion_are_columns(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does.")]
    answer = client.completions.create(model="any", prompt="x", logprobs=1)
    columns = answer.choices[0].logprobs
    assert columns is not None
    assert "".join(columns.tokens or ()) == "Dae does."
    assert columns.text_offset is not None
    assert columns.text_offset[:2] == [0, len((columns.tokens or [""])[0])]
    assert columns.token_logprobs == [-0.5] * len(columns.tokens or ())


def test_embeddings_have_length_one_and_are_the_same_in_both_encodings(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    packed = client.embeddings.create(model="any", input=["one", "two words"])
    plain = client.embeddings.create(
        model="any", input=["one", "two words"], encoding_format="float"
    )
    for a, b in zip(packed.data, plain.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding)
        assert sum(x * x for x in a.embedding) == pytest.approx(1.0, abs=1e-5)
    assert packed.usage.prompt_tokens > 2


def test_fewer_dimensions_are_the_first_ones_brought_to_length_one(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    whole = client.embeddings.create(model="any", input="one").data[0].embedding
    part = client.embeddings.create(model="any", input="one", dimensions=3).data[0].embedding
    length = sum(x * x for x in whole[:3]) ** 0.5
    assert part == pytest.approx([x / length for x in whole[:3]], rel=1e-4)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="any", input="one", dimensions=17)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["dure-demo"]
    assert client.models.retrieve("dure-demo").owned_by == "dure"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_the_client_tries_again_when_the_server_is_busy_and_gets_its_answer(
    server: Served, engine: ScriptedEngine
) -> None:
    busy = Script(refusal=BusyError("8 requests wait already", retry_after_s=0.01))
    loading = Script(refusal=NotReadyError("Loading model", progress=0.5))
    engine.scripts = [busy, Script("At last.")]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=1) as client:
        answer = client.chat.completions.create(model="any", messages=QUESTION)
        assert answer.choices[0].message.content == "At last."
        engine.scripts = [busy, loading]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="any", messages=QUESTION, stream=True)
    assert caught.value.status_code == 503


def test_a_refusal_that_is_final_is_not_tried_again(server: Served, engine: ScriptedEngine) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=2) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.completions.create(model="any", prompt=[1] * 3000)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(engine.requests) == 1
    assert caught.value.type == "exceed_context_size_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_in_the_middle_is_an_error_to_the_client(
    client: openai.OpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    engine.scripts = [Script("Da", failure=EngineError("rank 1 is gone"))]
    with pytest.raises(openai.APIError, match="rank 1 is gone"):
        list(client.chat.completions.create(model="any", messages=QUESTION, stream=stream))


def test_the_engines_work_ends_when_a_streams_client_hangs_up(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does.", hold=threading.Event())]
    stream = client.chat.completions.create(model="any", messages=QUESTION, stream=True)
    next(iter(stream))
    assert not engine.cancelled
    stream.close()
    wait_until(lambda: engine.cancelled, "the engine goes on")


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_work_ends_when_a_waiting_client_gives_up(
    client: openai.OpenAI, engine: ScriptedEngine, stream: bool, n: int
) -> None:
    engine.scripts = [Script("Dae does.", hold=threading.Event(), silent=True)] * n
    with pytest.raises(openai.APITimeoutError):
        list(
            client.with_options(timeout=0.5).chat.completions.create(
                model="any", messages=QUESTION, n=n, stream=stream
            )
        )
    wait_until(lambda: len(engine.cancelled) == n, "the engine goes on")
