"""The bodies of requests to `/v1/messages` and `/v1/messages/count_tokens`, as Anthropic defines them.

Knows names and types; a field that is not here is refused by name. What is read only to be refused
(`Other...`) is not in the OpenAPI document.
Refuses to know what a value means: `mapping` does, and refuses what this server cannot do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from dure.http.body import StrictModel, examples

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
    "ToolResultBlock",
    "ToolUseBlock",
]


class CacheControl(StrictModel):
    """A prefix worth keeping. Every prompt's prefix is kept here, so nothing more is done for it."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(StrictModel):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(StrictModel):
    """What the model thought before an earlier answer. The signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(StrictModel):
    """A call that the model made earlier."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = None
    toolset_name: None = None


class OtherBlock(BaseModel):
    """An image, a document, a block of one of Anthropic's own tools."""

    model_config = ConfigDict(extra="allow")
    type: str


class ToolResultBlock(StrictModel):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


def _tag(value: Any, known: tuple[str, ...]) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in known else "other"


def _result_tag(value: Any) -> str:
    return _tag(value, ("text",))


def _block_tag(value: Any) -> str:
    return _tag(value, ("text", "thinking", "tool_use", "tool_result"))


def _tool_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "own" if kind in (None, "custom") else "other"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[SkipJsonSchema[OtherBlock], Tag("other")],
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


class AnthropicInputMessage(StrictModel):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[InputBlock]


class OwnTool(StrictModel):
    """A function that the model may call. Arguments are streamed as they come, always."""

    name: str = Field(min_length=1)
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: bool | None = None


class AnthropicOtherTool(BaseModel):
    """One of Anthropic's own tools."""

    model_config = ConfigDict(extra="allow")
    type: str


AnthropicTool = Annotated[
    Annotated[OwnTool, Tag("own")] | Annotated[SkipJsonSchema[AnthropicOtherTool], Tag("other")],
    Discriminator(_tool_tag),
]


class _CallingChoice(StrictModel):
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


class NoChoice(StrictModel):
    """The model must not call tools."""

    type: Literal["none"]
    disable_parallel_tool_use: bool = False


class Thinking(StrictModel):
    """The model thinks before it answers. display: whether the thoughts are shown."""

    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1)
    display: Literal["summarized", "omitted"] | None = None


class AdaptiveThinking(StrictModel):
    """The model thinks as much as it wants."""

    type: Literal["adaptive"]
    display: Literal["summarized", "omitted"] | None = None


class NoThinking(StrictModel):
    """The model answers at once."""

    type: Literal["disabled"]


class JsonFormat(StrictModel):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(StrictModel):
    """How much is thought, and what the answer must look like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(StrictModel):
    """Who asks, as the caller names them. Not looked at."""

    user_id: str | None = None


_CONVERSATION = {"messages": [{"role": "user", "content": "Tell me a story."}]}
_QUESTION = {**_CONVERSATION, "max_tokens": 64}
_PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


class CountTokensRequest(StrictModel):
    """A conversation whose tokens are counted."""

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
    cache_control: CacheControl | None = None
    speed: Literal["standard"] | None = None


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
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stream: bool | None = None
