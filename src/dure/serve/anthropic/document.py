"""The objects of an answer as the OpenAPI document describes them. Answers are written directly."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from dure.serve.dialect.documentation import DocumentedDialect, OpenObject

__all__ = ["ANTHROPIC_STYLE", "MessageObject", "TokenCount"]


class ContentBlock(OpenObject):
    """Text, thoughts or a call of a tool."""

    type: Literal["text", "thinking", "tool_use"]


class MessageUsage(OpenObject):
    """Tokens of an answer; those of the prompt are input_tokens and cache_read_input_tokens."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class MessageObject(OpenObject):
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


ANTHROPIC_STYLE = DocumentedDialect(AnthropicError, "the answer; with `stream` server-sent events")
