"""Makes a chat task of a request of OpenAI's chat API; refuses fields that contradict each other.

Refuses to know HTTP, how messages become a prompt, and how the answer is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from dure.chat.task import ChatTask, JsonObject, JsonSchema, NamedTool, Tool
from dure.errors import ParameterError
from dure.serve.dialect.other_tools import skip_tool
from dure.serve.openai.chat_request import (
    AssistantMessage,
    ConversationParameters,
    OpenAIChatRequest,
    OpenAIFunctionTool,
    OpenAIJsonObjectFormat,
    OpenAIJsonSchemaFormat,
    OpenAIToolChoice,
    OpenAIToolField,
    ResponseFormat,
)
from dure.serve.openai.legacy_functions import with_tools, with_tools_in_messages

__all__ = ["n_logprobs_of", "prompt_task_of", "task_of", "wish_names"]


def task_of(request: OpenAIChatRequest) -> ChatTask:
    """Return what the model is asked. Raises ParameterError naming what cannot be honoured."""
    task = prompt_task_of(request)
    if not task.add_generation:
        raise ParameterError(
            "add_generation_prompt",
            "add_generation_prompt: without it nothing would begin the answer",
            "leave it out",
        )
    return task


def prompt_task_of(request: OpenAIChatRequest) -> ChatTask:
    """Return the task of a prompt that is only shown: nothing need begin an answer."""
    asked = with_tools(request)
    tools, continues = _tools(asked), _continues(request)
    grammar = request.grammar or None
    messages = [message.model_dump(exclude_none=True) for message in request.messages]
    return ChatTask(
        messages=with_tools_in_messages(messages),
        tools=tools,
        tool_choice=_tool_choice(asked, tools),
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        response_format=_response_format(request, grammar),
        grammar=grammar,
        enable_thinking=_thinking(request),
        reasoning_effort=_effort(request),
        template_kwargs=_template_kwargs(request),
        continue_last=continues,
        add_generation=continues or request.add_generation_prompt is not False,
    )


def wish_names(request: ConversationParameters) -> dict[str, str]:
    """Return what a request calls its wishes about thinking, if they are in `reasoning`."""
    names, given = {}, request.reasoning
    if given and given.effort is not None and request.reasoning_effort is None:
        names["reasoning_effort"] = "reasoning.effort"
    if given and given.enabled is not None and request.enable_thinking is None:
        names["enable_thinking"] = "reasoning.enabled"
    return names


def n_logprobs_of(request: OpenAIChatRequest) -> int | None:
    """Return how many alternatives come with each token. Raises ParameterError."""
    if request.top_logprobs and not request.logprobs:
        raise ParameterError("top_logprobs", "top_logprobs needs logprobs: true")
    return request.top_logprobs or 0 if request.logprobs else None


def _tools(request: ConversationParameters) -> tuple[Tool, ...]:
    functions = list(_functions(request))
    names = [function.name for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError("tools", f"tools: two are named {name!r}", "rename one")
    return tuple(
        Tool(f.name, f.description or "", f.parameters or {}, bool(f.strict)) for f in functions
    )


def _functions(request: ConversationParameters) -> Iterator[OpenAIFunctionTool]:
    """Yield the tools that the caller runs; others would run at the server."""
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, OpenAIToolField):
            yield tool.function
        else:
            skip_tool(index, tool.type)


def _tool_choice(
    request: ConversationParameters, tools: tuple[Tool, ...]
) -> Literal["none", "auto", "required"] | NamedTool:
    choice = request.tool_choice
    if isinstance(choice, OpenAIToolChoice):
        name = choice.function.name
        if all(tool.name != name for tool in tools):
            raise ParameterError("tool_choice", f"tool_choice: no tool is named {name!r}")
        return NamedTool(name)
    if choice == "required" and not tools:
        raise ParameterError("tool_choice", "tool_choice 'required' needs tools", "give some")
    return choice or "auto"


def _response_format(
    request: OpenAIChatRequest, grammar: str | None
) -> JsonObject | JsonSchema | None:
    schema, wanted = request.json_schema, _format_of(request.response_format)
    if schema is not None and wanted in (None, JsonObject()):
        wanted = JsonSchema(schema)  # besides "some object", it says which
    elif schema is not None:
        raise ParameterError("json_schema", "json_schema and response_format", "give only one")
    if grammar is not None and wanted is not None:
        raise ParameterError("grammar", "grammar and a schema exclude each other", "give only one")
    return wanted


def _format_of(given: ResponseFormat | None) -> JsonObject | JsonSchema | None:
    if isinstance(given, OpenAIJsonSchemaFormat):
        named = given.json_schema
        return JsonSchema(named.json_schema, named.name or "", bool(named.strict))
    if isinstance(given, OpenAIJsonObjectFormat):
        return JsonObject() if given.json_schema is None else JsonSchema(given.json_schema)
    return None


def _thinking(request: ConversationParameters) -> bool | None:
    if request.enable_thinking is not None:
        return request.enable_thinking
    if request.reasoning is not None and request.reasoning.enabled is not None:
        return request.reasoning.enabled
    given = (request.chat_template_kwargs or {}).get("enable_thinking")
    if given is not None and not isinstance(given, bool):
        raise ParameterError(
            "chat_template_kwargs", "chat_template_kwargs.enable_thinking must be true or false"
        )
    return given


def _effort(request: ConversationParameters) -> str | None:
    own, other = request.reasoning_effort, request.reasoning.effort if request.reasoning else None
    if own and other and own != other:
        raise ParameterError(
            "reasoning", f"reasoning.effort {other!r} and reasoning_effort {own!r}", "give only one"
        )
    return own or other


def _template_kwargs(request: ConversationParameters) -> dict[str, Any]:
    given = request.chat_template_kwargs or {}
    return {name: value for name, value in given.items() if name != "enable_thinking"}


def _continues(request: ConversationParameters) -> bool:
    """Return whether the last message is continued, as llama-server does by default."""
    wanted = request.continue_final_message
    if wanted and request.add_generation_prompt:
        raise ParameterError(
            "continue_final_message",
            "continue_final_message and add_generation_prompt exclude each other",
        )
    if wanted and not isinstance(request.messages[-1], AssistantMessage):
        raise ParameterError(
            "continue_final_message",
            "continue_final_message: the last message is not the assistant's",
        )
    return wanted is not False and not request.add_generation_prompt and _can_continue(request)


def _can_continue(request: ConversationParameters) -> bool:
    last = request.messages[-1]
    if not isinstance(last, AssistantMessage):
        return False
    if len(request.messages) > 1 and isinstance(request.messages[-2], AssistantMessage):
        raise ParameterError(
            "messages", "messages: two of the assistant's at the end cannot both go on"
        )
    calls = last.tool_calls or last.function_call
    return bool(request.continue_final_message) or not calls
