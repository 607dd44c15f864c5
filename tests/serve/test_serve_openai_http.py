"""What goes over the line: bodies that are wrong, streams' bytes, llama-server's own addresses."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from dure.chat.reading import TextTools
from dure.errors import BusyError, EngineError
from dure.http.sse import Silence
from dure.isolation import Isolation
from dure.serve import anthropic, ollama, responses
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.serving import Script, ScriptedEngine, Served, served, state_of, vocabulary

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(
        state_of(ScriptedEngine(), silence=Silence(comment_s=0.05), aliases=("demo",))
    ) as running:
        yield running


@pytest.fixture
def engine(server: Served) -> Iterator[ScriptedEngine]:
    found = server.state.model.engine
    assert isinstance(found, ScriptedEngine)
    found.scripts.clear()
    found.requests.clear()
    yield found
    found.state, found.progress = "ready", 1.0


@pytest.fixture(scope="module")
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def events_of(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; [DONE] as it is."""
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    data = [line.removeprefix("data: ") for line in lines]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def assert_refused(response: httpx.Response, param: str | None = None) -> None:
    error = response.json()["error"]
    assert response.status_code == error["code"] == 400
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]
    assert response.headers["x-should-retry"] == "false"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": ' + b'{"a":' * 5000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_body_that_is_no_request_is_refused(http: httpx.Client, body: bytes) -> None:
    for path in (CHAT, "/v1/completions", "/completion", "/v1/embeddings", "/tokenize"):
        assert_refused(http.post(path, content=body))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "12"),
        ("max_tokens", 1.5),
        ("max_tokens", -2),
        ("max_tokens", 10**30),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 2),
        ("top_k", -7),
        ("seed", 2**70),
        ("n", 0),
        ("n", True),
        ("stop", [1]),
        ("mirostat", 3),
        ("reasoning", {"effort": "much"}),
        ("logit_bias", {"99999999": 1}),
        ("logit_bias", [[1, "much"]]),
        ("logit_bias", [[1]]),
        ("temprature", 1),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
        ("function_call", {"name": "missing"}),
        ("dynatemp_range", 0.5),
        ("samplers", ["top_k"]),
        ("top_logprobs", 3),
        ("tools", [{"type": "function", "function": {"name": "a b"}}]),
        ("tools", [{"type": "function", "function": {"name": "a"}}] * 2),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "missing"}}),
        ("response_format", {"type": "sound"}),
        ("continue_final_message", True),
        ("add_generation_prompt", False),
        ("grammar", "root ::= (a"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"schema": {"not": {}}, "strict": True}},
        ),
        ("messages", []),
        ("messages", [123]),
        ("messages", [{}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": 1}]),
        ("messages", [{"role": "king", "content": "x"}]),
        ("messages", [*MESSAGES, *[{"role": "assistant", "content": "x"}] * 2]),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        ),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_name(
    http: httpx.Client, engine: ScriptedEngine, field: str, value: object
) -> None:
    response = http.post(CHAT, json={"messages": MESSAGES, field: value})
    assert_refused(response)
    assert response.json()["error"]["param"].split(".")[0] == field
    assert field in response.json()["error"]["message"]
    assert not engine.requests


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "king"}] * 100_000},
        {"messages": MESSAGES, "stop": [1] * 100_000},
        {"messages": MESSAGES, "tools": [[]] * 100_000},
        {"messages": MESSAGES, **{f"unknown{n}": n for n in range(100_000)}},
        {"messages": MESSAGES, "logit_bias": {str(n): "x" for n in range(100_000)}},
        {"messages": MESSAGES, "logit_bias": [[]] * 60_000},
    ],
)
def test_what_is_wrong_a_hundred_thousand_times_is_refused_at_the_first(
    http: httpx.Client, body: dict[str, Any]
) -> None:
    response = http.post(CHAT, json=body)
    assert_refused(response)
    assert len(response.content) < 1000


