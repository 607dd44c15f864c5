"""The official clients talk to `dure serve` itself, on the demo model: all that they are used for works."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import anthropic
import httpx
import ollama
import openai
import pytest
from pydantic import BaseModel

from tests.support.parrot import tokens_of, write_parrot
from tests.support.serve_process import DEMO_MODEL, dure_serve

QUESTION: Any = [{"role": "user", "content": "Tell me a story."}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"bell": {"enum": ["old", "new"]}},
    "required": ["bell"],
    "additionalProperties": False,
}
RING: Any = {"name": "ring", "description": "Ring a bell.", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": RING}]
GREEDY: Any = {"model": "dure-demo", "temperature": 0, "max_tokens": 24}
LONG: Any = {**GREEDY, "max_tokens": 400}
CLAUDE: Any = {"model": "dure-demo", "max_tokens": 24, "extra_body": {"temperature": 0}}


class Place(BaseModel):
    """What a caller wants to have."""

    village: str
    size: Literal["small", "large"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = ("--ctx", 1024, "--parallel", 2, "--queue", 0)
    with dure_serve(tmp_path_factory.mktemp("clients"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def llama(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url, timeout=60) as made:
        yield made


def is_a_ring(name: str, arguments: Any) -> bool:
    """Whether a call is of the one tool, and as its schema wants it."""
    given = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
    return name == "ring" and set(given) == {"bell"} and given["bell"] in ("old", "new")


# openai, chat


def test_openai_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **GREEDY)
    stream = client.chat.completions.create(
        messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(text.split()) > 8
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


def test_openai_counts_every_choice_and_stops_where_it_is_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, n=3, seed=1, **GREEDY)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 24
    text = answer.choices[0].message.content or ""
    stop = text.split()[4]
    cut = client.chat.completions.create(messages=QUESTION, stop=stop, **LONG)
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert 0 < cut.usage.completion_tokens < 24


def test_openai_logprobs_are_of_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(one.token for one in logprobs.content) == answer.choices[0].message.content
    assert all(one.logprob == one.top_logprobs[0].logprob for one in logprobs.content)


def test_openai_parse_gives_the_callers_own_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(messages=QUESTION, response_format=Place, **LONG)
    assert isinstance(answer.choices[0].message.parsed, Place)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "ring"}}])
def test_openai_tools_are_called_whole_and_streamed(client: openai.OpenAI, choice: Any) -> None:
    asked: Any = {"messages": QUESTION, "tools": TOOLS, "tool_choice": choice, **LONG}
    answer = client.chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert is_a_ring(call.function.name, call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert answer.choices[0].finish_reason == streamed.finish_reason == "tool_calls"
    (again,) = streamed.message.tool_calls or []
    assert again.function.arguments == call.function.arguments


def test_openai_takes_a_tools_result_and_answers(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ring", "arguments": "{}"}}
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "It rang."},
    ]
    answer = client.chat.completions.create(messages=messages, tools=TOOLS, **GREEDY)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_openai_computes_a_prompt_without_an_answer(client: openai.OpenAI) -> None:
    nothing: Any = {**GREEDY, "max_tokens": 0}
    question: Any = [{"role": "user", "content": "What does the bell of Solbat say? " * 8}]
    first = client.chat.completions.create(messages=question, logprobs=True, **nothing)
    assert first.choices[0].finish_reason == "length"
    assert first.choices[0].message.content == ""
    assert first.usage is not None
    assert first.usage.completion_tokens == 0
    second = client.chat.completions.create(messages=question, **GREEDY)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached > second.usage.prompt_tokens // 2


# openai, the rest


def test_openai_completions_continue_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(prompt=["The bell", "The river"], logprobs=1, **GREEDY)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 2 * 24


def test_openai_embeddings_have_length_one(client: openai.OpenAI) -> None:
    data = client.embeddings.create(model="any", input=["a bell", "the river"]).data
    for one in data:
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-3)
    assert data[0].embedding != data[1].embedding


def test_openai_responses_answer_stream_parse_and_call(client: openai.OpenAI) -> None:
    asked: Any = {"model": "any", "temperature": 0, "input": "Tell me a story."}
    whole = client.responses.create(max_output_tokens=24, **asked)
    events = list(client.responses.create(max_output_tokens=24, stream=True, **asked))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert text
    parsed = client.responses.parse(text_format=Place, max_output_tokens=400, **asked)
    assert isinstance(parsed.output_parsed, Place)
    tool: Any = {"type": "function", **RING}
    called = client.responses.create(
        tools=[tool], tool_choice="required", max_output_tokens=400, **asked
    )
    (call,) = (item for item in called.output if item.type == "function_call")
    assert is_a_ring(call.name, call.arguments)


def test_openai_models_are_found(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == "dure-demo"
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.models.retrieve("nobody")


def test_openai_errors_name_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(messages=QUESTION, model="any", extra_body={"temprature": 2})
    assert refused.value.param == "temprature"
    endless: Any = [{"role": "user", "content": "bell " * 3000}]
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(messages=endless, model="any")
    assert too_long.value.type == "exceed_context_size_error"


# openai, retries


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one place, no queue, and a model whose answers do not end before its context."""
    directory = tmp_path_factory.mktemp("busy")
    write_parrot(directory / "parrot.gguf", DEMO_MODEL, tokens_of(DEMO_MODEL, "the old bell"))
    options = ("--ctx", 65536, "--parallel", 1, "--queue", 0)
    with dure_serve(directory, *options, model=directory / "parrot.gguf") as running:
        yield running


