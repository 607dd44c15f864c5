"""Streams of long prompts, read by the official clients: events come that add nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
import pytest

from dure.cli.terminal.server_parameters import Queueing
from dure.http.settings import ServerSettings
from dure.http.sse import Silence
from dure.serve import anthropic as anthropic_dialect
from dure.serve import ollama as ollama_dialect
from dure.serve import responses
from tests.support.serving import WAIT_S, Script, ScriptedEngine, served, state_of

SAID = "Hello there."
ASKED: Any = [{"role": "user", "content": "Hi."}]
N_EVENTS = 3


@dataclass
class SlowServer:
    """A server that says nothing of its answer until `go`."""

    url: str
    go: threading.Event


@pytest.fixture
def slow() -> Iterator[SlowServer]:
    """Events come after moments, comments never."""
    engine, go = ScriptedEngine(), threading.Event()
    engine.scripts = [Script(SAID, hold=go, silent=True)]
    state = state_of(engine, silence=Silence(comment_s=WAIT_S, event_s=0.05))
    dialects = [responses.router(), anthropic_dialect.router(), ollama_dialect.router()]
    with served(state, dialects) as server:
        try:
            yield SlowServer(server.url, go)
        finally:
            go.set()


def openai_client(slow: SlowServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{slow.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0)


def test_a_chat_gets_empty_deltas(slow: SlowServer) -> None:
    """The helper that adds up a stream takes them too; each of several answers has one beginning."""
    deltas, whole = [], ""
    with (
        openai_client(slow) as client,
        client.chat.completions.stream(model="any", messages=ASKED) as stream,
    ):
        for event in stream:
            if event.type == "chunk":
                delta = event.chunk.choices[0].delta
                deltas.append((delta.role, delta.content))
                if len(deltas) == N_EVENTS:
                    slow.go.set()
        whole = stream.get_final_completion().choices[0].message.content or ""
    assert deltas[:N_EVENTS] == [("assistant", None), (None, None), (None, None)]
    assert [role for role, _ in deltas if role] == ["assistant"]
    assert whole == SAID


def test_a_completion_gets_empty_texts(slow: SlowServer) -> None:
    texts = []
    with openai_client(slow) as client:
        for chunk in client.completions.create(model="any", prompt="Hi.", stream=True):
            texts.append(chunk.choices[0].text)
            if len(texts) == N_EVENTS:
                slow.go.set()
    assert texts[:N_EVENTS] == [""] * N_EVENTS
    assert "".join(texts) == SAID


def test_a_response_is_in_progress(slow: SlowServer) -> None:
    """Its events are numbered without gaps, and it is announced once."""
    kinds, numbers, whole = [], [], ""
    with (
        openai_client(slow) as client,
        client.responses.stream(model="any", input="Hi.") as stream,
    ):
        for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
            if kinds.count("response.in_progress") == N_EVENTS:
                slow.go.set()
        whole = stream.get_final_response().output_text
    assert kinds[: 1 + N_EVENTS] == ["response.created", *["response.in_progress"] * N_EVENTS]
    assert kinds.count("response.created") == 1
    assert numbers == list(range(len(numbers)))
    assert whole == SAID


class Watched(httpx2.SyncByteStream):
    """An answer's bytes, which let the server go on once some pings have come."""

    def __init__(self, stream: httpx2.SyncByteStream, slow: SlowServer) -> None:
        self._stream, self._slow = stream, slow

    def __iter__(self) -> Iterator[bytes]:
        n_pings = 0
        for block in self._stream:
            n_pings += block.count(b"event: ping")
            if n_pings >= N_EVENTS:
                self._slow.go.set()
            yield block

    def close(self) -> None:
        self._stream.close()


def test_a_message_gets_pings(slow: SlowServer) -> None:
    """Anthropic's client swallows them, and adds up the rest."""

    def watch(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = Watched(response.stream, slow)

    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch]})
    with (
        anthropic.Anthropic(
            base_url=slow.url, api_key="none", max_retries=0, http_client=http
        ) as client,
        client.messages.stream(model="any", max_tokens=50, messages=ASKED) as stream,
    ):
        assert stream.get_final_text() == SAID
    assert slow.go.is_set()


@pytest.mark.parametrize("route", ["chat", "generate"])
def test_ollama_gets_empty_lines_of_an_answer(slow: SlowServer, route: str) -> None:
    """They are not done, and say nothing."""
    texts = []
    with ollama.Client(slow.url) as client:
        lines: Any = (
            client.chat("any", ASKED, stream=True)
            if route == "chat"
            else client.generate("any", "Hi.", stream=True)
        )
        for line in lines:
            texts.append(line.message.content if route == "chat" else line.response)
            if len(texts) == N_EVENTS:
                assert not line.done
                slow.go.set()
    assert texts[:N_EVENTS] == [""] * N_EVENTS
    assert "".join(texts) == SAID


def test_llama_servers_own_stream_gets_empty_chunks(slow: SlowServer) -> None:
    texts = []
    asked = {"prompt": "Hi.", "stream": True}
    with httpx.stream("POST", f"{slow.url}/completion", json=asked, timeout=WAIT_S) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                texts.append(json.loads(line.removeprefix("data: "))["content"])
                if len(texts) == N_EVENTS:
                    slow.go.set()
    assert texts[:N_EVENTS] == [""] * N_EVENTS
    assert "".join(texts) == SAID


def test_comments_go_on_between_the_events() -> None:
    """Proxies that close what is silent for some seconds see those."""
    engine, go = ScriptedEngine(), threading.Event()
    engine.scripts = [Script(SAID, hold=go, silent=True)]
    state = state_of(engine, silence=Silence(comment_s=0.05, event_s=0.5))
    asked = {"messages": ASKED, "stream": True}
    with served(state) as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=asked, timeout=WAIT_S) as stream:
            seen = []
            for line in stream.iter_lines():
                seen.append(line[:1])
                if seen.count("d") == 2 + 1:  # the role, and two that are empty
                    go.set()
    assert seen.index(":") < len(seen) - seen[::-1].index("d")
    assert seen.count(":") >= 2


def test_no_stream_is_silent_for_longer_than_strict_clients_wait() -> None:
    """Half a minute, whichever way a server is started, unless it is told otherwise."""
    defaults = (Silence().event_s, ServerSettings().keep_alive_event_s, Queueing().keep_alive_event)
    assert max(defaults) <= 30
