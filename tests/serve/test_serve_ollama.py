"""Ollama's API: what a request means, what the lines say, and the official client's view.

The first part is pure; the second talks to a real server on the demo model over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from pydantic import ValidationError

from dure.chat.task import (
    ChatEvent,
    ChatTask,
    Content,
    Finished,
    GenerationOptions,
    JsonObject,
    JsonSchema,
    PromptProgress,
    Reasoning,
    Tool,
    ToolArguments,
    ToolCall,
)
from dure.errors import BusyError, EngineError, UsageError
from dure.generate.request import Sampling, Timings
from dure.http.unused_fields import UnusedFields, collecting
from dure.serve.ollama import router
from dure.serve.ollama.answer import OllamaAnswer, chatted, generated
from dure.serve.ollama.embeddings import normalized
from dure.serve.ollama.mapping import check_raw, options_of, task_of_chat, task_of_prompt
from dure.serve.ollama.requests import GenerateRequest, OllamaChatRequest
from tests.support.let_through import check_let_through
from tests.support.serving import (
    DEMO_MODEL,
    Script,
    ScriptedEngine,
    Served,
    served,
    state_of,
    vocabulary,
    wait_until,
)

N_CTX = 2048
USER = {"role": "user", "content": "Hello."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
TIMINGS = Timings(prompt_tokens=10, cached_tokens=4, prompt_s=0.5, tokens=5, generate_s=0.25)


def asked(**fields: Any) -> OllamaChatRequest:
    return OllamaChatRequest.model_validate({"model": "demo", "messages": [USER], **fields})


def prompted(**fields: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"model": "demo", "prompt": "Hello.", **fields})


def task(**fields: Any) -> ChatTask:
    return task_of_chat(asked(**fields))


def options(**fields: Any) -> GenerationOptions:
    return options_of(asked(**fields), Sampling(), N_CTX)


def told(events: list[ChatEvent], say: Any = chatted) -> tuple[list[dict[str, Any]], OllamaAnswer]:
    """The lines of a stream of these, and the answer."""
    answer = OllamaAnswer("demo", say)
    return [line for event in events for line in answer.feed(event)], answer


# What a request means.


def test_results_find_their_calls_by_the_tools_names() -> None:
    """Ollama's clients name the tool; a chat wants the id of the call."""
    calls = [
        {"function": {"name": "get_weather", "arguments": {"city": "Solbat"}}},
        {"function": {"name": "get_time", "arguments": {}}},
    ]
    messages = task(
        messages=[
            USER,
            {"role": "assistant", "thinking": "Hm.", "tool_calls": calls},
            {"role": "tool", "tool_name": "get_time", "content": "Noon."},
            {"role": "tool", "tool_name": "get_weather", "content": "Rain."},
        ]
    ).messages
    assert messages[1]["reasoning_content"] == "Hm."
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_0", "call_1"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Solbat"}'
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_1", "call_0"]


def test_results_without_a_name_answer_the_calls_in_turn() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    result = {"role": "tool", "content": "1"}
    turns = [USER, {"role": "assistant", "tool_calls": [call, call]}, result, result]
    messages = task(messages=turns).messages
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_0", "call_1"]


def test_tools_become_functions() -> None:
    assert task(tools=[WEATHER]).tools == (Tool("get_weather", "The weather.", SCHEMA),)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, None), ("", None), ("json", JsonObject()), (SCHEMA, JsonSchema(SCHEMA, strict=False))],
)
def test_the_format_of_the_answer(wanted: Any, expected: object) -> None:
    assert task(format=wanted).response_format == expected


@pytest.mark.parametrize(
    ("think", "enabled", "effort"),
    [(None, None, None), (True, True, None), (False, False, None), ("low", True, "low")],
)
def test_thinking_is_switched_or_graded(
    think: Any, enabled: bool | None, effort: str | None
) -> None:
    found = task(think=think)
    assert (found.enable_thinking, found.reasoning_effort) == (enabled, effort)


