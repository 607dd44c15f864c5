"""The bodies of requests to `/v1/messages` and `/v1/messages/count_tokens`, as Anthropic defines them.

Knows names and types of what is used; the rest is `fields`' matter. What is read only to be skipped or
refused (`Other...`) is not in the OpenAPI document.
Refuses to know what a value means: `mapping` does, and refuses what this server cannot do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from dure.http.request_model import BodyPart, RequestBody, examples, type_of
from dure.serve.anthropic.fields import ANTHROPIC_FIELDS

__all__ = [
    "AnthropicInputMessage",
    "AnthropicOtherTool",
    "CountTokensRequest",
    "InputBlock",
    "MessagesRequest",
    "OtherBlock",
    "OwnTool",
    "TextBlock",
    "ThinkingBlock",
    "ToolReferenceBlock",
    "ToolResultBlock",
    "ToolUseBlock",
]


class TextBlock(BodyPart):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(BodyPart):
    """What the model thought before an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class ToolUseBlock(BodyPart):
    """A call that the model made earlier."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OtherBlock(BaseModel):
    """An image, a document, a block of one of Anthropic's own tools."""

    model_config = ConfigDict(extra="allow")
    type: str


class ToolReferenceBlock(BodyPart):
    """A tool that a search has found: from here on the model may call it."""

    type: Literal["tool_reference"]
    tool_name: str


class ToolResultBlock(BodyPart):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None


def _tag(value: Any, known: tuple[str, ...]) -> str:
    kind = type_of(value)
    return kind if kind in known else "other"


def _result_tag(value: Any) -> str:
    return _tag(value, ("text", "tool_reference"))


def _block_tag(value: Any) -> str:
    return _tag(value, ("text", "thinking", "tool_use", "tool_result"))


def _tool_tag(value: Any) -> str:
    kind = type_of(value)
    return "own" if kind in (None, "custom") else "other"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference")]
    | Annotated[SkipJsonSchema[OtherBlock], Tag("other")],
    Discriminator(_result_tag),
]
InputBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[SkipJsonSchema[OtherBlock], Tag("other")],
    Discriminator(_block_tag),
]


class AnthropicInputMessage(BodyPart):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[InputBlock]


class OwnTool(BodyPart):
    """A function that the model may call. defer_loading: once a tool_reference has named it."""

    name: str = Field(min_length=1)
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class AnthropicOtherTool(BaseModel):
    """One of Anthropic's own tools."""

    model_config = ConfigDict(extra="allow")
    type: str


AnthropicTool = Annotated[
    Annotated[OwnTool, Tag("own")] | Annotated[SkipJsonSchema[AnthropicOtherTool], Tag("other")],
    Discriminator(_tool_tag),
]


class _CallingChoice(BodyPart):
    disable_parallel_tool_use: bool = False


class AutoChoice(_CallingChoice):
    """The model may call tools."""

    type: Literal["auto"]


class AnyChoice(_CallingChoice):
    """The model must call a tool."""

    type: Literal["any"]


class AnthropicToolChoice(_CallingChoice):
    """The model must call this tool."""

    type: Literal["tool"]
    name: str


class NoChoice(BodyPart):
    """The model must not call tools."""

    type: Literal["none"]
    disable_parallel_tool_use: bool = False


class Thinking(BodyPart):
    """The model thinks before it answers. display: "omitted" shows no thoughts, all else does."""

    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1)
    display: str | None = None


class AdaptiveThinking(BodyPart):
    """The model thinks as much as it wants."""

    type: Literal["adaptive"]
    display: str | None = None


class NoThinking(BodyPart):
    """The model answers at once."""

    type: Literal["disabled"]


class JsonFormat(BodyPart):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BodyPart):
    """How much is thought, and what the answer must look like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


_CONVERSATION = {"messages": [{"role": "user", "content": "Tell me a story."}]}
_QUESTION = {**_CONVERSATION, "max_tokens": 64}
_PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


class CountTokensRequest(RequestBody):
    """A conversation whose tokens are counted."""

    FIELDS = ANTHROPIC_FIELDS

    model_config = examples(_CONVERSATION)

    messages: list[AnthropicInputMessage] = Field(min_length=1)
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: (
        Annotated[
            AutoChoice | AnyChoice | AnthropicToolChoice | NoChoice, Field(discriminator="type")
        ]
        | None
    ) = None
    thinking: (
        Annotated[Thinking | AdaptiveThinking | NoThinking, Field(discriminator="type")] | None
    ) = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None


class MessagesRequest(CountTokensRequest):
    """The body of a request for one answer."""

    model_config = examples(
        _QUESTION,
        {**_QUESTION, "system": "Be brief.", "stream": True},
        {**_QUESTION, "tools": [{"name": "weather", "input_schema": _PLACE}]},
    )

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stream: bool | None = None
