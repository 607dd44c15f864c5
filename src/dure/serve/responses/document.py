"""The objects of an answer as the OpenAPI document describes them. Answers are written directly."""

from __future__ import annotations

from typing import Any, Literal

from dure.serve.dialect.documentation import DocumentedDialect, ErrorBody, OpenObject

__all__ = ["RESPONSES_STYLE", "ResponseObject"]


class ResponseItem(OpenObject):
    """A message, a reasoning or a call of a function."""

    type: Literal["message", "reasoning", "function_call"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]


class ResponseUsage(OpenObject):
    """Tokens of an answer."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class ResponseObject(OpenObject):
    """An answer, with the fields of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[ResponseItem]
    usage: ResponseUsage
    error: None
    incomplete_details: dict[str, Any] | None


RESPONSES_STYLE = DocumentedDialect(ErrorBody, "the answer; with `stream` server-sent events")