@contextmanager
def taken(url: str) -> Iterator[None]:
    """The only place is taken until the block ends. Whoever had it before may be leaving still."""
    body = {"messages": QUESTION, "stream": True, "temperature": 0}
    give_up = time.monotonic() + 60
    while True:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            if answer.status_code == 429 and time.monotonic() < give_up:
                time.sleep(0.1)
                continue
            assert answer.status_code == 200
            chunks = answer.iter_raw()  # held: where it is collected, the line is closed
            next(chunks)
            yield
            del chunks
            return


def test_openai_is_told_when_there_is_no_place_and_when_to_come_back(busy: str) -> None:
    with openai.OpenAI(base_url=f"{busy}/v1", api_key="none", max_retries=0) as client:
        with taken(busy), pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(messages=QUESTION, **GREEDY)
        assert int(refused.value.response.headers["retry-after"]) >= 1


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(messages=QUESTION, **GREEDY)
    return answer.choices[0].message.content or ""


def test_openai_tries_again_by_itself_and_gets_its_answer(busy: str) -> None:
    tries: list[int] = []
    refused = threading.Event()

    def seen(response: Any) -> None:
        tries.append(response.status_code)
        refused.set()

    with (
        openai.DefaultHttpxClient(event_hooks={"response": [seen]}, timeout=60) as http,
        openai.OpenAI(base_url=f"{busy}/v1", api_key="none", http_client=http) as client,
        ThreadPoolExecutor() as threads,
    ):
        with taken(busy):
            asked = threads.submit(ask, client)
            assert refused.wait(60)
        assert asked.result(60)
    assert tries == [429, 200]


def test_the_asynchronous_openai_client_does_the_same(url: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=20
        ) as client:
            await chats(client)
            await others(client)

    asyncio.run(ask())


async def chats(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    whole = await create(messages=QUESTION, logprobs=True, **GREEDY)
    stream = await create(messages=QUESTION, stream=True, **GREEDY)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content
    assert whole.choices[0].logprobs is not None
    called = await create(messages=QUESTION, tools=TOOLS, tool_choice="required", **LONG)
    (call,) = called.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert is_a_ring(call.function.name, call.function.arguments)
    parsed = await client.chat.completions.parse(messages=QUESTION, response_format=Place, **LONG)
    assert isinstance(parsed.choices[0].message.parsed, Place)
    both = await asyncio.gather(*(create(messages=QUESTION, **GREEDY) for _ in range(4)))
    assert {one.choices[0].message.content for one in both} == {text}  # 429 is tried again


async def others(client: openai.AsyncOpenAI) -> None:
    (one,) = (await client.embeddings.create(model="any", input="a bell")).data
    assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-3)
    response = await client.responses.create(
        model="any", input="Tell me a story.", max_output_tokens=16
    )
    assert response.output_text
    with pytest.raises(openai.BadRequestError, match="did you mean temperature"):
        await client.completions.create(prompt="x", extra_body={"temprature": 2}, **GREEDY)


# anthropic


