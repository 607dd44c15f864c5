"""Describes what an answer may be: tool calls, content that follows a grammar, or anything.

Plain values that pass from whoever prepares a chat to the format that writes its grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dure.chat.json_schema import Rules, object_rule, schema_rule
from dure.chat.task import ChatTask, NamedTool, Tool
from dure.errors import ParameterError, UsageError

__all__ = [
    "CallRule",
    "Marks",
    "Plan",
    "ReasoningState",
    "arguments_rules",
    "definitions",
    "parameters_of",
    "tools_of",
]

ReasoningState = Literal["none", "open", "free"]
_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")


@dataclass(frozen=True)
class Marks:
    """A template's tags around reasoning; "" if it has none."""

    opening: str = ""
    closing: str = ""


@dataclass(frozen=True)
class CallRule:
    """A tool that may be called, the schema of its arguments, and their rule as JSON."""

    name: str
    arguments: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True)
class Plan:
    """What an answer may be.

    calls: the tools that may be called. forced: one must be called. limit: number of calls; None: no limit.
    content: the rule that the text must follow; "" if there is none.
    reasoning: "none", "open" (the prompt has opened it) or "free" (the model may begin with it).
    """

    rules: Rules
    marks: Marks
    calls: tuple[CallRule, ...]
    forced: bool
    limit: int | None
    content: str
    reasoning: ReasoningState


def tools_of(task: ChatTask) -> list[Tool]:
    """Return the tools that may be called. Raises UsageError if the choice is invalid."""
    names = [tool.name for tool in task.tools]
    for i, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"tools[{i}].function.name {name!r}", "use 1 to 128 letters, digits, _ and -"
            )
        if name in names[:i]:
            raise UsageError(
                f"tools[{i}].function.name {name!r} is there twice", "use another name"
            )
    choice = task.tool_choice
    if isinstance(choice, NamedTool):
        if choice.name not in names:
            raise ParameterError(
                "tool_choice", f"tool_choice: there is no tool {choice.name!r} among the tools"
            )
        return [tool for tool in task.tools if tool.name == choice.name]
    if choice == "required" and not names:
        raise UsageError("tool_choice 'required' needs tools")
    return [] if choice == "none" else list(task.tools)


def definitions(tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
    """Return the tools as templates read them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": parameters_of(tool),
            },
        }
        for tool in tools
    ]


def arguments_rules(rules: Rules, tools: Sequence[Tool]) -> tuple[CallRule, ...]:
    """Return a rule for each tool's arguments. Raises UsageError if a strict tool cannot have one."""
    return tuple(
        CallRule(tool.name, _arguments(rules, tool), parameters_of(tool), tool.strict)
        for tool in tools
    )


def _arguments(rules: Rules, tool: Tool) -> str:
    try:
        return schema_rule(rules, parameters_of(tool), strict=tool.strict)
    except UsageError as error:
        if tool.strict:
            raise UsageError(
                f"the parameters of the tool {tool.name!r}: {error.problem}", error.cure
            ) from error
        return object_rule(rules)


def parameters_of(tool: Tool) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments, which are always an object."""
    if not tool.parameters:
        return {"type": "object", "properties": {}}
    return {"type": "object", **tool.parameters}
