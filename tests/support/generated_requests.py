"""Makes requests of all kinds from a seed: dialects, targets, keys, models, tools, images, and lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TOOL = {"type": "function", "function": {"name": "ring", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CHATS = ("/v1/chat/completions", "/chat/completions", "/v1/messages", "/api/chat", "/v1/responses")
TEXTS = ("/v1/completions", "/completion", "/api/generate")
OTHERS = (
    "/v1/embeddings",
    "/api/embed",
    "/tokenize",
    "/apply-template",
    "/v1/messages/count_tokens",
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A request. key: whose it is."""

    path: str
    body: dict[str, Any]
    key: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What requests are made of. near: words that are about as long as a context."""

    models: Sequence[str]
    targets: Sequence[str]
    keys: Sequence[str]
    near: int


def generated(chance: random.Random, choices: Choices) -> Generated:
    """Return the next request of a seed; answers have a few tokens."""
    path = chance.choice(chance.choices((CHATS, TEXTS, OTHERS), (6, 3, 2))[0])
    body = {"model": chance.choice(choices.models), **_prompt(chance, choices, path)}
    if path in (*CHATS, *TEXTS):
        body |= _limits(path, chance.choice((1, 2, 4, 8)))
        body |= {"stream": chance.random() < 0.5}
    if path == "/v1/chat/completions" and chance.random() < 0.15:
        body["tools"] = [TOOL]
    headers = {"x-route-private": "house"} if chance.random() < 0.1 else {}
    if chance.random() < 0.1:
        headers["x-route-target"] = chance.choice(choices.targets)
    return Generated(path=path, body=body, key=chance.choice(choices.keys), headers=headers)


def _prompt(chance: random.Random, choices: Choices, path: str) -> dict[str, Any]:
    near = chance.randrange(choices.near // 2, choices.near * 3 // 2)
    n_words = chance.choices((3, 40, near), (20, 10, 1))[0]
    text = " ".join(chance.choice(("bell", "goat", "well", "hill")) for _ in range(n_words))
    messages = [{"role": "user", "content": text}]
    match path:
        case "/v1/responses" | "/v1/embeddings" | "/api/embed":
            return {"input": text}
        case "/tokenize":
            return {"content": text}
        case "/v1/chat/completions" if chance.random() < 0.05:
            return {"messages": [{"role": "user", "content": [IMAGE]}]}
        case _ if path in TEXTS:
            return {"prompt": text}
        case _:
            return {"messages": messages}


def _limits(path: str, most: int) -> dict[str, Any]:
    """Return the fields that limit an answer to so many tokens, and make it the same each time."""
    if path.startswith("/api/"):
        return {"options": {"num_predict": most, "temperature": 0, "seed": 1}}
    names = {"/v1/responses": "max_output_tokens", "/completion": "n_predict"}
    return {names.get(path, "max_tokens"): most, "temperature": 0}
