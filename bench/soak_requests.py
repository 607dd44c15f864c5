"""What the clients of other APIs send in a soak: one kind of request for each.

Knows each API's body, and how its stream ends. Refuses to know who sends it, and when.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serve_client import Body
from serve_load import WORDS

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TELL = "Return the weather of a place."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request. body: of one, which streams. ends: a whole stream contains one of these."""

    path: str
    body: Callable[[random.Random], Body]
    ends: tuple[bytes, ...]


def _text(random_: random.Random) -> str:
    return f"{random_.randrange(1 << 20)} " + " ".join(
        random_.choices(WORDS, k=random_.randint(4, 120))
    )


def _chat(random_: random.Random, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": random_.choice(("Be brief.", "You help at harvest."))},
        {"role": "user", "content": _text(random_)},
    ]
    return {"model": "bench", "stream": True, "messages": messages,
            "max_tokens": random_.choice((8, 32, 96)), **more}  # fmt: skip


def _function(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"place": {"type": "string", "maxLength": 16}}}
    return {"name": name, "description": TELL, "parameters": parameters}


def _chat_with_tools(random_: random.Random) -> Body:
    tools = [{"type": "function", "function": _function(f"weather_{i}")} for i in range(8)]
    return _chat(random_, tools=tools, tool_choice=random_.choice(("auto", "required")))


def _chat_in_json(random_: random.Random) -> Body:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
    }
    return _chat(random_, response_format=wanted)


def _responses(random_: random.Random) -> Body:
    return {"model": "bench", "stream": True, "input": _text(random_), "max_output_tokens": 32}


def _messages(random_: random.Random) -> Body:
    tools = [{"name": "weather", "description": TELL, "input_schema": SCHEMA}]
    return {"model": "bench", "stream": True, "max_tokens": 32, "system": "Be brief.",
            "messages": [{"role": "user", "content": _text(random_)}],
            **({"tools": tools} if random_.random() < 0.5 else {})}  # fmt: skip


def _ollama_chat(random_: random.Random) -> Body:
    messages = [{"role": "user", "content": _text(random_)}]
    wanted = {"format": "json"} if random_.random() < 0.3 else {}
    return {"model": "bench", "messages": messages, "options": {"num_predict": 32}, **wanted}


def _ollama_generate(random_: random.Random) -> Body:
    return {"model": "bench", "prompt": _text(random_), "options": {"num_predict": 32}}


_DONE, _OLLAMA_DONE = (b"[DONE]",), (b'"done":true', b'"done": true')

KINDS = (
    Kind("/v1/chat/completions", _chat, _DONE),
    Kind("/v1/chat/completions", _chat_with_tools, _DONE),
    Kind("/v1/chat/completions", _chat_in_json, _DONE),
    Kind("/v1/chat/completions", lambda random_: _chat(random_, n=3), _DONE),
    Kind("/v1/responses", _responses, (b"response.completed", b"response.incomplete")),
    Kind("/v1/messages", _messages, (b"message_stop",)),
    Kind("/api/chat", _ollama_chat, _OLLAMA_DONE),
    Kind("/api/generate", _ollama_generate, _OLLAMA_DONE),
)
