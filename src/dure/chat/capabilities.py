"""Finds what a chat template can do by rendering small conversations with it.

Knows probes and what their results mean. Refuses to know a model by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dure.chat.template import ChatTemplate
from dure.errors import UsageError

__all__ = ["Capabilities", "capabilities_of"]

_USER = {"role": "user", "content": "probe-question"}
_SYSTEM = {"role": "system", "content": "probe-system"}
_ANSWER = {"role": "assistant", "content": "probe-answer"}
_NAME, _KEY, _VALUE, _RESULT = "probe_tool", "probe_key", "probe-value", "probe-result"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "probe-description",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "probe-parameter"}},
            "required": [_KEY],
        },
    },
}
_SHORT_ID, _LONG_ID = "probe0001", "call_probe00000000000000001"


@dataclass(frozen=True)
class Capabilities:
    """What a template can be given.

    system: messages of that role are written; late_system: also after others.
    parts: contents must be lists of parts.
    consecutive: two messages of one role may follow each other. tools: definitions are written.
    calls: how a past call is rendered, None if it is not. text_arguments: they are given as text.
    broken_arguments: a text that is no JSON object can be given too.
    parallel: a message may have several calls. short_ids: ids must have nine characters.
    thinking_switch, effort: these variables change the prompt.
    """

    system: bool
    late_system: bool
    parts: bool
    consecutive: bool
    tools: bool
    calls: str | None
    text_arguments: bool
    broken_arguments: bool
    parallel: bool
    short_ids: bool
    thinking_switch: bool
    effort: bool


def capabilities_of(template: ChatTemplate) -> Capabilities:
    """Return what a template can do. Renders a dozen small conversations."""
    probe = _TemplateProbe(template)
    probe.parts = not probe.writes([_USER], "probe-question")
    calls = probe.calls()
    return Capabilities(
        system=probe.writes([_SYSTEM, _USER], "probe-system"),
        late_system=probe.writes([_USER, _ANSWER, _SYSTEM, _USER], "probe-system"),
        parts=probe.parts,
        consecutive=probe.writes(
            [_USER, {"role": "user", "content": "probe-more"}, _ANSWER, _ANSWER, _USER],
            "probe-more",
        ),
        tools=probe.writes([_USER], _NAME, tools=[_TOOL]),
        calls=calls.text,
        text_arguments=calls.text_arguments,
        broken_arguments=probe.one_call(True, calls.short_ids) is not None,
        parallel=calls.parallel,
        short_ids=calls.short_ids,
        thinking_switch=probe.differs("enable_thinking", True, False)
        or probe.differs("thinking", True, False),
        effort=probe.differs("reasoning_effort", "low", "high"),
    )


@dataclass(frozen=True)
class _CallStyle:
    text: str | None = None
    text_arguments: bool = False
    parallel: bool = False
    short_ids: bool = False


class _TemplateProbe:
    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.parts = False

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        if self.parts:
            messages = [_with_parts(message) for message in messages]
        try:
            return self._template.render(messages, **options)
        except UsageError:
            return None

    def writes(self, messages: Sequence[Mapping[str, Any]], text: str, **options: Any) -> bool:
        return text in (self.render(messages, **options) or "")

    def differs(self, variable: str, one: Any, other: Any) -> bool:
        if variable not in self._template.variables:
            return False
        rendered = [self.render([_USER], variables={variable: value}) for value in (one, other)]
        return None not in rendered and rendered[0] != rendered[1]

    def calls(self) -> _CallStyle:
        """Return the first style of calls that is rendered well, or else the first that is rendered."""
        found: list[_CallStyle] = []
        for short_ids in (False, True):
            for text_arguments in (False, True):
                text = self.one_call(text_arguments, short_ids)
                if text is None:
                    continue
                parallel = self._several(text_arguments, short_ids)
                calls = _CallStyle(text, text_arguments, parallel, short_ids)
                if re.search(rf'"{_KEY}"\s*:\s*"{_VALUE}"', text):
                    return calls
                found.append(calls)
        return found[0] if found else _CallStyle()

    def one_call(self, text_arguments: bool, short_ids: bool) -> str | None:
        conversation = _conversation(1, text_arguments, short_ids)
        text = self.render(conversation, tools=[_TOOL]) or ""
        return text if all(mark in text for mark in (_KEY, _VALUE, _RESULT + "0")) else None

    def _several(self, text_arguments: bool, short_ids: bool) -> bool:
        text = self.render(_conversation(2, text_arguments, short_ids), tools=[_TOOL]) or ""
        return _VALUE + "1" in text and _RESULT + "1" in text


def _conversation(n: int, text_arguments: bool, short_ids: bool) -> list[Mapping[str, Any]]:
    name = _SHORT_ID if short_ids else _LONG_ID
    calls, results = [], []
    for i in range(n):
        arguments: Any = {_KEY: _VALUE + str(i) if i else _VALUE}
        if text_arguments:
            arguments = json.dumps(arguments)
        call_id = name[:-1] + str(i)
        function = {"name": _NAME, "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": function})
        result = {"role": "tool", "content": f"{_RESULT}{i}", "tool_call_id": call_id}
        results.append({**result, "name": _NAME})
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    return [_USER, asked, *results]


def _with_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