def test_anthropic_chat_and_its_stream_say_the_same(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(messages=QUESTION, **CLAUDE)
    (block,) = whole.content
    assert block.type == "text"
    with claude.messages.stream(messages=QUESTION, **CLAUDE) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text
    assert (whole.stop_reason, final.stop_reason) == ("max_tokens", "max_tokens")
    assert final.usage.output_tokens == whole.usage.output_tokens == 24
    counted = claude.messages.count_tokens(messages=QUESTION, model="any")
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached


def test_anthropic_tools_are_called_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    tool: Any = {"name": "ring", "description": "Ring a bell.", "input_schema": PARAMETERS}
    asked: Any = {
        "messages": QUESTION,
        "tools": [tool],
        "tool_choice": {"type": "any"},
        **CLAUDE,
        "max_tokens": 400,
    }
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        content: list[Any] = list(answer.content)
        (call,) = (block for block in content if block.type == "tool_use")
        assert is_a_ring(call.name, call.input)
        assert answer.stop_reason == "tool_use"


def test_anthropic_models_are_found(claude: anthropic.Anthropic) -> None:
    (model,) = claude.models.list(limit=1000)
    assert (model.id, model.display_name, model.type) == ("dure-demo", "dure-demo", "model")
    assert claude.models.retrieve("dure-demo").created_at == model.created_at


def test_anthropic_errors_have_its_shape_at_every_address_below_its_own(
    claude: anthropic.Anthropic, url: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="did you mean temperature"):
        claude.messages.create(
            messages=QUESTION, extra_body={"temprature": 2}, model="any", max_tokens=9
        )
    for method, path, status in (
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/batches", 404),
        ("POST", "/v1/messages/", 404),
    ):
        response = httpx.request(method, url + path)
        assert response.status_code == status
        assert response.json()["type"] == "error"


def test_the_asynchronous_anthropic_client_streams(url: str) -> None:
    async def ask() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="none") as client,
            client.messages.stream(messages=QUESTION, **CLAUDE) as stream,
        ):
            return await stream.get_final_text()

    assert asyncio.run(ask())


# ollama


def test_ollama_chat_and_its_stream_say_the_same(llama: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 24}
    whole = llama.chat("dure-demo", QUESTION, options=options)
    parts = list(llama.chat("dure-demo", QUESTION, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert whole.message.content
    assert parts[-1].eval_count == whole.eval_count == 24
    generated = llama.generate("dure-demo", "The bell", raw=True, options=options)
    assert generated.response


def test_ollama_tools_are_called(llama: ollama.Client) -> None:
    answer = llama.chat(
        "dure-demo",
        [{"role": "user", "content": "What is the weather in Solbat?"}],
        tools=[weather],
        options={"temperature": 0, "num_predict": 200},
    )
    for part in (answer, *_streamed_calls(llama)):
        (call,) = part.message.tool_calls or []
        assert call.function.name == "weather"
        assert isinstance(call.function.arguments["place"], str)


def _streamed_calls(llama: ollama.Client) -> list[ollama.ChatResponse]:
    stream = llama.chat(
        "dure-demo",
        [{"role": "user", "content": "What is the weather in Solbat?"}],
        tools=[weather],
        options={"temperature": 0, "num_predict": 200},
        stream=True,
    )
    found = [part for part in stream if part.message.tool_calls]
    assert found
    return found


def weather(place: str) -> str:
    """Tell the weather.

    Args:
        place: Where.

    """
    return f"It is fine in {place}."


def test_ollama_follows_a_schema_embeds_and_lists(llama: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 400}
    schema = Place.model_json_schema()
    answer = llama.chat("dure-demo", QUESTION, format=schema, options=options)
    assert Place.model_validate_json(answer.message.content or "")
    (vector,) = llama.embed("dure-demo", "a bell").embeddings
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
    assert [model.model for model in llama.list().models] == ["dure-demo"]
    assert llama.show("dure-demo").capabilities


def test_ollama_errors_have_its_shape_at_every_address_below_its_own(
    llama: ollama.Client, url: str
) -> None:
    with pytest.raises(ollama.ResponseError, match="temprature"):
        llama.chat("dure-demo", QUESTION, options={"temprature": 1})
    for method, path, status in (("GET", "/api/chat", 405), ("POST", "/api/pull", 404)):
        response = httpx.request(method, url + path)
        assert response.status_code == status
        assert isinstance(response.json()["error"], str)


def test_the_asynchronous_ollama_client_streams(url: str) -> None:
    async def ask() -> str:
        async with ollama.AsyncClient(host=url) as client:
            options = {"num_predict": 8}
            stream = await client.chat("dure-demo", QUESTION, options=options, stream=True)
            return "".join([part.message.content or "" async for part in stream])

    assert asyncio.run(ask())
