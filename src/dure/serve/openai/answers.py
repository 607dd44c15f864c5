"""The objects that answers are made of, as the OpenAPI document describes them.

Only for the document: answers are written directly, and a test compares them with these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ChatCompletion",
    "Completion",
    "Embeddings",
    "ErrorBody",
    "Health",
    "InputTokens",
    "Model",
    "ModelList",
    "NativeCompletion",
    "Prompt",
    "Properties",
    "Slot",
    "Text",
    "Tokens",
    "documented",
]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorObject(_Open):
    """What went wrong. n_prompt_tokens, n_ctx and progress come along where they explain it."""

    code: int
    message: str
    type: str
    param: str | None = None


class ErrorBody(_Answer):
    """Every error of this API."""

    error: ErrorObject


class PromptDetails(_Answer):
    cached_tokens: int


class CompletionDetails(_Answer):
    reasoning_tokens: int


class Usage(_Answer):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimingFigures(_Answer):
    """llama-server's figures, milliseconds; compute and sync are those of the decode steps."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int = 0
    draft_n_accepted: int = 0
    queue_ms: float
    compute_ms: float
    sync_ms: float


class TopLogprob(_Answer):
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Answer):
    content: list[TokenLogprobs]
    refusal: None


class CalledFunction(_Answer):
    name: str
    arguments: str


class CalledTool(_Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(_Answer):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(_Answer):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Verbose(_Answer):
    prompt: str


class _Head(_Answer):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_Head):
    """An answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    timings: TimingFigures
    verbose: Annotated[Verbose | None, Field(alias="__verbose")] = None


class TextLogprobs(_Answer):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Answer):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(_Head):
    """Continuations of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage
    timings: TimingFigures
    verbose: Annotated[Verbose | None, Field(alias="__verbose")] = None


class NativeCompletion(_Open):
    """llama-server's own answer to /completion; with `response_fields`, only these."""


class InputTokens(_Answer):
    """How long a prompt is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Model(_Open):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Open):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class Embedding(_Answer):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="numbers, or base64 of float32")]


class EmbeddingUsage(_Answer):
    prompt_tokens: int
    total_tokens: int


class Embeddings(_Answer):
    """One vector of length 1 for each input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokens(_Answer):
    """Token ids; with `with_pieces` objects of id and piece (text, or bytes that are no text)."""

    tokens: list[Any]


class Prompt(_Answer):
    """A conversation as the model reads it."""

    prompt: str


class Text(_Answer):
    """The text of tokens."""

    content: str


class Health(_Answer):
    """Requests are answered."""

    status: Literal["ok"]


class Properties(_Open):
    """llama-server's properties of a server."""

    total_slots: int
    model_path: str
    chat_template: str
    default_generation_settings: dict[str, Any]


class Slot(_Open):
    """Room for one answer."""

    id: int
    n_ctx: int
    is_processing: bool


# What the guards before every route answer, where they are set up.
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


def documented(
    answer: Any, *, stream: bool = False, alias: bool = False, errors: dict[int, str] | None = None
) -> dict[str, Any]:
    """The arguments of a route that document it. alias: the same as another route, left unlisted."""
    responses: dict[int | str, Any] = {
        status: {"model": ErrorBody, "description": text}
        for status, text in (ERRORS if errors is None else errors).items()
    }
    ok: dict[str, Any] = {"model": answer, "description": "the answer"}
    if stream:
        ok["description"] = "the answer; with `stream` server-sent events, the last `[DONE]`"
        ok["content"] = {"text/event-stream": {"schema": {}}}
    responses[200] = ok
    return {"responses": responses, "response_model": None, "include_in_schema": not alias}
