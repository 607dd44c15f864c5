"""Turns Ollama's messages into messages of a chat.

In Ollama's API a result names its tool; in a chat, its call.
Refuses to know options, HTTP and how an answer is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dure.chat.messages import ChatMessage
from dure.errors import UsageError
from dure.serve.ollama.requests import InputCall, OllamaInputMessage

__all__ = ["messages_of", "refuse_images"]


def messages_of(messages: Sequence[OllamaInputMessage]) -> list[ChatMessage]:
    """Return the chat's messages. Raises UsageError naming the one that a text model cannot read."""
    calls = _OpenCalls()
    return [_message(one, calls, f"messages[{i}]") for i, one in enumerate(messages)]


def refuse_images(images: Sequence[Any] | None, place: str) -> None:
    """Raise UsageError if there are any."""
    if images:
        raise UsageError(f"{place} are not supported", "this model reads text only, leave them out")


class _OpenCalls:
    """The calls that have no result yet: (id, tool's name)."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []
        self._n = 0

    def made(self, call: InputCall) -> str:
        name = call.id or f"call_{self._n}"
        self._n += 1
        self._waiting.append((name, call.function.name))
        return name

    def answered(self, call_id: str | None, tool: str | None, place: str) -> str:
        """Return the id of the call that a result is of: by id, by name, or else the oldest."""
        for waiting in self._waiting:
            if (call_id in (None, waiting[0])) and (tool in (None, "", waiting[1])):
                self._waiting.remove(waiting)
                return waiting[0]
        if call_id or not (self._waiting or tool):
            return call_id or "call_0"
        raise UsageError(f"{place}.tool_name {tool!r} is of no call that waits for its result")


def _message(message: OllamaInputMessage, calls: _OpenCalls, place: str) -> ChatMessage:
    refuse_images(message.images, f"{place}.images")
    result: ChatMessage = {"role": message.role, "content": message.content or ""}
    if message.role == "tool":
        result["tool_call_id"] = calls.answered(message.tool_call_id, message.tool_name, place)
        if message.tool_name:
            result["name"] = message.tool_name
    if message.thinking:
        result["reasoning_content"] = message.thinking
    if message.tool_calls:
        result["tool_calls"] = [_call(call, calls) for call in message.tool_calls]
    return result


def _call(call: InputCall, calls: _OpenCalls) -> ChatMessage:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": calls.made(call), "type": "function", "function": function}
