"""Makes a chat task and options of a request for a message.

Refuses to know HTTP and how the answer is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import msgspec

from dure.chat.task import ChatTask, GenerationOptions, JsonSchema, NamedTool, Tool
from dure.engine.adapters import AdapterSet
from dure.errors import ParameterError, UsageError
from dure.generate.request import NOBODY, Owner, Sampling
from dure.serve.anthropic.answer import ThoughtsShown
from dure.serve.anthropic.conversation import found_tools, messages_of
from dure.serve.anthropic.requests import (
    AdaptiveThinking,
    AnthropicToolChoice,
    CountTokensRequest,
    MessagesRequest,
    NoThinking,
    OwnTool,
    Thinking,
)
from dure.serve.dialect.other_tools import skip_tool

__all__ = ["options_of", "quieter", "task_of", "thoughts_of"]


def task_of(request: CountTokensRequest) -> ChatTask:
    """Return what the model is asked. Raises UsageError naming what cannot be honoured."""
    messages = messages_of(request)
    tools = tuple(_tools(request))
    config = request.output_config
    return ChatTask(
        messages=messages,
        tools=tools,
        tool_choice=_choice(request, tools),
        parallel_tool_calls=not (
            request.tool_choice and request.tool_choice.disable_parallel_tool_use
        ),
        response_format=_response_format(request),
        enable_thinking=_thinks(request),
        reasoning_effort=config.effort if config else None,
        continue_last=_continues(messages),
    )


def options_of(
    request: MessagesRequest,
    defaults: Sampling,
    owner: Owner = NOBODY,
    adapters: AdapterSet | None = None,
) -> GenerationOptions:
    """Return how the answer is generated; `defaults` hold if the request says nothing.

    A thinking budget is a target in Anthropic's API, not a limit: max_tokens limits thoughts and
    answer together, and the budget must leave room for the answer.
    """
    if isinstance(request.thinking, Thinking) and (
        request.thinking.budget_tokens >= request.max_tokens
    ):
        raise UsageError(
            f"thinking.budget_tokens {request.thinking.budget_tokens} leaves no room for the answer",
            f"give less than max_tokens {request.max_tokens}",
        )
    given = {"temperature": request.temperature, "top_k": request.top_k, "top_p": request.top_p}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return GenerationOptions(
        sampling=msgspec.structs.replace(defaults, **changes),
        max_tokens=request.max_tokens,
        stop=_stop(request),
        owner=owner,
        adapters=adapters,
    )


def quieter(request: CountTokensRequest, task: ChatTask) -> ChatTask | None:
    """Return the task without thoughts: unasked, Anthropic's models do not think.

    None if the request says how much to think.
    """
    if request.thinking is not None or task.reasoning_effort is not None:
        return None
    return replace(task, enable_thinking=False)


def thoughts_of(request: CountTokensRequest) -> ThoughtsShown:
    """Return what is shown of thoughts: nothing if the client did not ask for any."""
    if not isinstance(request.thinking, Thinking | AdaptiveThinking):
        return "hidden"
    return "omitted" if request.thinking.display == "omitted" else "told"


def _thinks(request: CountTokensRequest) -> bool | None:
    """Return whether to think; None leaves it to the model, which is what `adaptive` means."""
    if isinstance(request.thinking, Thinking):
        return True
    return False if isinstance(request.thinking, NoThinking) else None


def _stop(request: MessagesRequest) -> tuple[str, ...]:
    stops = tuple(request.stop_sequences or ())
    if "" in stops:
        raise ParameterError(
            "stop_sequences", "stop_sequences: an empty text stops nothing", "leave it out"
        )
    return stops


def _continues(messages: list[dict[str, Any]]) -> bool:
    last = messages[-1]
    if last["role"] != "assistant":
        return False
    if last.get("tool_calls"):
        raise ParameterError(
            "messages", "messages: the last one calls tools", "give a tool_result for every call"
        )
    return True


def _tools(request: CountTokensRequest) -> Iterator[Tool]:
    """Yield the tools that the model may call. The caller runs them; Anthropic's own are skipped."""
    found = found_tools(request)
    for index, tool in enumerate(request.tools or ()):
        if not isinstance(tool, OwnTool):
            skip_tool(index, tool.type)
        elif not tool.defer_loading or tool.name in found:
            yield Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _choice(
    request: CountTokensRequest, tools: tuple[Tool, ...]
) -> Literal["none", "auto", "required"] | NamedTool:
    choice = request.tool_choice
    if choice is None or choice.type == "auto":
        return "auto"
    if choice.type == "none":
        return "none"
    if not tools:
        raise UsageError(f"tool_choice of type {choice.type!r} needs tools", "give some")
    if not isinstance(choice, AnthropicToolChoice):
        return "required"
    if all(tool.name != choice.name for tool in tools):
        raise UsageError(f"tool_choice names {choice.name!r}, which is not among the tools")
    return NamedTool(choice.name)


def _response_format(request: CountTokensRequest) -> JsonSchema | None:
    wanted = request.output_format
    if request.output_config and request.output_config.format:
        if wanted:
            raise UsageError("output_format and output_config.format say the same", "give one")
        wanted = request.output_config.format
    return JsonSchema(wanted.schema_) if wanted else None
