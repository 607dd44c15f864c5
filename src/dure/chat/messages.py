"""Checks the messages of a request, and brings them into one shape.

Knows the roles and parts of OpenAI's chat API. Refuses to know any template: `adapt` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dure.errors import ParameterError, UsageError

__all__ = ["ChatMessage", "normalized"]

ChatMessage = dict[str, Any]

_ROLES = {"developer": "system", "function": "tool"}
_KNOWN = ("system", "user", "assistant", "tool")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def normalized(messages: Sequence[Mapping[str, Any]]) -> list[ChatMessage]:
    """Return the messages with known roles, texts, and calls whose arguments are objects.

    Keys: role, content (str), and if they apply tool_calls, tool_call_id, name, reasoning_content.
    Raises UsageError naming the message's place.
    """
    if not messages:
        raise ParameterError("messages", "messages: a conversation needs at least one message")
    result = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    _name_tools(result)
    return result


def _message(message: Mapping[str, Any], place: str) -> ChatMessage:
    if not isinstance(message, Mapping):
        raise UsageError(f"{place} must be an object with a role and a content")
    role = message.get("role")
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _KNOWN:
        raise UsageError(
            f"{place}.role {role!r} is not known", "use system, developer, user, assistant or tool"
        )
    result: ChatMessage = {"role": role, "content": _text(message.get("content"), place)}
    if role == "assistant":
        _add_answer(result, message, place)
    elif role == "tool":
        _add_result(result, message)
    elif isinstance(message.get("name"), str):
        result["name"] = message["name"]
    return result


def _add_answer(result: ChatMessage, message: Mapping[str, Any], place: str) -> None:
    if not result["content"] and message.get("refusal"):
        result["content"] = _text(message["refusal"], place)
    calls = message.get("tool_calls")
    if not calls and isinstance(message.get("function_call"), Mapping):
        calls = [{"function": message["function_call"]}]
    if calls:
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise UsageError(f"{place}.tool_calls must be a list")
        result["tool_calls"] = [
            _call(call, i, f"{place}.tool_calls[{i}]") for i, call in enumerate(calls)
        ]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        result["reasoning_content"] = _text(reasoning, place)


def _add_result(result: ChatMessage, message: Mapping[str, Any]) -> None:
    for key in ("tool_call_id", "name"):
        if isinstance(message.get(key), str):
            result[key] = message[key]


def _call(call: Any, index: int, place: str) -> ChatMessage:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(f"{place}.function must have a name and arguments")
    return {
        "id": str(call.get("id") or f"call_{index}"),
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": _arguments(function.get("arguments")),
        },
    }


def _arguments(arguments: Any) -> Any:
    """Return the arguments as an object, or as the text they are if a model wrote no object."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _text(content: Any, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UsageError(f"{place}.content must be a text or a list of parts")
    return "\n".join(_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))


def _part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        raise UsageError(f"{place}: parts of type {kind!r} are not supported", "send text")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise UsageError(f"{place}.{_TEXT_PARTS[kind]} must be a text")
    return text


def _name_tools(messages: list[ChatMessage]) -> None:
    """Add the tool's name to results: templates want it, and clients send the call's id only."""
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and "name" not in message:
            name = names.get(message.get("tool_call_id", ""))
            if name is not None:
                message["name"] = name
