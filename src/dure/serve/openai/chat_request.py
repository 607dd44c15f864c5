"""What /v1/chat/completions takes: OpenAI's fields and llama-server's.

Knows the shape of every field that is used. Refuses to know what a value means: `chat_mapping` does.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from dure.http.request_model import BodyPart, examples, type_of
from dure.serve.openai.parameters import INT32, GenerationParameters, OpenAIStreamOptions

__all__ = [
    "AssistantMessage",
    "ChosenFunction",
    "ConversationParameters",
    "OpenAIChatRequest",
    "OpenAIJsonObjectFormat",
    "OpenAIJsonSchemaFormat",
    "OpenAIOtherTool",
    "OpenAIToolChoice",
    "OpenAIToolField",
    "ResponseFormat",
]


class OpenAITextPart(BodyPart):
    """A piece of a message's text; the only kind of part: the model sees no images and hears nothing."""

    type: Literal["text"]
    text: str


class OpenAIRefusalPart(BodyPart):
    """A refusal, as OpenAI's models write them; read as text."""

    type: Literal["refusal"]
    refusal: str


def _readable(part: Any) -> Any:
    """Return a part if it may be text. Raises PydanticCustomError for an image, a sound, a file."""
    kind = type_of(part)
    if isinstance(kind, str) and kind not in {"text", "refusal"}:
        raise PydanticCustomError(
            "text_only",
            "a part of type '{kind}' is not supported: this model reads text only, leave it out",
            {"kind": kind},
        )
    return part


TextPart = Annotated[OpenAITextPart, BeforeValidator(_readable)]
TextParts = Annotated[list[TextPart], MinLen(1)]
AssistantPart = Annotated[
    Annotated[OpenAITextPart | OpenAIRefusalPart, Field(discriminator="type")],
    BeforeValidator(_readable),
]


class OpenAIFunctionCall(BodyPart):
    """A call the model made; arguments: JSON text."""

    name: str
    arguments: str


class MessageToolCall(BodyPart):
    """A tool call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: OpenAIFunctionCall


class InstructionMessage(BodyPart):
    """How the model shall behave."""

    role: Literal["system", "developer"]
    content: str | TextParts
    name: str | None = None


class UserMessage(BodyPart):
    """What a person says."""

    role: Literal["user"]
    content: str | TextParts
    name: str | None = None


class AssistantMessage(BodyPart):
    """An earlier answer, as this API gave it."""

    role: Literal["assistant"]
    content: str | list[AssistantPart] | None = None
    name: str | None = None
    reasoning_content: str | None = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    refusal: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    function_call: OpenAIFunctionCall | None = None


class ToolMessage(BodyPart):
    """A tool's result."""

    role: Literal["tool"]
    content: str | TextParts
    tool_call_id: str
    name: str | None = None


class FunctionMessage(BodyPart):
    """A function's result, in the old form of tools."""

    role: Literal["function"]
    content: str | TextParts
    name: str


OpenAIMessage = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class OpenAIFunctionTool(BodyPart):
    """A function. parameters: a JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OpenAIToolField(BodyPart):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: OpenAIFunctionTool


class OpenAIOtherTool(BaseModel):
    """A tool that this server cannot run: one of OpenAI's own, or of free text."""

    model_config = ConfigDict(extra="allow")
    type: str


def _tool_tag(value: Any) -> str:
    kind = type_of(value)
    return "function" if kind in (None, "function") else "other"


ToolField = Annotated[
    Annotated[OpenAIToolField, Tag("function")]
    | Annotated[SkipJsonSchema[OpenAIOtherTool], Tag("other")],
    Discriminator(_tool_tag),
]


class ChosenFunction(BodyPart):
    """The function that must be called."""

    name: str


class OpenAIToolChoice(BodyPart):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class OpenAITextFormat(BodyPart):
    """An answer of any text."""

    type: Literal["text"]


class OpenAIJsonObjectFormat(BodyPart):
    """A JSON object. `schema` as llama-server has it."""

    type: Literal["json_object"]
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class NamedSchema(BodyPart):
    """A JSON schema. Unless it is strict, what no grammar can say is only checked at the end."""

    json_schema: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class OpenAIJsonSchemaFormat(BodyPart):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    OpenAITextFormat | OpenAIJsonObjectFormat | OpenAIJsonSchemaFormat, Field(discriminator="type")
]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class OpenAIReasoning(BodyPart):
    """How much the model thinks before it answers, as OpenRouter's clients say it."""

    effort: Effort | None = None
    enabled: bool | None = None


class ConversationParameters(BodyPart):
    """A conversation and what may be done in it: what decides the prompt."""

    messages: Annotated[list[OpenAIMessage], MinLen(1), MaxLen(4096)]
    tools: Annotated[list[ToolField], MaxLen(512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | OpenAIToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[OpenAIFunctionTool], MaxLen(512)] | None = Field(
        None, description="the old form of tools"
    )
    function_call: Literal["none", "auto"] | ChosenFunction | None = Field(
        None, description="the old form of tool_choice"
    )
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning: OpenAIReasoning | None = Field(
        None, description="reasoning_effort and enable_thinking, as OpenRouter's clients write them"
    )
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

    MAX_NAMES: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens", "n_predict")
