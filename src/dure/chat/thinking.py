"""Finds whether a model thinks before it answers, and what a request may choose about it.

Knows the tags around thoughts and the variables that templates read. Refuses to know tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dure.chat.capabilities import Capabilities
from dure.chat.plan import Marks, ReasoningState
from dure.chat.task import ChatTask
from dure.chat.template import RESERVED, ChatTemplate
from dure.errors import ParameterError, UsageError

__all__ = ["ThinkingSupport", "marks_of", "state_of", "variables_of"]

_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
_KWARGS = "chat_template_kwargs"
_DEGREES = ("low", "medium", "high")


@dataclass(frozen=True)
class ThinkingSupport:
    """What a model supports: thinking, switching it off, and degrees of it."""

    thinks: bool
    switch: bool
    degrees: bool


def marks_of(template: ChatTemplate) -> Marks:
    """Return the tags around thoughts that a template mentions."""
    for opening, closing in _PAIRS:
        if closing in template.source:
            return Marks(opening, closing)
    return Marks()


def state_of(prompt: str, marks: Marks) -> ReasoningState:
    """Return whether the answer to a prompt has reasoning, and who opens it."""
    if not marks.closing:
        return "none"
    written = prompt.rstrip()
    if written.endswith(marks.opening):
        return "open"
    return "none" if written.endswith(marks.closing) else "free"


def variables_of(
    task: ChatTask, template: ChatTemplate, can: Capabilities, *, thinks: bool
) -> dict[str, Any]:
    """Return the template's variables. Raises UsageError naming what it cannot honour."""
    values = dict(task.template_kwargs)
    enabled = _chosen(task.enable_thinking, values, "enable_thinking")
    effort = _chosen(task.reasoning_effort, values, "reasoning_effort")
    _check_names(values, template)
    thinking = ThinkingSupport(thinks, can.thinking_switch, can.effort)
    enabled = _enabled(enabled, effort, thinking)
    if effort is not None and effort != "none" and thinking.degrees:
        values["reasoning_effort"] = _degree(effort, template)
    if enabled is not None and thinking.switch:
        values["enable_thinking"] = values["thinking"] = enabled
    return values


def _chosen(said: Any, values: dict[str, Any], name: str) -> Any:
    """Return the request's value, from its own parameter or the template's variables."""
    other = values.pop(name, None)
    if said is not None and other is not None and said != other:
        raise UsageError(f"{name} is given twice, as {said!r} and as {other!r}", "give it once")
    chosen = other if said is None else said
    kind = bool if name == "enable_thinking" else str
    if chosen is not None and not isinstance(chosen, kind):
        raise UsageError(f"{name} {chosen!r} must be a {'boolean' if kind is bool else 'text'}")
    return chosen


def _check_names(values: Mapping[str, Any], template: ChatTemplate) -> None:
    for name in values:
        if name in RESERVED:
            complaint, cure = f"{name!r} is set by the server", "leave it out"
            raise ParameterError(_KWARGS, f"{_KWARGS}: {complaint}", cure)
        if name not in template.variables:
            complaint = f"this model's template does not read {name!r}"
            raise ParameterError(_KWARGS, f"{_KWARGS}: {complaint}")


def _enabled(enabled: bool | None, effort: str | None, thinking: ThinkingSupport) -> bool | None:
    if effort is not None:
        by_effort = effort != "none"
        if enabled is not None and enabled != by_effort:
            raise UsageError(
                f"enable_thinking {enabled} contradicts reasoning_effort {effort!r}",
                "give one of them",
            )
        name, value, enabled = "reasoning_effort", effort, by_effort
    else:
        name, value = "enable_thinking", str(enabled)
    if enabled is True and not thinking.thinks:
        raise UsageError(
            f"{name} {value!r}: this model does not think before it answers", "leave it out"
        )
    if enabled is False and thinking.thinks and not thinking.switch:
        raise UsageError(f"{name} {value!r}: this model always thinks before it answers")
    return enabled


def _degree(effort: str, template: ChatTemplate) -> str:
    if effort in _DEGREES or f"'{effort}'" in template.source or f'"{effort}"' in template.source:
        return effort
    raise UsageError(
        f"reasoning_effort {effort!r} is not known to this model", "use low, medium or high"
    )
