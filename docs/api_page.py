"""Writes the addresses of docs/api.md from the server's own OpenAPI document.

Knows shapes of that document. Knows no server: the application is built without a model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

from dure.serve import anthropic, ollama, responses
from dure.serve.app import build_app
from dure.serve.state import ServerState

Schema: TypeAlias = Mapping[str, Any]

TITLES = {
    "chat": "Chats, as OpenAI",
    "completions": "Texts, as OpenAI",
    "Responses": "Responses, as OpenAI",
    "Anthropic": "Messages, as Anthropic",
    "Ollama": "As Ollama",
    "llama-server": "As llama-server",
    "embeddings": "Embeddings and reranking",
    "models": "Models",
    "adapters": "Adapters",
    "tokens": "Tokens",
    "server": "The server itself",
}
"""By the document's tag, in the page's order."""

_KINDS = {"integer": "whole number", "boolean": "true or false", "string": "text"}
_UNBOUNDED = 1e6  # a higher limit says only that there is one
_PLURALS = {"object", "text", "whole number"}


def document() -> dict[str, Any]:
    """Return the OpenAPI document that every server serves."""
    state = cast(ServerState, SimpleNamespace(strict=False))  # asked at a request only
    app = build_app(state, [responses.router(), anthropic.router(), ollama.router()])
    found: dict[str, Any] = app.openapi()
    return found


def addresses() -> str:
    """Return every address: what it does, what it takes, and what it answers."""
    found = document()
    schemas: Mapping[str, Schema] = found["components"]["schemas"]
    by_tag = defaultdict(list)
    first: dict[str, str] = {}  # body: the address that was shown with its fields
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method.upper(), path, operation))
    parts = []
    for tag in sorted(by_tag, key=[*TITLES].index):
        parts.append(f"## {TITLES[tag]}")
        for method, path, operation in by_tag[tag]:
            lines = [f"### {method} {path}", "", operation["description"]]
            lines += ["", *_body(operation, path, schemas, first)]
            lines.append(f"Answers {_answer(operation)}.")
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def statuses() -> str:
    """Return the statuses that are no success, and when they come."""
    whys: dict[str, list[str]] = defaultdict(list)
    for methods in document()["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status != "200" and response["description"] not in whys[status]:
                    whys[status].append(response["description"])
    rows = [f"| {status} | {'; or '.join(whys[status])} |" for status in sorted(whys)]
    return "\n".join(["| status | when |", "|---|---|", *rows])


def _body(
    operation: Schema, path: str, schemas: Mapping[str, Schema], first: dict[str, str]
) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("schema")
    if not body:
        return
    name = _named(body)
    if not name:
        yield f"Takes {_kind(body, schemas)}.\n"
    elif name in first:
        yield f"Takes the fields of `{first[name]}`.\n"
    else:
        first[name] = path
        yield from ("| field | takes | |", "|---|---|---|")
        yield from _fields(schemas[name], schemas)
        yield ""


def _fields(schema: Schema, schemas: Mapping[str, Schema]) -> Iterator[str]:
    needed = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        words = [field.get("description", "")]
        words += ["needed"] if name in needed else []
        note = "; ".join(word for word in words if word)
        yield f"| `{name}` | {_kind(field, schemas)} | {note} |"


def _kind(schema: Schema, schemas: Mapping[str, Schema]) -> str:
    """Say which values a schema takes, in words."""
    if several := schema.get("anyOf") or schema.get("oneOf"):
        kinds = [_kind(one, schemas) for one in several if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if name := _named(schema):
        return _kind(schemas[name], schemas) if "enum" in schemas[name] else "object"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if schema.get("type") == "array":
        inner = _kind(schema.get("items", {}), schemas)
        return f"list of {inner}s" if inner in _PLURALS else "list"
    kind = str(schema.get("type", "anything"))
    return _KINDS.get(kind, kind) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high < _UNBOUNDED:
        return f", {low:g} to {high:g}" if low is not None else f", to {high:g}"
    return f", {low:g} or more" if low is not None else ""


def _named(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _answer(operation: Schema) -> str:
    answer = operation["responses"]["200"]
    name = _named(answer["content"].get("application/json", {}).get("schema", {}))
    how = str(answer["description"]).removeprefix("the answer").lstrip("; ")
    return "; ".join(word for word in (f"`{name}`" if name else "a list", how) if word)
