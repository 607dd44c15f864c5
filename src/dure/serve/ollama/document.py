"""The objects of an answer as the OpenAPI document describes them. Answers are written directly."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from dure.serve.openai.answers import ERRORS

__all__ = [
    "Chatted",
    "Described",
    "Embedded",
    "Embedding",
    "Generated",
    "Models",
    "Version",
    "documented",
]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ChatMessage(_Open):
    """What the model says; thinking and tool_calls where there are any."""

    role: str
    content: str


class _Line(_Open):
    model: str
    created_at: str
    done: bool


class Chatted(_Line):
    """A line of an answer to a conversation; the last has done_reason and durations (ns)."""

    message: ChatMessage


class Generated(_Line):
    """A line of an answer to a prompt; the last has done_reason and durations (ns)."""

    response: str


class Embedded(BaseModel):
    """Vectors of length 1."""

    model_config = ConfigDict(extra="allow")
    model: str
    embeddings: list[list[float]]


class Embedding(BaseModel):
    """A vector."""

    embedding: list[float]


class Model(_Open):
    """A model that is served."""

    name: str
    model: str
    size: int
    digest: str


class Models(BaseModel):
    """The models there are."""

    models: list[Model]


class Described(_Open):
    """All that is known of a model."""

    template: str
    capabilities: list[str]
    model_info: dict[str, Any]


class Version(BaseModel):
    """The release of Ollama whose API this is."""

    version: str


class OllamaError(BaseModel):
    """Every error of this API."""

    error: str


_ERRORS = ERRORS | {404: "there is no such model", 501: "the model that runs does not embed"}


def documented(answer: type[BaseModel], *, stream: bool = False) -> dict[str, Any]:
    """The arguments of a route that document it."""
    responses: dict[int | str, Any] = {
        status: {"model": OllamaError, "description": text} for status, text in _ERRORS.items()
    }
    ok: dict[str, Any] = {"model": answer, "description": "the answer"}
    if stream:
        ok["description"] = "lines of JSON; with `stream` false the answer in one object"
        ok["content"] = {"application/x-ndjson": {"schema": {}}}
    return {"responses": {200: ok, **responses}, "response_model": None}
