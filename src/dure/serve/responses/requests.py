"""The body of a request to `/v1/responses`, as OpenAI defines it.

Knows names and types of what is used; the rest is `fields`' matter. What is read only to be skipped or
refused (`Other...`) is not in the OpenAPI document.
Refuses to know what a value means: `mapping` does, and refuses what this server cannot do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from dure.http.request_model import BodyPart, RequestBody, examples, type_of
from dure.serve.responses.fields import RESPONSES_FIELDS

__all__ = [
    "AllowedTools",
    "FunctionCallOutput",
    "InputItem",
    "InputPart",
    "MessageItem",
    "NamedFunction",
    "OtherItem",
    "OtherPart",
    "OtherToolChoice",
    "ReasoningItem",
    "ReasoningOptions",
    "ResponsesFunctionCall",
    "ResponsesFunctionTool",
    "ResponsesJsonObjectFormat",
    "ResponsesJsonSchemaFormat",
    "ResponsesOtherTool",
    "ResponsesRefusalPart",
    "ResponsesRequest",
    "ResponsesTextPart",
    "TextOptions",
]

INT32 = 2**31 - 1
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class _Other(BaseModel):
    """Of a type that OpenAI knows and this server does not."""

    model_config = ConfigDict(extra="allow")
    type: str


class ResponsesTextPart(BodyPart):
    """Text that was said."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class ResponsesRefusalPart(BodyPart):
    """Text by which a model refused to answer."""

    type: Literal["refusal"]
    refusal: str


class OtherPart(_Other):
    """An image, a file, a sound."""


_TEXT_PARTS = {"input_text", "output_text", "text", "reasoning_text", "summary_text"}


def _part_tag(value: Any) -> str:
    kind = type_of(value)
    if kind in _TEXT_PARTS:
        return "text"
    return "refusal" if kind == "refusal" else "other"


InputPart = Annotated[
    Annotated[ResponsesTextPart, Tag("text")]
    | Annotated[ResponsesRefusalPart, Tag("refusal")]
    | Annotated[SkipJsonSchema[OtherPart], Tag("other")],
    Discriminator(_part_tag),
]


class MessageItem(BodyPart):
    """What somebody said, or an answer that is handed back."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputPart]


class ResponsesFunctionCall(BodyPart):
    """A call that the model made earlier. arguments: JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(BodyPart):
    """What a call returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]
    name: str | None = None


class ReasoningItem(BodyPart):
    """What the model thought before an earlier answer."""

    type: Literal["reasoning"]
    summary: list[ResponsesTextPart] = Field(default_factory=list)
    content: list[ResponsesTextPart] | None = None
    encrypted_content: str | None = None


class OtherItem(_Other):
    """A call of one of OpenAI's own tools, a reference to something stored."""


_ITEMS = {"message", "function_call", "function_call_output", "reasoning"}


def _item_tag(value: Any) -> str:
    if not isinstance(value, dict):
        return str(getattr(value, "type", "other"))
    kind = value.get("type", "message")
    return kind if isinstance(kind, str) and kind in _ITEMS else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ResponsesFunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[SkipJsonSchema[OtherItem], Tag("other")],
    Discriminator(_item_tag),
]


class ResponsesFunctionTool(BodyPart):
    """A function that the model may call. parameters: a JSON schema."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesOtherTool(_Other):
    """One of OpenAI's own tools."""


def _function_tag(value: Any) -> str:
    kind = type_of(value)
    return "function" if kind == "function" else "other"


ResponsesTool = Annotated[
    Annotated[ResponsesFunctionTool, Tag("function")]
    | Annotated[SkipJsonSchema[ResponsesOtherTool], Tag("other")],
    Discriminator(_function_tag),
]


class NamedFunction(BodyPart):
    """A function, by its name."""

    type: Literal["function"]
    name: str


class _OtherAllowed(_Other):
    """One of OpenAI's own tools."""


AllowedTool = Annotated[
    Annotated[NamedFunction, Tag("function")]
    | Annotated[SkipJsonSchema[_OtherAllowed], Tag("other")],
    Discriminator(_function_tag),
]


class AllowedTools(BodyPart):
    """Only these of the request's tools may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class OtherToolChoice(_Other):
    """One of OpenAI's own tools must be called."""


def _choice_tag(value: Any) -> str:
    if isinstance(value, str):
        return "word"
    kind = type_of(value)
    return kind if kind in ("function", "allowed_tools") else "other"


ResponsesToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedFunction, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed_tools")]
    | Annotated[SkipJsonSchema[OtherToolChoice], Tag("other")],
    Discriminator(_choice_tag),
]


class ResponsesTextFormat(BodyPart):
    """Any text."""

    type: Literal["text"]


class ResponsesJsonObjectFormat(BodyPart):
    """A JSON object."""

    type: Literal["json_object"]


class ResponsesJsonSchemaFormat(BodyPart):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(BodyPart):
    """What the text of the answer must look like."""

    format: (
        Annotated[
            ResponsesTextFormat | ResponsesJsonObjectFormat | ResponsesJsonSchemaFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = None


class ReasoningOptions(BodyPart):
    """How much the model thinks before it answers."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


_PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}
_QUESTION = {"input": "Tell me a story.", "max_output_tokens": 64}


class ResponsesRequest(RequestBody):
    """The body of a request for one answer.

    The last group is llama-server's: what a client may read of the work while it is done.
    """

    FIELDS = RESPONSES_FIELDS

    model_config = examples(
        _QUESTION,
        {**_QUESTION, "instructions": "Be brief.", "stream": True},
        {**_QUESTION, "input": [{"role": "user", "content": "What is a bell?"}]},
        {**_QUESTION, "tools": [{"type": "function", "name": "weather", "parameters": _PLACE}]},
        {
            **_QUESTION,
            "text": {"format": {"type": "json_schema", "name": "place", "schema": _PLACE}},
        },
    )

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: ResponsesToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=INT32)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    stream: bool | None = None

    timings_per_token: bool = False
    return_progress: bool = False
