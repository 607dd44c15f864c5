"""Texts that end the process that reads them: the request is refused, wherever the text stands in it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from dure.chat.format import ChatFormatter, PreparedChat
from dure.chat.reading import TextTools
from dure.chat.task import ChatTask
from dure.isolation import Isolation
from dure.model.vocabulary import Vocabulary
from dure.serve import anthropic, ollama, responses
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from tests.support.serving import ScriptedEngine, Served, served, vocabulary

FATAL = "fatal"
ASKED = {"role": "user", "content": "x"}
ENDS = {"role": "user", "content": FATAL}
SCHEMA = {"type": "object", "properties": {FATAL: {"type": "string"}}}
TOOL = {"name": "ring", "description": FATAL, "parameters": {}}
FUNCTION = {"type": "function", "function": TOOL}
GRAMMAR = f'root ::= "{FATAL}"'


def end_if_fatal(text: str) -> None:
    if FATAL in text:
        os.kill(os.getpid(), signal.SIGKILL)


class FragileVocabulary:
    """The demo model's vocabulary, but a text or grammar with FATAL ends the process."""

    def tokenize(self, text: str, **options: Any) -> list[int]:
        end_if_fatal(text)
        return vocabulary().tokenize(text, **options)

    def accepts_grammar(self, gbnf: str) -> bool:
        end_if_fatal(gbnf)
        return vocabulary().accepts_grammar(gbnf)

    def __getattr__(self, name: str) -> Any:
        return getattr(vocabulary(), name)


class FragileFormatter(ChatFormatter):
    """As where a template, a schema or a grammar is what ends the process."""

    def prepare(self, task: ChatTask) -> PreparedChat:
        end_if_fatal(repr(task))
        return super().prepare(task)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server with every dialect."""
    fragile = cast(Vocabulary, FragileVocabulary())
    with Isolation(TextTools(fragile, FragileFormatter(vocabulary()))) as texts:
        state = ServerState(ServedModel(ScriptedEngine(), vocabulary(), texts, "demo"))
        routers = [responses.router(), anthropic.router(), ollama.router()]
        with served(state, routers) as running:
            yield running


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": FATAL}),
        ("/v1/completions", {"prompt": "x", "logit_bias": {FATAL: 1}}),
        ("/v1/completions", {"prompt": "x", "logit_bias": [[FATAL, False]]}),
        (
            "/v1/completions",
            {"prompt": "x", "dry_multiplier": 1, "dry_sequence_breakers": ["\n", FATAL]},
        ),
        ("/v1/completions", {"prompt": "x", "grammar": GRAMMAR}),
        ("/v1/chat/completions", {"messages": [ENDS]}),
        ("/v1/chat/completions", {"messages": [ASKED], "tools": [FUNCTION]}),
        ("/v1/chat/completions", {"messages": [ASKED], "grammar": GRAMMAR}),
        (
            "/v1/chat/completions",
            {
                "messages": [ASKED],
                "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            },
        ),
        ("/v1/chat/completions", {"messages": [ASKED], "chat_template_kwargs": {FATAL: 1}}),
        ("/apply-template", {"messages": [ENDS]}),
        ("/tokenize", {"content": FATAL}),
        ("/v1/embeddings", {"input": ["x", FATAL]}),
        ("/v1/responses", {"input": FATAL}),
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", **TOOL}]}),
        ("/v1/messages", {"messages": [ENDS], "max_tokens": 1}),
        (
            "/v1/messages",
            {
                "messages": [ASKED],
                "max_tokens": 1,
                "tools": [{"name": "ring", "input_schema": SCHEMA}],
            },
        ),
        ("/v1/messages/count_tokens", {"messages": [ENDS]}),
        ("/api/chat", {"model": "m", "messages": [ENDS]}),
        ("/api/chat", {"model": "m", "messages": [ASKED], "tools": [FUNCTION]}),
        ("/api/chat", {"model": "m", "messages": [ASKED], "format": SCHEMA}),
        ("/api/generate", {"model": "m", "prompt": FATAL}),
        ("/api/generate", {"model": "m", "prompt": FATAL, "raw": True}),
        ("/api/embed", {"model": "m", "input": FATAL}),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
def test_a_text_that_ends_its_reader_is_refused(
    server: Served, path: str, body: dict[str, Any]
) -> None:
    """In its dialect's form; the server lives, and answers the next request of each kind."""
    engine = cast(ScriptedEngine, server.state.model.engine)
    engine.requests.clear()
    with httpx.Client(base_url=server.url, timeout=60) as http:
        refused = http.post(path, json=body)
        assert refused.status_code == 400, refused.text
        error = refused.json()["error"]
        assert "ended its process" in (error if path.startswith("/api") else error["message"]), (
            error
        )
        assert ("type" in refused.json()) == path.startswith("/v1/messages")
        assert engine.requests == []
        words = {"logit_bias": {"y": 1}, "dry_sequence_breakers": ["."]}
        assert http.post("/v1/completions", json={"prompt": "x", **words}).status_code == 200
        assert http.post("/v1/chat/completions", json={"messages": [ASKED]}).status_code == 200
