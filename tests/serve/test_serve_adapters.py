"""A server with adapters: per request, by default, beside requests that want none; and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from dure.deploy.options import AdapterFile, RunOptions
from dure.serve import anthropic, ollama, responses
from dure.serve.adapters import ServedAdapters
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import EngineSupervisor
from tests.support.adapters import write_adapter
from tests.support.serving import (
    DEMO_MODEL,
    N_CTX,
    ScriptedEngine,
    Served,
    served,
    served_engine,
    texts,
    vocabulary,
)

WAIT_S = 120.0  # detects a hang; nothing is measured with it
BODY = {"prompt": "Once upon a time", "n_predict": 30, "temperature": 0, "ignore_eos": True}
CHAT = {
    "messages": [{"role": "user", "content": "Tell me a story about a goat."}],
    "max_tokens": 20,
    "temperature": 0,
    "ignore_eos": True,
}
FIRST, SECOND = [{"id": 0, "scale": 1.0}], [{"id": 1, "scale": 0.5}]
NONE = [{"id": 0, "scale": 0.0}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterFile, ...]:
    """Two adapters of the demo model; the second is not used by default."""
    directory = tmp_path_factory.mktemp("adapters")
    paths = [
        write_adapter(DEMO_MODEL, directory / f"{n}.gguf", seed=n, rank=6, strength=4)
        for n in (1, 2)
    ]
    return AdapterFile(str(paths[0]), 1.0), AdapterFile(str(paths[1]), 0.0)


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def server(
    request: pytest.FixtureRequest,
    files: tuple[AdapterFile, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The demo model with both, on a real engine."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DURE_CACHE", str(tmp_path_factory.mktemp("cache")))
        run = RunOptions(ranks=request.param, threads=1, ctx=N_CTX, n_sequences=4, lora=files)
        engine = EngineSupervisor(EngineOptions(model=str(DEMO_MODEL), run=run))
        with served_engine(state(engine, files), engine) as server:
            yield server


def state(engine: Any, files: tuple[AdapterFile, ...]) -> ServerState:
    model = ServedModel(engine, vocabulary(), texts(), "dure-demo", adapters=ServedAdapters(files))
    return ServerState(model)


def said(server: Served, lora: list[dict[str, float]] | None, **more: Any) -> dict[str, Any]:
    body = {**BODY, **({} if lora is None else {"lora": lora}), **more}
    answer = httpx.post(f"{server.url}/completion", json=body, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def test_clients_with_and_without_get_what_they_get_alone(server: Served) -> None:
    """At the same time, each many times: one with an adapter, one with another, one with none."""
    wanted = (FIRST, SECOND, NONE)
    alone = [said(server, lora)["content"] for lora in wanted]
    assert len(set(alone)) == len(wanted)
    told: list[list[str]] = [[] for _ in wanted]

    def ask(n: int) -> None:
        for _ in range(4):
            told[n].append(said(server, wanted[n])["content"])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [[text] * 4 for text in alone]


def test_a_prompt_is_cached_for_its_adapters_alone(server: Served) -> None:
    """The same long prompt with other adapters is computed anew; with the same ones it is cached."""
    prompt = "The goat of the village went to the mill. " * 12
    cached = [
        said(server, lora, prompt=prompt)["timings"]["cache_n"] > 0
        for lora in (FIRST, NONE, FIRST, SECOND, NONE)
    ]
    assert cached == [False, False, True, False, True]


def test_completions_and_chat_take_adapters(server: Served) -> None:
    """In OpenAI's routes; a request that says nothing has the scales that the server was started with."""
    for path, body in (
        ("/v1/completions", BODY),
        ("/v1/chat/completions", CHAT),
    ):
        answers = []
        for lora in (None, FIRST, [], NONE):
            asked = body if lora is None else {**body, "lora": lora}
            answer = httpx.post(f"{server.url}{path}", json=asked, timeout=WAIT_S).json()
            answers.append(answer["choices"][0].get("message", answer["choices"][0]))
        said_ = [answer.get("content", answer.get("text")) for answer in answers]
        assert said_[0] == said_[1] == said_[2] != said_[3]


def test_the_default_is_told_and_set(server: Served, files: tuple[AdapterFile, ...]) -> None:
    """As with llama-server: what is not named gets 0, and running requests keep what they had."""
    url = f"{server.url}/lora-adapters"
    first, second = (
        {"id": n, "path": file.path, "scale": file.scale} for n, file in enumerate(files)
    )
    assert httpx.get(url).json() == [first, second]
    by_default = said(server, None)
    assert by_default["generation_settings"]["lora"] == FIRST
    try:
        assert httpx.post(url, json=SECOND).json() == {"success": True}
        assert httpx.get(url).json() == [{**first, "scale": 0.0}, {**second, "scale": 0.5}]
        assert said(server, None)["content"] == said(server, SECOND)["content"]
        assert (
            httpx.get(f"{server.url}/props").json()["default_generation_settings"]["params"]["lora"]
            == SECOND
        )
    finally:
        httpx.post(url, json=FIRST)
    assert said(server, None)["content"] == by_default["content"]