def test_an_answer_that_was_begun_goes_on() -> None:
    assert task(messages=[USER, {"role": "assistant", "content": "I am"}]).continue_last
    assert not task().continue_last


def test_a_prompt_is_a_conversation_of_one_turn() -> None:
    found = task_of_prompt(prompted(system="Be brief.", format="json", think=True))
    assert found.messages == [{"role": "system", "content": "Be brief."}, USER]
    assert found.response_format == JsonObject()
    assert found.enable_thinking is True


def test_every_option_of_sampling_is_honoured() -> None:
    given = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.7,
        "repeat_penalty": 1.2,
        "repeat_last_n": 32,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
        "seed": 7,
    }
    assert options(options=given).sampling == Sampling(**given)  # type: ignore[arg-type]


def test_the_length_and_stops_of_an_answer() -> None:
    """A num_predict of -1 is no limit."""
    assert options(options={"num_predict": 9, "stop": ["a", "b"]}) == GenerationOptions(
        max_tokens=9, stop=("a", "b")
    )
    assert options(options={"num_predict": -1}).max_tokens is None


def test_values_that_ask_for_nothing_are_taken() -> None:
    """What a client says by default is no reason to refuse it."""
    given = {
        "num_ctx": N_CTX,
        "num_keep": 5,
        "tfs_z": 1.0,
        "seed": -1,
        "f16_kv": True,
        "numa": False,
    }
    assert options(options=given, keep_alive="5m", truncate=False) == GenerationOptions()
    assert options(keep_alive=-1) == options(keep_alive="1h30m") == options(keep_alive=300.0)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("options.tfs_z", {"options": {"tfs_z": 0.5}}),
    ("options.penalize_newline", {"options": {"penalize_newline": False}}),
    ("did you mean num_ctx", {"options": {"numctx": 1}}),
    ("options.top_p", {"options": {"top_p": 2.0}}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("messages[0].images", {"messages": [{**USER, "images": ["AA=="]}]}),
    (
        "messages[1].tool_name",
        {"messages": [USER, {"role": "tool", "tool_name": "f", "content": ""}]},
    ),
    ("template", {"template": "x"}),
]


@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, fields: dict[str, Any]) -> None:
    """No parameter is dropped silently."""
    with pytest.raises((UsageError, ValidationError)) as found:
        assert (task(**fields), options(**fields)) is None
    assert name in str(found.value)


IGNORED: list[tuple[str, dict[str, Any]]] = [
    ("options.num_ctx", {"options": {"num_ctx": N_CTX + 1}}),
    ("options.num_gpu", {"options": {"num_gpu": 1}}),
    ("options.num_thread", {"options": {"num_thread": "four"}}),
    ("options.a_new_one", {"options": {"a_new_one": 1}}),
    ("keep_alive", {"keep_alive": 0}),
    ("keep_alive", {"keep_alive": "0s"}),
    ("truncate", {"truncate": True}),
    ("shift", {"shift": True}),
    ("messages.images_of_mine", {"messages": [{**USER, "images_of_mine": 1}]}),
]


@pytest.mark.parametrize(("name", "fields"), IGNORED)
def test_what_cannot_change_the_answer_is_let_through_by_name(
    name: str, fields: dict[str, Any]
) -> None:
    """And the rest of the request means what it means without it; a strict server refuses it."""
    check_let_through(name, fields, task, options)
    with (
        collecting(UnusedFields(strict=True)),
        pytest.raises(UsageError, match=name.rpartition(".")[2]),
    ):
        assert (task(**fields), options(**fields)) is None


@pytest.mark.parametrize("keep_alive", [-1, "5m", "soon", 300.0, ""])
def test_a_model_that_stays_loaded_is_no_wish_in_vain(keep_alive: Any) -> None:
    with collecting(UnusedFields(strict=True)) as found:
        options(keep_alive=keep_alive)
    assert not found.names


