"""Makes a chat task and options of a Responses request; refuses by name what cannot be honoured.

Refuses to know HTTP and how the answer is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from dure.errors import ParameterError
from dure.generate.request import Sampling
from dure.serve.responses.conversation import messages_of
from dure.serve.responses.requests import (
    AllowedTools,
    NamedFunction,
    OtherToolChoice,
    ResponsesFunctionTool,
    ResponsesJsonObjectFormat,
    ResponsesJsonSchemaFormat,
    ResponsesOtherTool,
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
    _refuse(request)
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


def options_of(request: ResponsesRequest, defaults: Sampling, owner: str = "") -> GenerationOptions:
    """Return how the answer is generated; `defaults` hold if the request says nothing."""
    given = {"temperature": request.temperature, "top_p": request.top_p}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return GenerationOptions(
        sampling=msgspec.structs.replace(defaults, **changes),
        max_tokens=request.max_output_tokens,
        n_logprobs=_n_logprobs(request),
        owner=owner,
    )


def _n_logprobs(request: ResponsesRequest) -> int | None:
    if LOGPROBS in (request.include or ()):
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise ParameterError(
            "top_logprobs", f"top_logprobs is shown only if include has {LOGPROBS!r}", "add it"
        )
    return None


@dataclass(frozen=True)
class _UnsupportedField:
    name: str
    cure: str
    harmless: tuple[Any, ...] = (None, False)


_REFUSALS = (
    _UnsupportedField("store", "nothing is stored here: leave it out or say false"),
    _UnsupportedField("background", "answers are not kept: leave it out and use stream"),
    _UnsupportedField(
        "previous_response_id", "nothing is stored here: send the whole conversation in input"
    ),
    _UnsupportedField(
        "conversation", "nothing is stored here: send the whole conversation in input"
    ),
    _UnsupportedField(
        "prompt", "no prompts are stored here: send its text in instructions and input"
    ),
    _UnsupportedField(
        "truncation", "input is never shortened: leave old items out", (None, "disabled")
    ),
)


def _refuse(request: ResponsesRequest) -> None:
    for refusal in _REFUSALS:
        value = getattr(request, refusal.name)
        if value not in refusal.harmless:
            raise ParameterError(
                refusal.name, f"{refusal.name} {value!r} is not supported: {refusal.cure}"
            )
    if request.text and request.text.verbosity:
        raise ParameterError(
            "text.verbosity",
            "text.verbosity is not supported",
            "say in instructions how long to write",
        )
    if request.stream_options and request.stream_options.include_obfuscation:
        raise ParameterError(
            "stream_options", "stream_options.include_obfuscation is not supported", "leave it out"
        )
    _refuse_reasoning(request)
    for name in request.include or ():
        if name not in _HARMLESS_INCLUDES | {LOGPROBS, SEALED_REASONING}:
            raise ParameterError("include", f"include {name!r} is not known", "leave it out")


def _refuse_reasoning(request: ResponsesRequest) -> None:
    """Refuse summaries; for `auto` the reasoning itself will do, which is given in full."""
    if request.reasoning is None:
        return
    for name in ("summary", "generate_summary"):
        value = getattr(request.reasoning, name)
        if value not in (None, "auto"):
            raise ParameterError(
                f"reasoning.{name}",
                f"reasoning.{name} {value!r} is not supported: reasoning is given in full, "
                "not summarized; leave it out",
            )


_ToolMode = Literal["none", "auto", "required"] | NamedTool


def _tools_and_choice(request: ResponsesRequest) -> tuple[tuple[Tool, ...], _ToolMode]:
    tools = tuple(_tool(tool, i) for i, tool in enumerate(request.tools or ()))
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


def _tool(tool: ResponsesFunctionTool | ResponsesOtherTool, index: int) -> Tool:
    if isinstance(tool, ResponsesOtherTool):
        raise ParameterError(
            "tools",
            f"tools[{index}]: type {tool.type!r} is not supported",
            "give functions of your own",
        )
    return Tool(tool.name, tool.description or "", tool.parameters or {}, bool(tool.strict))


def _allowed(choice: AllowedTools, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    names = {_known(tool.name, tools) for tool in choice.tools}
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
        return JsonSchema(schema, wanted.name, wanted.strict is not False)
    return None
