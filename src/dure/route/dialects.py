"""Reads just enough of a request to route it, in every dialect that `dure serve` speaks.

Knows which fields hold the prompt and the limits of an answer; the rest of a body is not looked at, and
goes on byte for byte. Refuses to know what becomes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dure.errors import UsageError

__all__ = ["AUTO", "DIALECTS", "SHOW", "Dialect", "RoutedRequest", "read_request"]

SHOW = "/api/show"  # Ollama's description of a model
AUTO = frozenset(
    {"", "auto", "auto:latest"}
)  # names of a model that leave the choice to the router
_IMAGES = re.compile(rb'"(?:image_url|input_image|images|image)"')
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True)
class Dialect:
    """How the requests of an address are read.

    prompt: the fields that hold it, in the order in which a model reads them. most: those that limit the
    answer, the first that is given counts; inside: the field that these are in. naming: those that name
    the model, the first that is given counts. answers: tokens are generated. count: the address that
    counts this prompt's tokens, "" if there is none.
    """

    name: str
    prompt: tuple[str, ...]
    most: tuple[str, ...] = ()
    inside: str = ""
    naming: tuple[str, ...] = ("model",)
    answers: bool = True
    count: str = ""


_CHAT = Dialect(
    "chat",
    ("tools", "functions", "messages"),
    ("max_completion_tokens", "max_tokens"),
    count="/v1/chat/completions/input_tokens",
)
_COMPLETION = Dialect("completion", ("prompt",), ("max_tokens", "n_predict"), count="/tokenize")
_EMBEDDING = Dialect("embedding", ("input", "content"), answers=False)
_RERANK = Dialect("rerank", ("query", "documents"), answers=False)
_RESPONSES = Dialect("responses", ("tools", "instructions", "input"), ("max_output_tokens",))
_MESSAGES = Dialect(
    "messages", ("tools", "system", "messages"), ("max_tokens",), count="/v1/messages/count_tokens"
)
_OLLAMA_CHAT = Dialect(
    "ollama-chat",
    ("tools", "messages"),
    ("num_predict",),
    inside="options",
    count="/v1/chat/completions/input_tokens",
)
_OLLAMA_GENERATE = Dialect(
    "ollama-generate", ("system", "prompt"), ("num_predict",), inside="options"
)
_INFILL = Dialect(
    "infill", ("input_extra", "input_prefix", "prompt", "input_suffix"), ("n_predict",)
)
_TOKENS = Dialect("tokens", ("prompt", "content", "tokens", "messages"), answers=False)

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": _CHAT,
    "/chat/completions": _CHAT,
    "/v1/completions": _COMPLETION,
    "/completions": _COMPLETION,
    "/completion": _COMPLETION,
    "/v1/responses": _RESPONSES,
    "/responses": _RESPONSES,
    "/v1/messages": _MESSAGES,
    "/api/chat": _OLLAMA_CHAT,
    "/api/generate": _OLLAMA_GENERATE,
    "/infill": _INFILL,
    "/v1/embeddings": _EMBEDDING,
    "/embeddings": _EMBEDDING,
    "/embedding": _EMBEDDING,
    "/api/embed": _EMBEDDING,
    "/api/embeddings": Dialect("embedding", ("prompt",), answers=False),
    "/v1/rerank": _RERANK,
    "/rerank": _RERANK,
    "/v1/reranking": _RERANK,
    "/reranking": _RERANK,
    "/tokenize": _TOKENS,
    "/detokenize": _TOKENS,
    "/apply-template": _TOKENS,
    "/v1/messages/count_tokens": Dialect("tokens", _MESSAGES.prompt, answers=False),
    "/v1/chat/completions/input_tokens": _TOKENS,
    "/chat/completions/input_tokens": _TOKENS,
    SHOW: Dialect("show", (), naming=("model", "name"), answers=False),
}
"""The addresses that are routed."""


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        parts = self.content or ""
        return parts if isinstance(parts, str) else " ".join(part.text for part in parts)


class RoutedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the router sees it. path: its address.

    model: "" if any will do; named: as the body has it. prompt: the bytes that hold it. most: tokens of
    the answer at most, None if it does not say.
    """

    path: str
    dialect: Dialect
    model: str
    named: str
    target: str
    prompt: bytes
    most: int | None
    tools: bool
    vision: bool
    fields: Mapping[str, msgspec.Raw]
    raw: bytes

    def body(self, model: str) -> bytes:
        """Return the body for an upstream that calls the model so: as it came, but for the name."""
        if not model or model == self.named:
            return self.raw
        return msgspec.json.encode({**self.fields, "model": model})

    def question(self) -> str:
        """Return what is asked: the text of the last message of a user, or the whole prompt."""
        for name in ("messages", "input"):
            try:
                said = msgspec.json.decode(self.fields.get(name, b"[]"), type=list[_Message])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if texts := [one.text for one in said if one.role == "user"]:
                return texts[-1]
        return self.prompt.decode(errors="replace")

    def counted(self) -> bytes:
        """Return the body that asks how many tokens the prompt is."""
        names = (*self.dialect.prompt, "model")
        return msgspec.json.encode(
            {name: self.fields[name] for name in names if name in self.fields}
        )


def read_request(path: str, body: bytes, targets: Sequence[str], target: str = "") -> RoutedRequest:
    """Return what a request asks for. targets: what may stand behind the model's name, as `model@desk`.

    target: that a header names. Raises UsageError if the body is no JSON object, or its model no text.
    """
    dialect = DIALECTS[path]
    fields = _fields(body)
    named = next((found for name in dialect.naming if (found := _value(fields, name, ""))), "")
    if not isinstance(named, str):
        raise UsageError("model is no text", "give the name of a model, or leave it out")
    model, separator, behind = named.rpartition("@")
    if not (separator and behind in targets):
        model, behind = named, ""
    prompt = b"\n".join(bytes(fields[name]) for name in dialect.prompt if name in fields)
    return RoutedRequest(
        path=path,
        dialect=dialect,
        model="" if model in AUTO else model,
        named=named,
        target=target or behind,
        prompt=prompt,
        most=_most(dialect, fields),
        tools=bytes(fields.get("tools", b"")) not in (b"", b"null", b"[]"),
        vision=_IMAGES.search(prompt) is not None,
        fields=fields,
        raw=body,
    )


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError("the body is no JSON object", "send one, in UTF-8") from None


def _value(fields: Mapping[str, msgspec.Raw], name: str, otherwise: Any) -> Any:
    if name not in fields:
        return otherwise
    try:
        found = msgspec.json.decode(fields[name])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError(f"{name} is no JSON value", "send JSON, in UTF-8") from None
    return otherwise if found is None else found


def _most(dialect: Dialect, fields: Mapping[str, msgspec.Raw]) -> int | None:
    if not dialect.answers:
        return 0
    values = _value(fields, dialect.inside, {}) if dialect.inside else fields
    for name in dialect.most:
        most = _value(fields, name, None) if not dialect.inside else _inner(values, name)
        if isinstance(most, int) and most > 0:
            return most
    return None


def _inner(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, dict) else None
