"""The bodies of requests to `/api/...`, as Ollama defines them.

Knows names and types of what is used; the rest is `fields`' matter.
Refuses to know what a value means: `mapping` does, and refuses what this server cannot do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import Field

from dure.http.request_model import BodyPart, RequestBody, examples
from dure.serve.ollama.fields import OLLAMA_FIELDS
from dure.serve.ollama.options import Options

__all__ = [
    "AnswerRequest",
    "EmbedRequest",
    "EmbeddingsRequest",
    "GenerateRequest",
    "OllamaChatRequest",
    "OllamaInputMessage",
    "ShowRequest",
]


class OllamaCalledFunction(BodyPart):
    """A function and its arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class InputCall(BodyPart):
    """A call that the model made earlier."""

    function: OllamaCalledFunction
    id: str | None = None


class OllamaInputMessage(BodyPart):
    """One turn. tool_name, tool_call_id: whose result the content is."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[InputCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(BodyPart):
    """A function that the model may call. parameters: a JSON schema."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class InputTool(BodyPart):
    """A tool."""

    function: ToolFunction
    type: str | None = None


class _ModelRequest(RequestBody):
    FIELDS = OLLAMA_FIELDS
    model: str
    options: Options | None = None
    keep_alive: Any = None


class AnswerRequest(_ModelRequest):
    """What all requests for an answer share. stream None is true.

    A prompt is never shortened to fit, and a full context is never shifted: an answer ends there.
    """

    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


_SHORT = {"num_predict": 64}
_CONVERSATION = {"messages": [{"role": "user", "content": "Tell me a story."}], "options": _SHORT}
_PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


class OllamaChatRequest(AnswerRequest):
    """A conversation to continue."""

    model_config = examples(
        {"model": "any", **_CONVERSATION},
        {"model": "any", **_CONVERSATION, "stream": False, "format": _PLACE},
        {
            "model": "any",
            **_CONVERSATION,
            "tools": [{"function": {"name": "weather", "parameters": _PLACE}}],
        },
    )

    messages: list[OllamaInputMessage] | None = None
    tools: list[InputTool] | None = None


class GenerateRequest(AnswerRequest):
    """A prompt to answer; raw: to continue as it is."""

    model_config = examples(
        {"model": "any", "prompt": "Tell me a story.", "options": _SHORT, "stream": False},
        {"model": "any", "prompt": "The bell", "raw": True, "options": _SHORT},
    )

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class EmbedRequest(_ModelRequest):
    """Texts to embed."""

    model_config = examples({"model": "any", "input": ["a bell", "the river"]})

    input: str | Annotated[list[str], MaxLen(2048)]
    truncate: bool | None = None
    dimensions: int | None = Field(default=None, ge=1)


class EmbeddingsRequest(_ModelRequest):
    """A text to embed."""

    model_config = examples({"model": "any", "prompt": "a bell"})

    prompt: str | None = None


class ShowRequest(RequestBody):
    """A model to describe. verbose: with long lists, such as the tokenizer's."""

    model_config = examples({"model": "dure-demo"})

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
