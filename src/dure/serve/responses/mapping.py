"""Makes a chat task and options of a Responses request; refuses by name what cannot be honoured.

Refuses to know HTTP and how the answer is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from dure.chat.task import (
    ChatTask,
    GenerationOptions,
    JsonObject,
    JsonSchema,
    NamedTool,
    Tool,
)
from dure.engine.adapters import AdapterSet
from dure.errors import ParameterError
from dure.generate.request import NOBODY, Owner, Sampling
from dure.http.unused_fields import let_through
from dure.serve.dialect.other_tools import skip_tool
from dure.serve.responses.conversation import messages_of
from dure.serve.responses.requests import (
    AllowedTools,
    NamedFunction,
    OtherToolChoice,
    ResponsesFunctionTool,
    ResponsesJsonObjectFormat,
    ResponsesJsonSchemaFormat,
    ResponsesRequest,
)

__all__ = ["LOGPROBS", "SEALED_REASONING", "options_of", "task_of"]

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"
_HARMLESS_INCLUDES = frozenset(  # what they would add cannot occur in an answer of ours
    {
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)


def task_of(request: ResponsesRequest) -> ChatTask:
    """Return what the model is asked. Raises UsageError naming what cannot be honoured."""
    _note_includes(request)
    tools, choice = _tools_and_choice(request)
    effort = request.reasoning.effort if request.reasoning else None
    return ChatTask(
        messages=messages_of(request.instructions, request.input),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=_response_format(request),
        reasoning_effort=effort,
    )


def options_of(
    request: ResponsesRequest,
    defaults: Sampling,
    owner: Owner = NOBODY,
    adapters: AdapterSet | None = None,
) -> GenerationOptions:
    """Return how the answer is generated; `defaults` hold if the request says nothing."""
    given = {"temperature": request.temperature, "top_p": request.top_p}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return GenerationOptions(
        sampling=msgspec.structs.replace(defaults, **changes),
        max_tokens=request.max_output_tokens,
        n_logprobs=_n_logprobs(request),
        owner=owner,
        adapters=adapters,
    )


def _n_logprobs(request: ResponsesRequest) -> int | None:
    if LOGPROBS in (request.include or ()):
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise ParameterError(
            "top_logprobs", f"top_logprobs is shown only if include has {LOGPROBS!r}", "add it"
        )
    return None


def _note_includes(request: ResponsesRequest) -> None:
    for name in request.include or ():
        if name not in _HARMLESS_INCLUDES | {LOGPROBS, SEALED_REASONING}:
            let_through("include", f"{name!r} is not known")


_ToolMode = Literal["none", "auto", "required"] | NamedTool


def _tools_and_choice(request: ResponsesRequest) -> tuple[tuple[Tool, ...], _ToolMode]:
    tools = tuple(_tools(request))
    choice = request.tool_choice
    if choice is None:
        return tools, "auto"
    if isinstance(choice, OtherToolChoice):
        raise ParameterError(
            "tool_choice", f"tool_choice {choice.type!r} is not supported", "name a function"
        )
    if isinstance(choice, NamedFunction):
        return tools, NamedTool(_known(choice.name, tools))
    if isinstance(choice, AllowedTools):
        return _allowed(choice, tools), choice.mode
    if choice == "required" and not tools:
        raise ParameterError(
            "tool_choice", "tool_choice 'required' needs tools", "give some, or say 'auto'"
        )
    return tools, choice


def _tools(request: ResponsesRequest) -> Iterator[Tool]:
    """Yield the tools that the caller runs; OpenAI's own would run at the server."""
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, ResponsesFunctionTool):
            yield Tool(tool.name, tool.description or "", tool.parameters or {}, bool(tool.strict))
        else:
            skip_tool(index, tool.type)


def _allowed(choice: AllowedTools, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    names = {_known(tool.name, tools) for tool in choice.tools if isinstance(tool, NamedFunction)}
    return tuple(tool for tool in tools if tool.name in names)


def _known(name: str, tools: Iterable[Tool]) -> str:
    if all(tool.name != name for tool in tools):
        raise ParameterError(
            "tool_choice", f"tool_choice names {name!r}, which is not among the tools"
        )
    return name


def _response_format(request: ResponsesRequest) -> JsonObject | JsonSchema | None:
    wanted = request.text.format if request.text else None
    if isinstance(wanted, ResponsesJsonObjectFormat):
        return JsonObject()
    if isinstance(wanted, ResponsesJsonSchemaFormat):
        schema = dict(wanted.schema_)
        if wanted.description:
            schema.setdefault("description", wanted.description)
        return JsonSchema(schema, wanted.name, bool(wanted.strict))
    return None