def test_a_whole_number_may_be_written_as_a_float(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    """5.0 is an integer to JSON schemas, and so to our document; 5.5, true and "5" are none."""
    assert http.post(CHAT, json={"messages": MESSAGES, "max_tokens": 5.0}).status_code == 200
    assert engine.requests[-1].max_tokens == 5
    for wrong in (5.5, True, "5"):
        assert_refused(
            http.post(CHAT, json={"messages": MESSAGES, "max_tokens": wrong}), "max_tokens"
        )


def test_limits_that_contradict_each_other_are_refused(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6}
    assert_refused(http.post(CHAT, json=body), "max_completion_tokens")


def test_what_asks_for_nothing_here_is_accepted(http: httpx.Client, engine: ScriptedEngine) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "id_slot": 0,
        "modalities": ["text"],
        "stop": None,
        "tools": [],
    }
    assert http.post(CHAT, json={"messages": MESSAGES, **harmless}).status_code == 200


def test_any_content_type_is_read_as_json(http: httpx.Client, engine: ScriptedEngine) -> None:
    body = json.dumps({"messages": MESSAGES})
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; x=y"):
        assert http.post(CHAT, content=body, headers={"content-type": kind}).status_code == 200
    assert http.post(CHAT, content=body).status_code == 200


def test_an_unknown_address_and_a_wrong_method_are_told(http: httpx.Client) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", CHAT, 405)):
        response = http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["code"] == status
        assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_no_tokens_may_be_asked_for_to_have_the_prompt_computed(
    http: httpx.Client, engine: ScriptedEngine, stream: bool
) -> None:
    body = {"max_tokens": 0, "stream": stream}
    chat = http.post(CHAT, json={**body, "messages": MESSAGES, "logprobs": True})
    text = http.post("/v1/completions", json={**body, "prompt": "x", "logprobs": 1})
    assert [request.max_tokens for request in engine.requests] == [0, 0]
    if stream:
        for answer in (chat, text):
            assert events_of(answer)[-2]["choices"][0]["finish_reason"] == "length"
        return
    (choice,) = chat.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert choice["logprobs"]["content"] == []
    (choice,) = text.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    assert choice["logprobs"]["tokens"] == []
    assert text.json()["usage"]["completion_tokens"] == 0


def test_a_prompt_is_shown_without_what_begins_the_answer(http: httpx.Client) -> None:
    shown = {"messages": MESSAGES, "add_generation_prompt": False}
    without = http.post("/apply-template", json=shown).json()["prompt"]
    whole = http.post("/apply-template", json={"messages": MESSAGES}).json()["prompt"]
    assert whole.startswith(without)
    assert "assistant" in whole.removeprefix(without)


@pytest.mark.parametrize("stream", [False, True])
def test_only_tokens_up_to_a_stop_string_are_counted(
    http: httpx.Client, engine: ScriptedEngine, stream: bool
) -> None:
    """However many the engine had written before it heard that nobody wants them."""
    text = "The bell rings at noon, and again at dusk."
    engine.scripts = [Script(text, hasty=True)]
    usage = {"stream_options": {"include_usage": True}} if stream else {}
    answer = http.post(
        CHAT, json={"messages": MESSAGES, "stop": ["rings"], "stream": stream, **usage}
    )
    told = events_of(answer)[-2] if stream else answer.json()
    tokens = [vocabulary().piece(token) for token in engine.tokens_of(Script(text))]
    wanted = next(n for n in range(len(tokens)) if b"rings" in b"".join(tokens[:n]))
    assert wanted < len(tokens)
    assert told["usage"]["completion_tokens"] == told["timings"]["predicted_n"] == wanted
    whole_ms = 20.0  # of a script
    part_ms = whole_ms * (wanted - 1) / (len(tokens) - 1)
    assert told["timings"]["predicted_ms"] == pytest.approx(part_ms, abs=0.01)


