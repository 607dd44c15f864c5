"""Brings messages into the form that one template takes.

Knows what templates refuse: system messages, messages of one role in a row, several calls in one
message, long ids. What a template cannot write is written as text. Refuses to know Jinja.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from dure.chat.capabilities import Capabilities
from dure.chat.messages import ChatMessage

__all__ = ["adapted"]


def adapted(
    messages: Sequence[ChatMessage], can: Capabilities, *, native_calls: bool
) -> list[ChatMessage]:
    """Return the conversation for a template.

    native_calls: the template writes tool calls and results itself.
    """
    result = list(messages)
    if not native_calls:
        result = [_as_text(message) for message in result]
    elif not can.parallel:
        result = _one_call_each(result)
    if not (can.system and can.late_system):
        first = 1 if can.system and result[0]["role"] == "system" else 0
        result = result[:first] + _system_in_user(result[first:])
    if not can.consecutive:
        result = _merged(result)
    return [_shaped(message, can) for message in result]


def _as_text(message: ChatMessage) -> ChatMessage:
    if message["role"] == "tool":
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [_written(call["function"]) for call in calls]
    said = [message["content"]] if message["content"] else []
    others = {k: v for k, v in message.items() if k != "tool_calls"}
    return {**others, "content": "\n".join(said + written)}


def _written(function: ChatMessage) -> str:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {text}}}\n</tool_call>'


def _one_call_each(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Split a message with several calls into several, each followed by its own result."""
    result: list[ChatMessage] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if len(message.get("tool_calls", ())) < 2:
            result.append(message)
            continue
        n = 0
        while at + n < len(messages) and messages[at + n]["role"] == "tool":
            n += 1
        result += _paired(message, messages[at : at + n])
        at += n
    return result


def _paired(message: ChatMessage, results: list[ChatMessage]) -> list[ChatMessage]:
    left, pairs = list(results), []
    for i, call in enumerate(message["tool_calls"]):
        asked = {**message, "tool_calls": [call]}
        if i:
            asked = {"role": "assistant", "content": "", "tool_calls": [call]}
        pairs.append(asked)
        own = [r for r in left if r.get("tool_call_id") == call["id"]][:1]
        pairs += own
        left = [r for r in left if r not in own]
    return pairs + left


def _system_in_user(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Put the text of each system message before that of the next user message."""
    result: list[ChatMessage] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
            continue
        if waiting and message["role"] != "user":
            result.append({"role": "user", "content": "\n\n".join(waiting)})
        elif waiting:
            text = "\n\n".join([*waiting, message["content"]])
            result.append({**message, "content": text})
            waiting = []
            continue
        waiting = []
        result.append(message)
    if waiting:
        result.append({"role": "user", "content": "\n\n".join(waiting)})
    return result


def _merged(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Merge neighbours of one role into one message."""
    result: list[ChatMessage] = []
    for message in messages:
        last = result[-1] if result else None
        if last is None or last["role"] != message["role"] or message["role"] == "tool":
            result.append(message)
            continue
        text = "\n\n".join(filter(None, (last["content"], message["content"])))
        calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
        result[-1] = {**last, **message, "content": text}
        if calls:
            result[-1]["tool_calls"] = calls
    return result


def _shaped(message: ChatMessage, can: Capabilities) -> ChatMessage:
    result = dict(message)
    if can.parts:
        result["content"] = [{"type": "text", "text": message["content"]}]
    if "tool_calls" in message:
        result["tool_calls"] = [_shaped_call(call, can) for call in message["tool_calls"]]
    if can.short_ids and "tool_call_id" in message:
        result["tool_call_id"] = _short(message["tool_call_id"])
    return result


def _shaped_call(call: ChatMessage, can: Capabilities) -> ChatMessage:
    function = dict(call["function"])
    arguments: Any = function["arguments"]
    if can.text_arguments and not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    elif isinstance(arguments, str) and not can.broken_arguments:
        function["arguments"] = {"arguments": arguments}  # of a call that was cut, perhaps
    return {**call, "id": _short(call["id"]) if can.short_ids else call["id"], "function": function}


def _short(call_id: str) -> str:
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