def test_what_is_not_there_is_refused_by_name(server: Served) -> None:
    """An adapter too many, a scale that is none, one that lacks: 400, and nothing changes."""
    cases: list[tuple[str, Any, str]] = [
        ("/completion", {**BODY, "lora": [{"id": 2, "scale": 1}]}, "lora: there is no adapter 2"),
        ("/completion", {**BODY, "lora": [{"id": 0}]}, "scale"),
        ("/completion", {**BODY, "lora": [{"id": 0, "scale": "1"}]}, "scale"),
        ("/lora-adapters", [{"id": 7, "scale": 1}], "there is no adapter 7: there are 0, 1"),
        ("/lora-adapters", {"id": 0, "scale": 1}, ""),
    ]
    for path, body, words in cases:
        answer = httpx.post(f"{server.url}{path}", json=body, timeout=WAIT_S)
        assert answer.status_code == 400
        assert words in answer.json()["error"]["message"]
    assert [one["scale"] for one in httpx.get(f"{server.url}/lora-adapters").json()] == [1.0, 0.0]


def test_an_answer_keeps_its_adapters_when_the_engine_is_killed(server: Served) -> None:
    """In the middle of a stream: the rest is what it would have been, and later requests have them too."""
    whole = said(server, SECOND, n_predict=200)["content"]
    engine = server.state.model.engine
    text, killed = "", False
    body = {**BODY, "n_predict": 200, "stream": True, "lora": SECOND}
    with httpx.stream("POST", f"{server.url}/completion", json=body, timeout=WAIT_S) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["content"]
                if not killed and len(text) > len(whole) // 4:
                    killed = True
                    os.kill(engine.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    assert killed
    assert text == whole
    assert said(server, SECOND, n_predict=200)["content"] == whole


MESSAGES = [{"role": "user", "content": "Hello"}]
DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"max_tokens": 5, "messages": MESSAGES},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/api/generate": {"prompt": "Hello", "stream": False},
    "/v1/responses": {"input": "Hello"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hello"},
    "/completion": {"prompt": "Hello"},
}


@contextmanager
def scripted(
    files: tuple[AdapterFile, ...], aliases: tuple[str, ...] = ()
) -> Iterator[tuple[Served, ScriptedEngine]]:
    """Serve every dialect on an engine that notes what it is asked for."""
    engine = ScriptedEngine()
    server = state(engine, files)
    server.model.aliases = aliases
    dialects = [responses.router(), anthropic.router(), ollama.router()]
    with served(server, dialects) as running:
        yield running, engine


def asked(server: Served, path: str, model: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, **DIALECTS[path], **more}
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


@pytest.mark.parametrize("path", DIALECTS)
def test_every_dialect_has_the_servers_adapters(files: tuple[AdapterFile, ...], path: str) -> None:
    """A request that names none gets the server's, under whatever name it knows the model."""
    with scripted(files) as (server, engine):
        for model in ("any", "dure-demo", "dure-demo:latest", "gpt-4o:mini"):
            assert asked(server, path, model)["model"] == "dure-demo"
            assert engine.requests[-1].adapters == ((0, 1.0),)


@pytest.mark.parametrize("path", DIALECTS)
def test_the_models_name_chooses_an_adapter(files: tuple[AdapterFile, ...], path: str) -> None:
    """In every dialect, as clients that can only choose a model need it; the answer has that name.

    The adapter is alone then, and as strong as its option says; one of strength 0 has 1.
    """
    with scripted(files, aliases=("village",)) as (server, engine):
        for name in ("dure-demo:2", "village:2", "2", "dure-demo:2:latest"):
            assert asked(server, path, name)["model"] == "dure-demo:2"
            assert engine.requests[-1].adapters == ((1, 1.0),)
        asked(server, path, "dure-demo:1")
        assert engine.requests[-1].adapters == ((0, 1.0),)


def test_what_a_request_says_of_adapters_comes_before_the_name(
    files: tuple[AdapterFile, ...],
) -> None:
    """As numbers with scales say more than a name; an empty list says nothing."""
    with scripted(files) as (server, engine):
        for lora, wanted in ((SECOND, ((1, 0.5),)), (NONE, ()), ([], ((0, 1.0),))):
            asked(server, "/v1/chat/completions", "dure-demo:1", lora=lora)
            assert engine.requests[-1].adapters == wanted


def test_lists_of_models_have_each_adapter(files: tuple[AdapterFile, ...]) -> None:
    """Where clients look for what they can choose; names that come twice get their number."""
    same = AdapterFile(files[0].path, 0.5)
    with scripted((*files, same)) as (server, engine):
        names = ["dure-demo", "dure-demo:1", "dure-demo:2", "dure-demo:1-2"]
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [one["id"] for one in listed] == names
        assert [one.get("parent") for one in listed] == [None, *["dure-demo"] * 3]
        tags = httpx.get(f"{server.url}/api/tags").json()["models"]
        assert [one["name"] for one in tags] == names
        for name in names:
            assert httpx.get(f"{server.url}/v1/models/{name}").json()["id"] == name
            assert httpx.post(f"{server.url}/api/show", json={"model": name}).status_code == 200
        asked(server, "/api/chat", "dure-demo:1-2")
        assert engine.requests[-1].adapters == ((2, 0.5),)


def test_an_adapter_by_name_writes_what_it_writes_by_number(server: Served) -> None:
    """On the real engine: the model with the second adapter alone, at its whole strength."""
    by_name = said(server, None, model="dure-demo:2")
    assert by_name["content"] == said(server, [{"id": 1, "scale": 1.0}])["content"]
    assert by_name["content"] != said(server, None)["content"]


def test_a_server_without_adapters_says_how_to_get_one() -> None:
    """A request that names one is refused with the cure; an empty list asks for nothing."""
    with served(state(ScriptedEngine(), ())) as server:
        assert httpx.get(f"{server.url}/lora-adapters").json() == []
        assert said(server, [])["content"]
        answer = httpx.post(f"{server.url}/completion", json={**BODY, "lora": FIRST})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == (
            "lora: there is no adapter 0: start the server with --lora FILE"
        )