@pytest.mark.parametrize("field", ["suffix", "template", "context", "images"])
def test_a_prompt_refuses_what_only_ollama_can(field: str) -> None:
    value: Any = [1] if field in ("context", "images") else "x"
    with pytest.raises(UsageError, match=field):
        task_of_prompt(prompted(**{field: value}))


@pytest.mark.parametrize("fields", [{"system": "Be brief."}, {"think": True}])
def test_a_raw_prompt_has_no_template_for_a_system_or_thoughts(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        check_raw(prompted(raw=True, **fields))


# What the lines say.


def test_lines_carry_pieces_and_the_last_the_durations() -> None:
    lines, _ = told(
        [
            PromptProgress(10, 4, 10, 0.1),
            Reasoning("Hm."),
            Content("Yes"),
            Finished("stop", TIMINGS),
        ]
    )
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Yes"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False, False, True]
    last = lines[-1]
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (10, 5)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (500_000_000, 250_000_000)


def test_calls_are_told_whole() -> None:
    """Arguments are an object, so a call is told when all of it is there."""
    calls: list[ChatEvent] = [
        ToolCall(0, "call_1", "get_weather"),
        ToolArguments(0, '{"city": '),
        ToolArguments(0, '"Solbat"}'),
        ToolCall(1, "call_2", "get_time"),
        ToolArguments(1, "{}"),
    ]
    lines, answer = told([*calls, Finished("tool_calls", TIMINGS)])
    weather = {"index": 0, "name": "get_weather", "arguments": {"city": "Solbat"}}
    told_calls = [
        {"id": "call_1", "function": weather},
        {"id": "call_2", "function": {"index": 1, "name": "get_time", "arguments": {}}},
    ]
    assert [line["message"].get("tool_calls") for line in lines] == [
        told_calls[:1],
        told_calls[1:],
        None,
    ]
    assert answer.value()["message"]["tool_calls"] == told_calls
    assert answer.value()["done_reason"] == "stop"


def test_a_call_that_was_cut_off_is_none() -> None:
    _, answer = told(
        [ToolCall(0, "call_1", "f"), ToolArguments(0, '{"a'), Finished("length", TIMINGS)]
    )
    assert "tool_calls" not in answer.value()["message"]
    assert answer.value()["done_reason"] == "length"


def test_generate_says_response_where_chat_says_message() -> None:
    _, answer = told([Content("Yes"), Content("."), Finished("stop", TIMINGS)], generated)
    assert answer.value()["response"] == "Yes."
    assert "message" not in answer.value()


def test_embeddings_are_cut_before_they_are_scaled() -> None:
    assert normalized([3.0, 4.0, 12.0], 2) == [0.6, 0.8]
    assert normalized([0.0, 0.0]) == [0.0, 0.0]


# What the official client sees of a server.

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Solbat"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server with this API."""
    with served(state_of(ScriptedEngine(), aliases=("story",)), [router()]) as server:
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
def client(url: str) -> Iterator[ollama.Client]:
    """The official client."""
    with ollama.Client(host=url) as client:
        yield client


def test_chat_answers_with_figures(client: ollama.Client, engine: ScriptedEngine) -> None:
    answer = client.chat("any", [USER], options={"temperature": 0.5, "num_predict": 64})
    assert answer.message.content == "Hello there."
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", "dure-demo")
    assert answer.prompt_eval_count == len(engine.requests[0].prompt)
    assert answer.eval_duration == 20_000_000
    assert engine.requests[0].sampling.temperature == 0.5
    assert engine.requests[0].max_tokens == 64


def test_chat_streams_unless_told_otherwise(client: ollama.Client, url: str) -> None:
    """The pieces add up to the answer; without `stream` the body is lines."""
    pieces = list(client.chat("any", [USER], stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "Hello there."
    assert len(pieces) > 2
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    answer = httpx.post(f"{url}/api/chat", json={"model": "any", "messages": [USER]})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["done"] for line in answer.text.splitlines()][-1] is True


def test_a_tool_is_called_and_its_result_answered(
    client: ollama.Client, engine: ScriptedEngine
) -> None:
    """Whole and streamed, and the message can be handed back as the client gave it."""
    engine.scripts = [Script(CALL), Script(CALL), Script("Rain in Solbat.")]
    whole = client.chat("any", [USER], tools=[WEATHER])
    streamed = [
        piece.message.tool_calls
        for piece in client.chat("any", [USER], tools=[WEATHER], stream=True)
        if piece.message.tool_calls
    ]
    (call,) = whole.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Solbat"})
    assert streamed == [whole.message.tool_calls]
    result = {"role": "tool", "tool_name": "get_weather", "content": "Rain."}
    answer = client.chat("any", [USER, whole.message, result], tools=[WEATHER])
    assert answer.message.content == "Rain in Solbat."


def test_thoughts_are_told_apart(client: ollama.Client, engine: ScriptedEngine) -> None:
    engine.default = Script("<think>\nHm.\n</think>\n\nYes.")
    message = client.chat("any", [USER], think=True).message
    assert ((message.thinking or "").strip(), message.content) == ("Hm.", "Yes.")


def test_structured_output_follows_a_grammar(client: ollama.Client, engine: ScriptedEngine) -> None:
    engine.default = Script('{"city": "Solbat"}')
    assert client.chat("any", [USER], format=SCHEMA).message.content == '{"city": "Solbat"}'
    assert client.generate("any", "A city?", format="json").response == '{"city": "Solbat"}'
    client.generate("any", "A city?", format=SCHEMA, raw=True)
    assert all(request.grammar is not None for request in engine.requests)


def test_stops_end_the_answer(client: ollama.Client) -> None:
    answer = client.chat("any", [USER], options={"stop": ["there"]})
    assert (answer.message.content, answer.done_reason) == ("Hello ", "stop")
    assert client.chat("any", [USER], options={"num_predict": 1}).done_reason == "length"


def test_generate_answers_and_continues(client: ollama.Client, engine: ScriptedEngine) -> None:
    """A raw prompt is continued as it stands; any other goes through the chat template."""
    assert client.generate("any", "Hello.", system="Be brief.").response == "Hello there."
    assert client.generate("any", "Hello.", raw=True).response == "Hello there."
    pieces = client.generate("any", "Hello.", stream=True)
    assert "".join(piece.response or "" for piece in pieces) == "Hello there."
    assert engine.requests[1].prompt == vocabulary().tokenize("Hello.", special=True)
    assert len(engine.requests[0].prompt) > len(engine.requests[2].prompt)


def test_a_request_without_a_prompt_finds_the_model_loaded(
    client: ollama.Client, engine: ScriptedEngine
) -> None:
    assert client.chat("any").done_reason == "load"
    assert client.generate("any").done_reason == "load"
    assert engine.requests == []


def test_logprobs_come_with_the_tokens(client: ollama.Client) -> None:
    answer = client.chat("any", [USER], logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(one.token for one in answer.logprobs) == "Hello there."
    assert len(answer.logprobs[0].top_logprobs or ()) == 2


def test_the_model_is_listed_described_and_loaded(client: ollama.Client) -> None:
    """Under its name and its aliases, with or without Ollama's tag."""
    (listed,) = client.list().models
    (loaded,) = client.ps().models
    assert listed.model == loaded.name == "dure-demo"
    assert listed.size == DEMO_MODEL.stat().st_size
    assert loaded.context_length == 2048
    assert listed.details is not None
    assert (listed.details.family, listed.details.quantization_level) == ("qwen3", "F16")
    for name in ("dure-demo", "dure-demo:latest", "story"):
        shown = client.show(name)
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "qwen3"
        assert shown.modelinfo["tokenizer.ggml.tokens"] is None
        assert set(shown.capabilities or ()) == {"completion", "tools", "thinking", "embedding"}
        assert "<tool_call>" in (shown.template or "")
    with pytest.raises(ollama.ResponseError, match="other") as found:
        client.show("other")
    assert found.value.status_code == 404


def test_embeddings_are_vectors_of_length_one(client: ollama.Client) -> None:
    """`embeddings`, the older route, gives them as the model does."""
    found = client.embed("any", ["One.", "Two."], dimensions=4)
    assert [len(vector) for vector in found.embeddings] == [4, 4]
    assert sum(x * x for x in found.embeddings[0]) == pytest.approx(1.0)
    assert client.embed("any", "One.").embeddings[0] != client.embeddings("any", "One.").embedding
    assert found.prompt_eval_count == sum(len(vocabulary().tokenize(t)) for t in ("One.", "Two."))


def test_a_long_text_is_shortened_or_refused(client: ollama.Client) -> None:
    long = "Hello. " * 3000
    assert client.embed("any", long).prompt_eval_count == 2048
    with pytest.raises(ollama.ResponseError, match=r"input\[0\]") as found:
        client.embed("any", long, truncate=False)
    assert found.value.status_code == 400


def test_an_empty_text_has_no_meaning(client: ollama.Client) -> None:
    """One among others is refused by its place; alone in the older route it is an empty vector."""
    with pytest.raises(ollama.ResponseError, match=r"input\[1\]"):
        client.embed("any", ["One.", ""])
    assert list(client.embeddings("any", "").embedding) == []


def test_a_model_that_does_not_embed_says_so(engine: ScriptedEngine) -> None:
    with (
        served(state_of(engine.not_embedding()), [router()]) as server,
        ollama.Client(host=server.url) as client,
    ):
        assert "embedding" not in (client.show("dure-demo").capabilities or ())
        with pytest.raises(ollama.ResponseError) as found:
            client.embed("any", "One.")
        assert found.value.status_code == 501


def test_a_refused_parameter_is_a_400_that_names_it(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options\.temprature.*temperature") as found:
        client.chat("any", [USER], options={"temprature": 1})
    assert found.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="template"):
        client.generate("any", "Hello.", template="x")
    assert client.generate("any", "Hello.", keep_alive=0).done


@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_line_are_statuses(
    client: ollama.Client, engine: ScriptedEngine, stream: bool
) -> None:
    """A full queue is 429, a prompt too long 400, a model that loads 503."""

    def status(content: str) -> int:
        with pytest.raises(ollama.ResponseError) as found:
            list(client.chat("any", [{"role": "user", "content": content}], stream=stream))  # type: ignore[call-overload]
        return int(found.value.status_code)

    engine.scripts = [Script(refusal=BusyError("full", retry_after_s=3.0))]
    assert status("Hello.") == 429
    assert status("Hello. " * 3000) == 400
    engine.state = "loading"
    assert status("Hello.") == 503


def test_a_failure_in_the_middle_is_a_line(client: ollama.Client, engine: ScriptedEngine) -> None:
    engine.default = Script("Hello there.", failure=EngineError("the engine is gone"))
    with pytest.raises(ollama.ResponseError, match="the engine is gone"):
        list(client.chat("any", [USER], stream=True))


def test_a_client_that_hangs_up_ends_the_work(url: str, engine: ScriptedEngine) -> None:
    hold = threading.Event()
    engine.default = Script("Hello there.", hold=hold)
    body = {"model": "any", "messages": [USER]}
    with httpx.stream("POST", f"{url}/api/chat", json=body) as answer:
        next(answer.iter_lines())
    wait_until(lambda: engine.cancelled, "the engine works on for nobody")
    hold.set()


def test_the_asynchronous_client_streams_too(url: str) -> None:
    async def answer() -> str:
        async with ollama.AsyncClient(host=url) as client:
            pieces = await client.chat("any", [USER], stream=True)
            return "".join([piece.message.content or "" async for piece in pieces])

    assert asyncio.run(answer()) == "Hello there."
