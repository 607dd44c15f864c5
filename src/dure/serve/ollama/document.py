"""The objects of an answer as the OpenAPI document describes them. Answers are written directly."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dure.serve.dialect.documentation import ERRORS, DocumentedDialect, OpenObject

__all__ = [
    "OLLAMA_STYLE",
    "Chatted",
    "Described",
    "Generated",
    "Models",
    "OllamaEmbedding",
    "OllamaEmbeddings",
    "Version",
]


class OllamaChatMessage(OpenObject):
    """What the model says; thinking and tool_calls if there are any."""

    role: str
    content: str


class _OllamaLine(OpenObject):
    model: str
    created_at: str
    done: bool


class Chatted(_OllamaLine):
    """A line of an answer to a conversation; the last has done_reason and durations (ns)."""

    message: OllamaChatMessage


class Generated(_OllamaLine):
    """A line of an answer to a prompt; the last has done_reason and durations (ns)."""

    response: str


class OllamaEmbeddings(OpenObject):
    """Vectors of length 1."""

    model: str
    embeddings: list[list[float]]


class OllamaEmbedding(BaseModel):
    """A vector."""

    embedding: list[float]


class OllamaModel(OpenObject):
    """A model that is served."""

    name: str
    model: str
    size: int
    digest: str


class Models(BaseModel):
    """The models there are."""

    models: list[OllamaModel]


class Described(OpenObject):
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
OLLAMA_STYLE = DocumentedDialect(
    OllamaError,
    "lines of JSON; with `stream` false the answer in one object",
    media_type="application/x-ndjson",
    errors=_ERRORS,
)
