"""What requests say in vain: let through by name, refused by name, or refused as misspelled.

The tables are compared with the models of the requests; the rest goes through a real server.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from pydantic import BaseModel

import dure.serve
from dure.chat.reading import TextTools
from dure.generate.request import Sampling
from dure.http.request_model import BodyPart, RequestBody
from dure.http.unused_fields import Ignored
from dure.isolation import Isolation
from dure.serve import anthropic, ollama, responses
from dure.serve.anthropic.requests import CountTokensRequest, MessagesRequest
from dure.serve.ollama.requests import (
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    OllamaChatRequest,
    ShowRequest,
)
from dure.serve.openai.adapters import LoadAdapterRequest, UnloadAdapterRequest
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.completion_request import CompletionRequest
from dure.serve.openai.embeddings import EmbeddingRequest
from dure.serve.openai.native_request import InfillRequest, NativeRequest
from dure.serve.openai.rerank import RerankRequest
from dure.serve.openai.tokens import DetokenizeRequest, TokenizeRequest
from dure.serve.responses.requests import ResponsesRequest
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.serving import Script, ScriptedEngine, Served, served, state_of, vocabulary

BODIES: tuple[type[RequestBody], ...] = (
    OpenAIChatRequest,
    CompletionRequest,
    NativeRequest,
    InfillRequest,
    EmbeddingRequest,
    RerankRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    OllamaChatRequest,
    GenerateRequest,
    EmbedRequest,
    EmbeddingsRequest,
    ShowRequest,
)
CHAT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}


def paths_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every path that a body's models have, and the model it leads into or ends in."""
    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}".lstrip(".")
        yield here, model
        for part in models_in(info.annotation):
            if part is not model:
                yield from paths_of(part, here)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models of a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from models_in(part)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_table_has_no_field_that_all_of_its_bodies_use(body: type[RequestBody]) -> None:
    """A field is used, or in the table, never both; the table's places exist in the models."""
    sharing = [other for other in BODIES if other.FIELDS is body.FIELDS]
    models = [dict(paths_of(other)) for other in sharing]
    for path in body.FIELDS:
        assert not all(path in known for known in models), path
        place = path.rpartition(".")[0].removeprefix("*")
        assert not place or any(place in known for known in models), path


def test_every_field_of_a_request_is_read_somewhere() -> None:
    """A field that nobody reads would be ignored without its name being told."""
    sources = [path.read_text() for path in Path(dure.serve.__file__).parent.rglob("*.py")]
    read = {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
    }
    texts = set(Sampling.__struct_fields__)  # read by their names
    texts |= {name for source in sources for name in re.findall(r'"([a-z_]+)"', source)}
    dumped = {"name", "type"}  # of OpenAI's messages, which are handed on whole
    for body in BODIES:
        for path, model in paths_of(body):
            if not issubclass(model, BodyPart):
                continue  # of a kind that is skipped or refused as a whole
            name = path.rpartition(".")[2]
            own = {name, f"{name}_", "json_schema" if name == "schema" else name}
            assert own & (read | texts | dumped), f"{body.__name__}: {path}"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_every_row_gives_its_reason(body: type[RequestBody]) -> None:
    """In words that complete a sentence, as an error and the page of compatibility show them."""
    for path, fate in body.FIELDS.items():
        assert fate.reason, path
        assert not fate.reason.endswith("."), path
        if isinstance(fate, Ignored):
            assert fate.wish or not fate.unless or None not in fate.unless


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server with every dialect."""
    routers = [anthropic.router(), ollama.router(), responses.router()]
    with served(state_of(ScriptedEngine()), routers) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/chat/completions", {**CHAT, "metadata": {"a": "b"}, "user": "me"}, "metadata, user"),
        (
            "/v1/chat/completions",
            {**CHAT, "verbosity": "low", "brand_new": 1},
            "verbosity, brand_new",
        ),
        (
            "/v1/chat/completions",
            {**CHAT, "reasoning": {"effort": "none", "exclude": True, "max_tokens": 9}},
            "reasoning.exclude, reasoning.max_tokens",
        ),
        (
            "/v1/chat/completions",
            {**CHAT, "tools": [{"type": "web_search"}]},
            "tools.0",
        ),
        (
            "/v1/chat/completions",
            {**CHAT, "chat_template_kwargs": {"x": 1}},
            "chat_template_kwargs.x",
        ),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 2, "store": True}, "store"),
        ("/completion", {"prompt": "Hello", "n_predict": 2, "id_slot": 0}, "id_slot"),
        ("/v1/responses", {"input": "Hello.", "client_metadata": {}}, "client_metadata"),
        ("/v1/messages", {**CHAT, "context_management": {}}, "context_management"),
        (
            "/v1/messages",
            {**CHAT, "system": [{"type": "text", "text": "x-anthropic-billing-header: x=1;"}]},
            "system.billing_header",
        ),
        ("/api/chat", {"model": "m", "messages": CHAT["messages"], "keep_alive": 0}, "keep_alive"),
        ("/tokenize", {"content": "Hello.", "brand_new": 1}, "brand_new"),
    ],
)
def test_the_header_names_what_had_no_effect(
    server: Served, path: str, body: dict[str, Any], names: str
) -> None:
    """In every dialect, whole or streamed."""
    for extra in ({}, {"stream": True} if "max_tokens" in body else {}):
        response = httpx.post(server.url + path, json={**body, **extra})
        assert response.status_code == 200, response.text
        assert response.headers["x-dure-ignored"] == names


def test_a_request_that_is_granted_whole_has_no_such_header(server: Served) -> None:
    asked = {**CHAT, "store": False, "service_tier": "auto", "temperature": 0}
    assert (
        "x-dure-ignored" not in httpx.post(f"{server.url}/v1/chat/completions", json=asked).headers
    )


@pytest.mark.parametrize("field", ["temprature", "max_token", "top_kk", "frequency_penality"])
def test_a_misspelled_parameter_is_refused_with_the_right_name(server: Served, field: str) -> None:
    """It would have changed the answer."""
    response = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, field: 1})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert "did you mean" in error["message"]


def test_a_name_that_a_client_makes_up_cannot_break_the_header(server: Served) -> None:
    """Nor make it long: names are cut, cleaned and counted."""
    asked = {**CHAT, "a\r\nset-cookie: x": 1, "b" * 5000: 1, **{f"field{i}": 1 for i in range(99)}}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert response.status_code == 200
    header = response.headers["x-dure-ignored"]
    assert "set-cookie" not in response.headers
    assert len(header) < 1000
    assert header.endswith("and 77 more")


def test_a_strict_server_refuses_unknown_fields_and_wishes(server: Served) -> None:
    """And nothing else: notes for the caller's own records hurt nobody."""
    state = state_of(ScriptedEngine())
    state.strict = True
    with served(state, [anthropic.router(), ollama.router(), responses.router()]) as strict:
        url = f"{strict.url}/v1/chat/completions"
        assert httpx.post(url, json={**CHAT, "metadata": {"a": "b"}}).status_code == 200
        for name, value in (
            ("brand_new", None),
            ("store", True),
            ("chat_template_kwargs", {"x": 1}),
        ):
            response = httpx.post(url, json={**CHAT, name: value})
            assert response.status_code == 400
            assert name in response.json()["error"]["message"]


UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}


@pytest.mark.parametrize(
    ("answer", "told"), [("[1, 2]", None), ("[1, 1]", "response_format")], ids=["kept", "broken"]
)
def test_a_schema_that_is_not_strict_is_followed_as_far_as_a_grammar_can(
    answer: str, told: str | None
) -> None:
    """OpenAI's default. The rest is checked, and told; only a strict schema refuses the keyword."""
    named = {"name": "numbers", "schema": UNIQUE}
    engine = ScriptedEngine()
    engine.scripts = [Script(answer)]
    with served(state_of(engine)) as server:
        url = f"{server.url}/v1/chat/completions"
        asked = {**CHAT, "max_tokens": 64}
        loose = {"type": "json_schema", "json_schema": named}
        response = httpx.post(url, json={**asked, "response_format": loose})
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == answer
        assert response.headers.get("x-dure-ignored") == told
        strict = {"type": "json_schema", "json_schema": {**named, "strict": True}}
        refused = httpx.post(url, json={**asked, "response_format": strict})
        assert refused.status_code == 400
        assert "uniqueItems" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("think", "fields", "thinks"),
    [
        ("off", {}, False),
        ("on", {}, True),
        ("off", {"enable_thinking": True}, True),
        ("on", {"reasoning_effort": "none"}, False),
        ("off", {"reasoning": {"effort": "high"}}, True),
        ("on", {"reasoning": {"effort": "none"}}, False),
        ("on", {"reasoning": {"enabled": False}}, False),
    ],
)
def test_the_server_decides_about_thinking_if_a_request_does_not(
    think: Any, fields: dict[str, Any], thinks: bool
) -> None:
    """And names no field that the request does not have."""
    state = state_of(ScriptedEngine())
    state.think = think
    with served(state) as server:
        response = httpx.post(
            f"{server.url}/apply-template", json={"messages": CHAT["messages"], **fields}
        )
    assert response.json()["prompt"].rstrip().endswith("<think>") is thinks
    assert "x-dure-ignored" not in response.headers


PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"enable_thinking": True}, "enable_thinking"),
        ({"reasoning": {"enabled": True}}, "reasoning.enabled"),
    ],
)
def test_a_wish_to_think_that_is_not_granted_has_the_requests_own_name(
    fields: dict[str, Any], named: str
) -> None:
    with Isolation(TextTools.of(vocabulary(), PLAIN)) as texts:
        model = ServedModel(ScriptedEngine(), vocabulary(), texts, "plain")
        with served(ServerState(model)) as server:
            response = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["x-dure-ignored"] == named


def test_two_wishes_that_differ_are_refused(server: Served) -> None:
    """Neither is taken in silence."""
    asked = {**CHAT, "reasoning": {"effort": "high"}, "reasoning_effort": "low"}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "reasoning"