def test_an_answer_that_is_complete_by_its_stop_string_survives_the_engine(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does not.", hasty=True, failure=EngineError("gone"))]
    answer = http.post(CHAT, json={"messages": MESSAGES, "stop": [" not"]}).json()
    assert answer["choices"][0]["message"]["content"] == "Dae does"
    assert answer["usage"]["completion_tokens"] > 0


def test_choices_share_the_tokens_of_their_prompt(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does."), Script("Dae does not."), Script("Dae.")]
    answer = http.post(CHAT, json={"messages": MESSAGES, "n": 3}).json()
    lengths = [len(engine.tokens_of(Script(c["message"]["content"]))) for c in answer["choices"]]
    assert answer["usage"]["completion_tokens"] == sum(lengths)
    assert answer["usage"]["prompt_tokens"] == len(engine.requests[0].prompt)


def test_a_thousand_damaged_bodies_are_refused_and_the_next_request_is_answered(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    chance = random.Random(7)
    whole = json.dumps({"messages": MESSAGES, "max_tokens": 3, "stop": ["x"], "seed": 1}).encode()
    for _ in range(1000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        status = http.post(CHAT, content=bytes(body[: chance.randint(1, len(body))])).status_code
        assert status in (200, 400)
    assert http.post(CHAT, content=whole).status_code == 200


def test_a_prompt_beyond_the_context_is_told_with_both_sizes(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "bell " * 3000}], "stream": True}
    response = http.post(CHAT, json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] >= 3000
    assert error["n_ctx"] == 2048
    sizes = f"{error['n_prompt_tokens']} tokens > 2048 maximum"
    assert f"prompt is too long: {sizes}" in error["message"]  # which clients look for


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_told_with_the_time_to_wait(
    http: httpx.Client, engine: ScriptedEngine, stream: bool
) -> None:
    engine.scripts = [
        Script(),
        Script(refusal=BusyError("too many requests wait", retry_after_s=2.4)),
    ]
    response = http.post(CHAT, json={"messages": MESSAGES, "stream": stream, "n": 2})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert engine.cancelled >= {engine.requests[0].id}


def test_health_tells_how_far_the_model_is_loaded(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    engine.state, engine.progress = "loading", 0.25
    response = http.get("/health")
    assert response.status_code == 503
    assert response.json()["error"] == {
        "code": 503,
        "message": "Loading model",
        "type": "unavailable_error",
        "param": None,
        "progress": 0.25,
    }
    refused = http.post(CHAT, json={"messages": MESSAGES})
    assert refused.status_code == 503
    assert "retry-after" in refused.headers


def test_an_error_before_the_first_token_of_a_stream_is_a_status(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script(refusal=BusyError("busy"))]
    assert http.post(CHAT, json={"messages": MESSAGES, "stream": True}).status_code == 429


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Da", failure=EngineError("rank 1 is gone"))]
    response = http.post(CHAT, json={"messages": MESSAGES, "stream": True})
    assert response.status_code == 200
    last = events_of(response)[-1]
    assert last["error"]["message"] == "rank 1 is gone"
    assert last["error"]["code"] == 500


def test_a_silent_stream_says_that_it_is_alive(http: httpx.Client, engine: ScriptedEngine) -> None:
    hold = threading.Event()
    engine.scripts = [Script("Dae.", hold=hold, silent=True)]
    body = {"messages": MESSAGES, "stream": True}
    with http.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        comments = [line for line, _ in zip(_until_comments(lines), range(2), strict=False)]
        assert comments == [": keep-alive"] * 2
        hold.set()
        assert "data: [DONE]" in list(lines)


def _until_comments(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line.startswith(":"))


def test_progress_and_timings_come_as_llama_server_gives_them(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does.", cached=2)]
    asked = {"return_progress": True, "timings_per_token": True, "stream": True}
    usage = {"stream_options": {"include_usage": True}}
    events = events_of(http.post(CHAT, json={"messages": MESSAGES, **asked, **usage}))
    assert events[-1] == "[DONE]"
    progress = [event["prompt_progress"] for event in events[:-1] if "prompt_progress" in event]
    total = len(engine.requests[0].prompt)
    assert [one["processed"] for one in progress] == [2, total]
    assert {(one["total"], one["cache"]) for one in progress} == {(total, 2)}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert "timings" not in events[0]
    text = [e for e in events[:-1] if e["choices"] and e["choices"][0]["delta"].get("content")]
    assert [event["timings"]["predicted_n"] for event in text] == list(range(1, len(text) + 1))
    last = events[-2]
    assert last["choices"] == []
    assert last["timings"]["prompt_n"] == total - 2
    assert last["timings"]["cache_n"] == 2
    assert last["usage"]["prompt_tokens"] == total


def test_two_clients_of_one_message_get_the_bytes_of_one_event_each(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    response = http.post(CHAT, json={"messages": MESSAGES, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.text.endswith("data: [DONE]\n\n")
    assert all(part.startswith("data: ") for part in response.text.strip().split("\n\n"))


def test_the_prompt_is_shown_where_it_is_asked_for(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "verbose": True}
    assert "Hi" in http.post(CHAT, json=body).json()["__verbose"]["prompt"]
    assert "Hi" in http.post("/apply-template", json={"messages": MESSAGES}).json()["prompt"]


def test_input_tokens_are_counted_without_an_answer(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    counted = http.post(f"{CHAT}/input_tokens", json={"messages": MESSAGES}).json()
    assert not engine.requests
    http.post(CHAT, json={"messages": MESSAGES})
    assert counted["input_tokens"] == len(engine.requests[0].prompt)


def test_an_answer_of_the_assistant_goes_on_where_it_stops(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "The bell"}]
    shown = http.post("/apply-template", json={"messages": begun}).json()["prompt"]
    assert shown.endswith("The bell")
    whole = {"messages": begun, "continue_final_message": False}
    assert not http.post("/apply-template", json=whole).json()["prompt"].endswith("The bell")


def test_tokens_become_text_again(http: httpx.Client) -> None:
    text = "Ünï 🤗 <|im_start|> hello"
    tokens = http.post("/tokenize", json={"content": text}).json()["tokens"]
    assert tokens == vocabulary().tokenize(text, special=True, add_bos=False)
    assert http.post("/detokenize", json={"tokens": tokens}).json()["content"] == text
    plain = {"content": text, "parse_special": False}
    assert len(http.post("/tokenize", json=plain).json()["tokens"]) > len(tokens)


def test_pieces_that_are_no_characters_are_bytes(http: httpx.Client) -> None:
    body = {"content": "a 🤗", "with_pieces": True}
    pieces = http.post("/tokenize", json=body).json()["tokens"]
    data = b"".join(
        bytes(one["piece"]) if isinstance(one["piece"], list) else one["piece"].encode()
        for one in pieces
    )
    assert data.decode() == "a 🤗"
    assert any(isinstance(one["piece"], list) for one in pieces)


def test_a_token_that_is_none_is_refused(http: httpx.Client) -> None:
    assert_refused(http.post("/detokenize", json={"tokens": [10**6]}))
    assert_refused(http.post("/v1/completions", json={"prompt": [10**6]}))
    assert_refused(http.post("/detokenize", json={"tokens": ["1"]}))


def test_llama_servers_own_completion_has_its_shape(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae\ndoes.")]
    body = {"prompt": "x", "n_predict": 50, "n_probs": 3, "return_tokens": True, "seed": 4}
    answer = http.post("/completion", json=body).json()
    assert answer["content"] == "Dae\ndoes."
    assert answer["tokens"] == list(engine.tokens_of(Script("Dae\ndoes.")))
    assert answer["stop"] is True
    assert answer["stop_type"] == "eos"
    assert answer["has_new_line"] is True
    assert answer["generation_settings"]["n_predict"] == 50
    assert answer["generation_settings"]["seed"] == 4
    assert answer["timings"]["predicted_n"] == answer["tokens_predicted"]
    probabilities = answer["completion_probabilities"]
    assert [one["id"] for one in probabilities] == answer["tokens"]
    assert all(len(one["top_logprobs"]) == 3 for one in probabilities)


def test_probabilities_after_sampling_have_their_own_names(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    """Asked for after sampling, they are probabilities instead of logprobs, and the engine is told."""
    engine.scripts = [Script("Dae.")]
    body = {"prompt": "x", "n_probs": 3, "post_sampling_probs": True}
    answer = http.post("/completion", json=body).json()
    assert engine.requests[-1].post_sampling
    assert answer["generation_settings"]["post_sampling_probs"] is True
    for one in answer["completion_probabilities"]:
        assert 0 < one["prob"] <= 1
        assert len(one["top_probs"]) == 3
        assert not {"logprob", "top_logprobs"} & {*one, *one["top_probs"][0]}


def test_llama_servers_own_stream_ends_with_what_stopped_it(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.scripts = [Script("Dae does not.")]
    events = events_of(
        http.post("/completion", json={"prompt": "x", "stream": True, "stop": [" not"]})
    )
    assert "".join(event["content"] for event in events) == "Dae does"
    assert all(event["tokens"] for event in events if not event["stop"])
    assert [event["stop"] for event in events].count(True) == 1
    assert events[-1]["stop_type"] == "word"
    assert events[-1]["stopping_word"] == " not"


def test_prompts_of_text_and_tokens_may_be_mixed(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    mixed = {"prompt": [1, 2, "x", 3], "response_fields": ["content", "generation_settings/top_k"]}
    answer = http.post("/completion", json=mixed).json()
    assert answer == {"content": "Hello there.", "generation_settings/top_k": 40}
    inner = vocabulary().tokenize("x", special=True, add_bos=False)
    assert engine.requests[0].prompt == [1, 2, *inner, 3]
    several = http.post("/completion", json={"prompt": [[1, 2], "x", {"prompt_string": "x"}]})
    assert [one["index"] for one in several.json()] == [0, 1, 2]
    assert engine.requests[2].prompt == engine.requests[3].prompt


def test_a_prompt_with_an_image_is_refused(http: httpx.Client, engine: ScriptedEngine) -> None:
    """It could change the answer; an empty list of images could not."""
    prompt = {"prompt_string": "What is this? <__media__>", "multimodal_data": ["aGk="]}
    refused = http.post("/completion", json={"prompt": prompt})
    assert refused.status_code == 400
    assert "multimodal_data" in refused.json()["error"]["message"]
    assert engine.requests == []
    assert http.post("/completion", json={"prompt": {**prompt, "multimodal_data": []}}).is_success


@pytest.mark.parametrize(
    "bias", [[[5, -100]], [["\x00no token", 1], [5, -100]], {"5": -100}, [[5, False]]]
)
def test_a_bias_may_be_a_map_or_pairs(
    http: httpx.Client, engine: ScriptedEngine, bias: object
) -> None:
    assert http.post("/completion", json={"prompt": "x", "logit_bias": bias}).status_code == 200
    given = engine.requests[0].sampling.logit_bias[5]
    assert given == (float("-inf") if "False" in str(bias) else -100.0)


def test_a_bias_of_a_text_is_one_of_its_tokens(http: httpx.Client, engine: ScriptedEngine) -> None:
    http.post("/completion", json={"prompt": "x", "logit_bias": {" bell": -5}})
    tokens = vocabulary().tokenize(" bell", add_bos=False)
    assert engine.requests[0].sampling.logit_bias == dict.fromkeys(tokens, -5.0)


def test_a_grammar_or_a_schema_reaches_the_engine_and_a_wrong_one_is_refused(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    http.post("/completion", json={"prompt": "x", "grammar": 'root ::= "a"'})
    http.post("/completion", json={"prompt": "x", "json_schema": {"const": "42"}})
    first, second = (request.grammar for request in engine.requests)
    assert first is not None
    assert first.gbnf == 'root ::= "a"'
    assert second is not None
    assert "42" in second.gbnf
    assert_refused(http.post("/completion", json={"prompt": "x", "grammar": "root ::= (a"}))
    deep = "root ::= " + "(" * 50_000
    assert_refused(http.post("/completion", json={"prompt": "x", "grammar": deep}))
    both = {"grammar": 'root ::= "a"', "json_schema": {}}
    assert_refused(http.post("/completion", json={"prompt": "x", **both}))


def test_a_schema_may_say_which_object_is_wanted_but_not_contradict_another(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.default = Script('{"bell": 1}')
    schema = {"type": "object", "properties": {"bell": {"type": "integer"}}}
    body: dict[str, Any] = {"messages": MESSAGES, "json_schema": schema}
    plain: dict[str, Any] = {"type": "json_object"}
    assert http.post(CHAT, json={**body, "response_format": plain}).status_code == 200
    assert http.post(CHAT, json=body).status_code == 200
    first, second = (request.grammar for request in engine.requests)
    assert first == second
    other = {**body, "response_format": {**plain, "schema": {"type": "object"}}}
    assert_refused(http.post(CHAT, json=other), "json_schema")


def test_a_suffix_is_refused_where_the_model_cannot_fill_in(http: httpx.Client) -> None:
    body = {"prompt": "x", "suffix": "y"}
    assert_refused(http.post("/v1/completions", json=body), "suffix")


def test_a_model_that_does_not_embed_says_so() -> None:
    with served(state_of(ScriptedEngine().not_embedding())) as server:
        response = httpx.post(f"{server.url}/v1/embeddings", json={"input": "x"})
    assert response.status_code == 501
    assert response.json()["error"]["type"] == "not_supported_error"


@pytest.mark.parametrize(
    ("given", "n"),
    [
        ("x", 1),
        ([1, 2], 1),
        ([1, "x"], 1),
        (["x", "y"], 2),
        ([[1], "x", {"prompt_string": "y"}], 3),
    ],
)
def test_embeddings_take_text_and_tokens(http: httpx.Client, given: object, n: int) -> None:
    assert len(http.post("/v1/embeddings", json={"input": given}).json()["data"]) == n


@pytest.mark.parametrize("given", [[], {"content": "x"}, {"content": [{"type": "sound"}]}, "", 5])
def test_an_input_that_is_no_text_is_refused(http: httpx.Client, given: object) -> None:
    assert_refused(http.post("/v1/embeddings", json={"input": given}))


def test_the_model_its_names_and_the_room_for_answers_are_told(http: httpx.Client) -> None:
    (model,) = http.get("/models").json()["data"]
    assert model["aliases"] == ["demo"]
    assert http.get("/v1/models/demo").json()["id"] == "dure-demo"
    assert len(http.get("/slots").json()) == http.get("/props").json()["total_slots"] == 4


def test_the_documentation_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").text
    assert "//" not in page.replace("// ", "")
    assert "src=" not in page
    paths = http.get("/openapi.json").json()["paths"]
    assert {CHAT, "/v1/completions", "/v1/embeddings", "/v1/models", "/health"} <= set(paths)


def test_every_answer_follows_the_document(http: httpx.Client, engine: ScriptedEngine) -> None:
    import jsonschema  # type: ignore[import-untyped]

    document = http.get("/openapi.json").json()
    bodies: dict[str, dict[str, Any]] = {
        CHAT: {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "verbose": True},
        "/v1/completions": {"prompt": "x", "logprobs": 1},
        "/completion": {"prompt": "x"},
        "/v1/embeddings": {"input": "x"},
        "/tokenize": {"content": "x", "with_pieces": True},
        "/apply-template": {"messages": MESSAGES},
    }
    for path, body in bodies.items():
        answers = document["paths"][path]["post"]["responses"]
        schema = answers["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(
            msgspec.json.decode(http.post(path, json=body).content),
            {**schema, "components": document["components"]},
        )


def test_the_address_itself_says_hello(http: httpx.Client) -> None:
    """Ollama's clients look there first, and browsers, which get the page."""
    assert http.get("/").text == "dure is running: the API is described at /docs\n"
    accepts = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert http.get("/", headers=accepts).headers["content-type"].startswith("text/html")


def test_head_is_answered_wherever_get_is(http: httpx.Client) -> None:
    """It has the status and the headers of a GET, without its body; what takes POST is 405."""
    document = http.get("/openapi.json").json()["paths"]
    paths = [path for path, methods in document.items() if "get" in methods and "{" not in path]
    assert len(paths) > 3
    for path in ["/", "/v1/models/demo", "/v1/models/nobody", "/nowhere", CHAT, *paths]:
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_is_no_text_is_refused_with_the_cure(http: httpx.Client, role: str, kind: str) -> None:
    """The sentence names the part and its type."""
    parts = [{"type": "text", "text": "What is it?"}, {"type": kind, kind: {"url": "x"}}]
    response = http.post(CHAT, json={"messages": [{"role": role, "content": parts}]})
    assert response.json()["error"]["message"] == (
        f"messages.0.content.1: a part of type '{kind}' is not supported: this model reads text only, "
        "leave it out"
    )


def test_a_model_without_a_chat_template_says_how_it_gets_one() -> None:
    """In every dialect of conversations; text is continued without."""
    routers = [responses.router(), anthropic.router(), ollama.router()]
    with Isolation(TextTools(vocabulary(), None)) as texts:
        model = ServedModel(ScriptedEngine(), vocabulary(), texts, "plain")
        with (
            served(ServerState(model), routers) as server,
            httpx.Client(base_url=server.url) as http,
        ):
            for path, body in (
                (CHAT, {"messages": MESSAGES}),
                ("/v1/responses", {"input": "Hi"}),
                ("/v1/messages", {"messages": MESSAGES, "max_tokens": 1}),
                ("/api/chat", {"model": "plain", "messages": MESSAGES}),
            ):
                refused = http.post(path, json=body)
                assert refused.status_code == 400, path
                assert "has no chat template: --chat-template FILE gives it one" in refused.text
            assert http.post("/v1/completions", json={"prompt": "Hi"}).status_code == 200
