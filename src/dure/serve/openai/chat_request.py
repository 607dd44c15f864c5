"""What /v1/chat/completions takes: OpenAI's fields and llama-server's, and the task they make.

Knows every field's shape, and what we refuse. Refuses to know how messages become a prompt.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from dure.chat.task import ChatTask, JsonObject, JsonSchema, NamedTool, Tool
from dure.errors import ParameterError
from dure.http.body import StrictModel, examples
from dure.serve.openai.parameters import INT32, GenerationParameters, StreamOptions

__all__ = ["ChatRequest", "MessagesRequest"]

Nothing = Annotated[None, Field(description="not supported: leave it out")]


class TextPart(StrictModel):
    """A piece of a message's text; the only kind of part: the model sees no images and hears nothing."""

    type: Literal["text"]
    text: str


class RefusalPart(StrictModel):
    """A refusal, as OpenAI's models write them; read as text."""

    type: Literal["refusal"]
    refusal: str


Parts = Annotated[list[TextPart], MinLen(1)]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class FunctionCall(StrictModel):
    """A call the model made; arguments: JSON text."""

    name: str
    arguments: str


class MessageToolCall(StrictModel):
    """A tool call of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None  # a streamed call, sent back as it came


class InstructionMessage(StrictModel):
    """How the model shall behave."""

    role: Literal["system", "developer"]
    content: str | Parts
    name: str | None = None


class UserMessage(StrictModel):
    """What a person says."""

    role: Literal["user"]
    content: str | Parts
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
    content: str | Parts
    tool_call_id: str
    name: str | None = None


Message = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class FunctionTool(StrictModel):
    """A function. parameters: a JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolField(StrictModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool


class ChosenFunction(StrictModel):
    """The function that must be called."""

    name: str


class ToolChoice(StrictModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class TextFormat(StrictModel):
    """An answer of any text."""

    type: Literal["text"]


class JsonObjectFormat(StrictModel):
    """A JSON object. `schema` as llama-server has it."""

    type: Literal["json_object"]
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class NamedSchema(StrictModel):
    """A JSON schema. strict false: keywords that cannot be kept are ignored."""

    json_schema: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(StrictModel):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class MessagesRequest(StrictModel):
    """A conversation and what may be done in it: what decides the prompt."""

    messages: Annotated[list[Message], MinLen(1), MaxLen(4096)]
    tools: Annotated[list[ToolField], MaxLen(512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_format: Literal["auto", "deepseek"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def task(self, grammar: str | None = None, schema: dict[str, Any] | None = None) -> ChatTask:
        """What the model is asked. Raises ParameterError where fields contradict each other."""
        tools, goes_on = self._tools(), self._continues()
        messages = [message.model_dump(exclude_none=True) for message in self.messages]
        return ChatTask(
            messages=messages,
            tools=tools,
            tool_choice=self._choice(tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_format=self._format(grammar, schema),
            grammar=grammar,
            enable_thinking=self._thinking(),
            reasoning_effort=self.reasoning_effort,
            template_kwargs=self._template_kwargs(),
            continue_last=goes_on,
            add_generation=goes_on or self.add_generation_prompt is not False,
        )

    def _tools(self) -> tuple[Tool, ...]:
        functions = [tool.function for tool in self.tools or ()]
        names = [function.name for function in functions]
        for name in names:
            if names.count(name) > 1:
                raise ParameterError("tools", f"tools: two are named {name!r}: rename one")
        return tuple(
            Tool(f.name, f.description or "", f.parameters or {}, bool(f.strict)) for f in functions
        )

    def _choice(self, tools: tuple[Tool, ...]) -> Any:
        choice = self.tool_choice
        if isinstance(choice, ToolChoice):
            name = choice.function.name
            if all(tool.name != name for tool in tools):
                raise ParameterError("tool_choice", f"tool_choice: no tool is named {name!r}")
            return NamedTool(name)
        if choice == "required" and not tools:
            raise ParameterError("tool_choice", "tool_choice 'required' needs tools: give some")
        return choice or "auto"

    def _format(
        self, grammar: str | None, schema: dict[str, Any] | None
    ) -> JsonObject | JsonSchema | None:
        wanted = _format_of(self.response_format)
        if schema is not None and wanted in (None, JsonObject()):
            wanted = JsonSchema(schema)  # besides "some object", it says which
        elif schema is not None:
            raise ParameterError("json_schema", "json_schema and response_format: give only one")
        if grammar is not None and wanted is not None:
            raise ParameterError(
                "grammar", "grammar and a schema exclude each other: give only one"
            )
        return wanted

    def _thinking(self) -> bool | None:
        if self.enable_thinking is not None:
            return self.enable_thinking
        given = (self.chat_template_kwargs or {}).get("enable_thinking")
        if given is not None and not isinstance(given, bool):
            raise ParameterError(
                "chat_template_kwargs", "chat_template_kwargs.enable_thinking must be true or false"
            )
        return given

    def _template_kwargs(self) -> dict[str, Any]:
        given = self.chat_template_kwargs or {}
        return {name: value for name, value in given.items() if name != "enable_thinking"}

    def _continues(self) -> bool:
        """Whether the last message goes on, which llama-server does unless told otherwise."""
        last = self.messages[-1]
        wanted = self.continue_final_message
        if wanted and self.add_generation_prompt:
            raise ParameterError(
                "continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other",
            )
        if wanted and not isinstance(last, AssistantMessage):
            raise ParameterError(
                "continue_final_message",
                "continue_final_message: the last message is not the assistant's",
            )
        return wanted is not False and not self.add_generation_prompt and self._can_go_on()

    def _can_go_on(self) -> bool:
        last = self.messages[-1]
        if not isinstance(last, AssistantMessage):
            return False
        if len(self.messages) > 1 and isinstance(self.messages[-2], AssistantMessage):
            raise ParameterError(
                "messages", "messages: two of the assistant's at the end cannot both go on"
            )
        return bool(self.continue_final_message) or not last.tool_calls


def _format_of(given: ResponseFormat | None) -> JsonObject | JsonSchema | None:
    if isinstance(given, JsonSchemaFormat):
        named = given.json_schema
        return JsonSchema(named.json_schema, named.name or "", named.strict is not False)
    if isinstance(given, JsonObjectFormat):
        return JsonObject() if given.json_schema is None else JsonSchema(given.json_schema)
    return None


_QUESTION = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 64}
_PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}
_WEATHER = {"type": "function", "function": {"name": "weather", "parameters": _PLACE}}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": _PLACE}}


class ChatRequest(GenerationParameters, MessagesRequest):
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
    stream_options: StreamOptions | None = None

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

    def as_task(self) -> ChatTask:
        """What the model is asked. Raises ParameterError."""
        task = self.as_prompt()
        if not task.add_generation:
            raise ParameterError(
                "add_generation_prompt",
                "add_generation_prompt: without it nothing would begin the answer: leave it out",
            )
        return task

    def as_prompt(self) -> ChatTask:
        """The same, where it is only shown: nothing need begin an answer."""
        return self.task(self.grammar or None, self.json_schema)

    def n_logprobs(self) -> int | None:
        """How many alternatives come with each token. Raises ParameterError."""
        if self.top_logprobs and not self.logprobs:
            raise ParameterError("top_logprobs", "top_logprobs needs logprobs: true")
        return self.top_logprobs or 0 if self.logprobs else None
