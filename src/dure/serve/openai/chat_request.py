"""What /v1/chat/completions takes: OpenAI's fields and llama-server's.

Knows every field's shape, and what we refuse. Refuses to know what a value means: `chat_mapping` does.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from dure.http.body import StrictModel, examples
from dure.serve.openai.parameters import INT32, GenerationParameters, OpenAIStreamOptions

__all__ = [
    "AssistantMessage",
    "ConversationParameters",
    "OpenAIChatRequest",
    "OpenAIJsonObjectFormat",
    "OpenAIJsonSchemaFormat",
    "OpenAIToolChoice",
    "ResponseFormat",
]

Nothing = Annotated[None, Field(description="not supported: leave it out")]


class OpenAITextPart(StrictModel):
    """A piece of a message's text; the only kind of part: the model sees no images and hears nothing."""

    type: Literal["text"]
    text: str


class OpenAIRefusalPart(StrictModel):
    """A refusal, as OpenAI's models write them; read as text."""

    type: Literal["refusal"]
    refusal: str


TextParts = Annotated[list[OpenAITextPart], MinLen(1)]
AssistantPart = Annotated[OpenAITextPart | OpenAIRefusalPart, Field(discriminator="type")]


class OpenAIFunctionCall(StrictModel):
    """A call the model made; arguments: JSON text."""

    name: str
    arguments: str


class MessageToolCall(StrictModel):
    """A tool call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: OpenAIFunctionCall
    index: int | None = None  # a streamed call, sent back as it came


class InstructionMessage(StrictModel):
    """How the model shall behave."""

    role: Literal["system", "developer"]
    content: str | TextParts
    name: str | None = None


class UserMessage(StrictModel):
    """What a person says."""

    role: Literal["user"]
    content: str | TextParts
    name: str | None = None


class AssistantMessage(StrictModel):
    """An earlier answer, as this API gave it."""

    role: Literal["assistant"]
    content: str | list[AssistantPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    annotations: Annotated[list[Any], MaxLen(0)] | None = None
    audio: Nothing = None
    function_call: Nothing = None


class ToolMessage(StrictModel):
    """A tool's result."""

    role: Literal["tool"]
    content: str | TextParts
    tool_call_id: str
    name: str | None = None


OpenAIMessage = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class OpenAIFunctionTool(StrictModel):
    """A function. parameters: a JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolField(StrictModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: OpenAIFunctionTool


class ChosenFunction(StrictModel):
    """The function that must be called."""

    name: str


class OpenAIToolChoice(StrictModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class OpenAITextFormat(StrictModel):
    """An answer of any text."""

    type: Literal["text"]


class OpenAIJsonObjectFormat(StrictModel):
    """A JSON object. `schema` as llama-server has it."""

    type: Literal["json_object"]
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class NamedSchema(StrictModel):
    """A JSON schema. strict false: keywords that cannot be followed are ignored."""

    json_schema: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class OpenAIJsonSchemaFormat(StrictModel):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    OpenAITextFormat | OpenAIJsonObjectFormat | OpenAIJsonSchemaFormat, Field(discriminator="type")
]


class ConversationParameters(StrictModel):
    """A conversation and what may be done in it: what decides the prompt."""

    messages: Annotated[list[OpenAIMessage], MinLen(1), MaxLen(4096)]
    tools: Annotated[list[ToolField], MaxLen(512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | OpenAIToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_format: Literal["auto", "deepseek"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


_QUESTION = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 64}
_PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}
_WEATHER = {"type": "function", "function": {"name": "weather", "parameters": _PLACE}}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": _PLACE}}


class OpenAIChatRequest(GenerationParameters, ConversationParameters):
    """The body of /v1/chat/completions."""

    model_config = examples(
        _QUESTION,
        {**_QUESTION, "stream": True, "stream_options": {"include_usage": True}},
        {**_QUESTION, "logprobs": True, "top_logprobs": 3, "temperature": 0},
        {**_QUESTION, "tools": [_WEATHER], "tool_choice": "auto"},
        {**_QUESTION, "response_format": _FORMAT},
    )

    n: Annotated[int, Ge(1), Le(128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    max_completion_tokens: Annotated[int, Ge(-1), Le(INT32)] | None = None
    stream_options: OpenAIStreamOptions | None = None

    # OpenAI's, that ask for nothing here ...
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in-memory", "in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # ... and that we can only do without.
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    thinking_budget_tokens: Literal[-1] | None = None
    audio: Nothing = None
    prediction: Nothing = None
    web_search_options: Nothing = None
    functions: Nothing = None
    function_call: Nothing = None

    MAX_NAMES: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens", "n_predict")
