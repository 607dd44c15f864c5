"""Finds whether a model thinks before it answers, and what a request may choose about it.

Knows the tags around thoughts and the variables that templates read. Refuses to know tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dure.chat.capabilities import Capabilities
from dure.chat.plan import Marks, ReasoningState
from dure.chat.task import ChatTask
from dure.chat.template import RESERVED, ChatTemplate
from dure.errors import ParameterError, UsageError

__all__ = [
    "TemplateVariables",
    "Think",
    "ThinkingSupport",
    "asked_to_think",
    "marks_of",
    "state_of",
    "variables_of",
]

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


Think = Literal["auto", "on", "off", "low", "medium", "high"]
"""Whether to think, or how much; auto leaves it to the model."""


def asked_to_think(task: ChatTask, think: Think) -> ChatTask:
    """Return the task with a wish about thinking, if it has none of its own."""
    said = (task.enable_thinking, task.reasoning_effort)
    chosen = task.template_kwargs.keys() & {"enable_thinking", "reasoning_effort", "thinking"}
    if think == "auto" or said != (None, None) or chosen:
        return task
    if think in ("on", "off"):
        return replace(task, enable_thinking=think == "on")
    return replace(task, reasoning_effort=think)


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


@dataclass(frozen=True)
class TemplateVariables:
    """The variables of a template. unmet: the wishes that this model does not grant, with the reason.

    declined: the wish not to think, if no variable says so; thoughts that the prompt opens are then
    closed at once.
    """

    values: Mapping[str, Any]
    unmet: Mapping[str, str]
    declined: str = ""

    def unmet_by(self, prompt: str, marks: Marks) -> Mapping[str, str]:
        """Return the wishes that a prompt does not grant, with the reason."""
        closed = bool(marks.closing) and prompt.endswith(marks.closing)
        if not self.declined or closed:
            return self.unmet
        return {**self.unmet, self.declined: "this model always thinks before it answers"}


def variables_of(
    task: ChatTask, template: ChatTemplate, can: Capabilities, *, thinks: bool
) -> TemplateVariables:
    """Return the template's variables. Raises UsageError if wishes contradict each other."""
    values, unmet = dict(task.template_kwargs), dict[str, str]()
    enabled = _chosen(task.enable_thinking, values, "enable_thinking")
    effort = _chosen(task.reasoning_effort, values, "reasoning_effort")
    _drop_unread(values, template, unmet)
    thinking = ThinkingSupport(thinks, can.thinking_switch, can.effort)
    name = "reasoning_effort" if effort is not None else "enable_thinking"
    enabled = _enabled(enabled, effort)
    if enabled is True and not thinks:
        unmet[name] = "this model does not think before it answers"
    declined = name if enabled is False and thinks and not thinking.switch else ""
    if effort is not None and effort != "none" and thinking.degrees:
        values["reasoning_effort"] = _degree(effort, template, unmet)
    if enabled is not None and thinking.switch:
        values["enable_thinking"] = values["thinking"] = enabled
    return TemplateVariables(values, unmet, declined)


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


def _drop_unread(values: dict[str, Any], template: ChatTemplate, unmet: dict[str, str]) -> None:
    for name in list(values):
        if name in RESERVED:
            complaint, cure = f"{name!r} is set by the server", "leave it out"
            raise ParameterError(_KWARGS, f"{_KWARGS}: {complaint}", cure)
        if name not in template.variables:
            unmet[f"{_KWARGS}.{name}"] = "this model's template does not read it"
            del values[name]


def _enabled(enabled: bool | None, effort: str | None) -> bool | None:
    if effort is None:
        return enabled
    by_effort = effort != "none"
    if enabled is not None and enabled != by_effort:
        raise UsageError(
            f"enable_thinking {enabled} contradicts reasoning_effort {effort!r}",
            "give one of them",
        )
    return by_effort


def _degree(effort: str, template: ChatTemplate, unmet: dict[str, str]) -> str:
    """Return a degree that the model knows: the wanted one, or else the nearest."""
    if effort in _DEGREES or f"'{effort}'" in template.source or f'"{effort}"' in template.source:
        return effort
    nearest = "low" if effort == "minimal" else "high"
    unmet["reasoning_effort"] = f"this model does not know {effort!r}; it gets {nearest!r}"
    return nearest
