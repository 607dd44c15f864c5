"""The objects of an answer as the OpenAPI document describes them. Answers are written directly."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dure.serve.openai.answers import ERRORS

__all__ = ["MessageObject", "TokenCount", "documented"]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ContentBlock(_Open):
    """Text, thoughts or a call of a tool."""

    type: Literal["text", "thinking", "tool_use"]


class MessageUsage(BaseModel):
    """Tokens of an answer; those of the prompt are input_tokens and cache_read_input_tokens."""

    model_config = ConfigDict(extra="allow")
    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class MessageObject(_Open):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    """How many tokens a prompt has."""

    input_tokens: int


class AnthropicErrorObject(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """Every error of this API."""

    type: Literal["error"]
    error: AnthropicErrorObject


def documented(answer: type[BaseModel], *, stream: bool = False) -> dict[str, Any]:
    """The arguments of a route that document it."""
    responses: dict[int | str, Any] = {
        status: {"model": AnthropicError, "description": text} for status, text in ERRORS.items()
    }
    ok: dict[str, Any] = {"model": answer, "description": "the answer"}
    if stream:
        ok["description"] = "the answer; with `stream` server-sent events"
        ok["content"] = {"text/event-stream": {"schema": {}}}
    return {"responses": {200: ok, **responses}, "response_model": None}
