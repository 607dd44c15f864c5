"""Documents routes: the errors that all may answer, and the shape of a dialect's answers.

Only for the OpenAPI document: answers are written directly, and tests compare them with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ERRORS",
    "GUARDED",
    "OPENAI_STYLE",
    "ClosedObject",
    "DocumentedDialect",
    "ErrorBody",
    "OpenObject",
]


class ClosedObject(BaseModel):
    """An object of an answer with these fields only."""

    model_config = ConfigDict(extra="forbid")


class OpenObject(BaseModel):
    """An object of an answer with these fields, and others."""

    model_config = ConfigDict(extra="allow")


class ErrorObject(OpenObject):
    """What went wrong. n_prompt_tokens, n_ctx and progress come along if they explain it."""

    code: int
    message: str
    type: str
    param: str | None = None


class ErrorBody(ClosedObject):
    """Every error of this API."""

    error: ErrorObject


# What the guards before every route answer, if they are set up.
GUARDED = {
    401: "the server wants an API key",
    429: "too many requests: try again after Retry-After seconds",
    500: "the model or the server failed",
    503: "the model is being loaded, or the server stops",
}
ERRORS = GUARDED | {
    400: "a parameter makes no sense; the prompt is longer than the context",
    408: "the body came too slowly",
    413: "the body is larger than the server takes",
}


@dataclass(frozen=True)
class DocumentedDialect:
    """How a dialect's routes are documented.

    error: the body of an error. stream: what is said of an answer that can be streamed.
    """

    error: type[BaseModel]
    stream: str
    media_type: str = "text/event-stream"
    errors: Mapping[int, str] = field(default_factory=lambda: ERRORS)

    def route(
        self,
        answer: Any,
        *,
        stream: bool = False,
        alias: bool = False,
        errors: Mapping[int, str] | None = None,
    ) -> dict[str, Any]:
        """Return the arguments of a route that document it.

        alias: it is the same as another route, and not listed. errors: instead of the dialect's.
        """
        responses: dict[int | str, Any] = {
            status: {"model": self.error, "description": text}
            for status, text in (self.errors if errors is None else errors).items()
        }
        ok: dict[str, Any] = {"model": answer, "description": "the answer"}
        if stream:
            ok["description"] = self.stream
            ok["content"] = {self.media_type: {"schema": {}}}
        responses[200] = ok
        return {"responses": responses, "response_model": None, "include_in_schema": not alias}


OPENAI_STYLE = DocumentedDialect(
    ErrorBody, "the answer; with `stream` server-sent events, the last `[DONE]`"
)
"""OpenAI's shape of errors, which is also that of addresses without a dialect of their own."""
