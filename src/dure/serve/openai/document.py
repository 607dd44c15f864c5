"""The objects that answers are made of, as the OpenAPI document describes them.

Only for the document: answers are written directly, and a test compares them with these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dure.serve.dialect.documentation import ClosedObject, OpenObject

__all__ = [
    "ChatCompletion",
    "Completion",
    "Embeddings",
    "HealthStatus",
    "InputTokens",
    "ModelList",
    "NativeCompletion",
    "OpenAIModel",
    "Prompt",
    "Properties",
    "Ranking",
    "SlotStatus",
    "Text",
    "TokenizerInfo",
    "Tokens",
]


class PromptDetails(ClosedObject):
    cached_tokens: int


class CompletionDetails(ClosedObject):
    reasoning_tokens: int


class Usage(ClosedObject):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimingFigures(ClosedObject):
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


class TopLogprob(ClosedObject):
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ClosedObject):
    content: list[TokenLogprobs]
    refusal: None


class OpenAICalledFunction(ClosedObject):
    name: str
    arguments: str


class CalledTool(ClosedObject):
    id: str
    type: Literal["function"]
    function: OpenAICalledFunction


class OpenAIChatMessage(ClosedObject):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None
    function_call: OpenAICalledFunction | None = None


class ChatChoice(ClosedObject):
    index: int
    message: OpenAIChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class Verbose(ClosedObject):
    prompt: str


class _Head(ClosedObject):
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


class TextLogprobs(ClosedObject):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(ClosedObject):
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


class NativeCompletion(OpenObject):
    """llama-server's own answer to /completion; with `response_fields`, only these."""


class InputTokens(ClosedObject):
    """How long a prompt is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class OpenAIModel(OpenObject):
    """A model that is served, with the fields of OpenAI's API and of Anthropic's.

    With an adapter (LoRA) it has an entry of its own, whose `parent` is the model alone.
    """

    id: str
    object: Literal["model"]
    type: Literal["model"]
    display_name: str
    created: int
    created_at: str
    owned_by: str


class ModelList(OpenObject):
    """The models that are served."""

    object: Literal["list"]
    data: list[OpenAIModel]
    has_more: Literal[False]
    first_id: str
    last_id: str


class OpenAIEmbedding(ClosedObject):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="numbers, or base64 of float32")]


class EmbeddingUsage(ClosedObject):
    prompt_tokens: int
    total_tokens: int


class Embeddings(ClosedObject):
    """One vector of length 1 for each input."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: EmbeddingUsage


class Tokens(ClosedObject):
    """Token ids; with `with_pieces` objects of id and piece (text, or bytes that are no text)."""

    tokens: list[Any]
    count: int


class Prompt(ClosedObject):
    """A conversation as the model reads it."""

    prompt: str


class Text(ClosedObject):
    """The text of tokens, under two names."""

    content: str
    prompt: str


class TokenizerInfo(ClosedObject):
    """How texts begin and end, and how a conversation is written."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str | None


class RankedDocument(ClosedObject):
    """What a document is worth; its index is that of the request."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RankingUsage(ClosedObject):
    prompt_tokens: int
    total_tokens: int


class Ranking(ClosedObject):
    """Documents, the best first."""

    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: RankingUsage


class LoadedAdapter(ClosedObject):
    """An adapter (LoRA), and the scale of requests that do not say one."""

    id: int
    path: str
    scale: float


class AdaptersChanged(ClosedObject):
    """The scales hold from the next request on."""

    success: Literal[True]


class AdapterAdded(ClosedObject):
    """An adapter is loaded: its number in /lora-adapters, and its name as a `model`."""

    success: Literal[True]
    id: int
    name: str


class HealthStatus(ClosedObject):
    """Requests are answered."""

    status: Literal["ok"]


class Properties(OpenObject):
    """llama-server's properties of a server."""

    total_slots: int
    model_path: str
    chat_template: str
    default_generation_settings: dict[str, Any]


class SlotStatus(OpenObject):
    """Room for one answer."""

    id: int
    n_ctx: int
    is_processing: bool
