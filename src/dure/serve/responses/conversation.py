"""Turns items of the Responses API into messages of a chat.

What the model thought, said and called in a row is one message of the assistant.
Refuses to know options, HTTP and how an answer is written.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from dure.chat.messages import ChatMessage
from dure.errors import ParameterError
from dure.serve.responses.requests import (
    FunctionCallOutput,
    InputItem,
    InputPart,
    MessageItem,
    OtherItem,
    OtherPart,
    ReasoningItem,
    ResponsesFunctionCall,
    ResponsesRefusalPart,
)

__all__ = ["messages_of", "sealed", "unsealed"]


def messages_of(instructions: str | None, items: str | Sequence[InputItem]) -> list[ChatMessage]:
    """Return the chat's messages. Raises ParameterError naming an item that a text model cannot read."""
    messages: list[ChatMessage] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    turns = _Turns(messages)
    for index, item in enumerate(items):
        turns.add(item, f"input[{index}]")
    return turns.finish()


def sealed(reasoning: str) -> str:
    """Return reasoning as `encrypted_content`: opaque, not secret, as `content` shows it anyway."""
    return base64.b64encode(reasoning.encode()).decode()


def unsealed(content: str, place: str) -> str:
    """Return the reasoning in `encrypted_content`. Raises ParameterError if another server sealed it."""
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ParameterError(
            "input",
            f"{place}.encrypted_content was not made by this server",
            "leave the reasoning item out",
        ) from None


class _Turns:
    """Collects messages; `_answer` is the assistant's message that is not complete yet."""

    def __init__(self, messages: list[ChatMessage]) -> None:
        self._messages = messages
        self._answer: ChatMessage | None = None

    def add(self, item: InputItem, place: str) -> None:
        if isinstance(item, OtherItem):
            raise ParameterError(
                "input",
                f"{place}: items of type {item.type!r} are not supported",
                "give messages, function_call, function_call_output and reasoning",
            )
        if isinstance(item, ReasoningItem):
            self._think(_reasoning(item, place))
        elif isinstance(item, ResponsesFunctionCall):
            self._call(item)
        elif isinstance(item, FunctionCallOutput):
            output = _text(item.output, f"{place}.output")
            self._close({"role": "tool", "tool_call_id": item.call_id, "content": output})
        else:
            glue = "" if item.role == "assistant" else "\n"
            self._say(item, _text(item.content, f"{place}.content", glue))

    def finish(self) -> list[ChatMessage]:
        self._flush()
        if not self._messages:
            raise ParameterError("input", "input is empty", "give at least one message")
        return self._messages

    def _open(self) -> ChatMessage:
        if self._answer is None:
            self._answer = {"role": "assistant", "content": None}
        return self._answer

    def _think(self, text: str) -> None:
        if self._answer is not None and not _only_thought(self._answer):
            self._flush()
        answer = self._open()
        answer["reasoning_content"] = answer.get("reasoning_content", "") + text

    def _call(self, item: ResponsesFunctionCall) -> None:
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        self._open().setdefault("tool_calls", []).append(call)

    def _say(self, item: MessageItem, text: str) -> None:
        if item.role != "assistant":
            self._close({"role": item.role, "content": text})
            return
        if self._answer is not None and not _only_thought(self._answer):
            self._flush()
        self._open()["content"] = text

    def _close(self, message: ChatMessage) -> None:
        self._flush()
        self._messages.append(message)

    def _flush(self) -> None:
        if self._answer is not None:
            self._messages.append(self._answer)
            self._answer = None


def _only_thought(message: ChatMessage) -> bool:
    return message["content"] is None and "tool_calls" not in message


def _reasoning(item: ReasoningItem, place: str) -> str:
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content:
        return unsealed(item.encrypted_content, place)
    return "\n\n".join(part.text for part in item.summary)


def _text(content: str | Sequence[InputPart], place: str, glue: str = "\n") -> str:
    if isinstance(content, str):
        return content
    return glue.join(_part_text(part, f"{place}[{i}]") for i, part in enumerate(content))


def _part_text(part: InputPart, place: str) -> str:
    if isinstance(part, OtherPart):
        raise ParameterError(
            "input",
            f"{place}: type {part.type!r} is not supported",
            "this model reads text only, leave it out",
        )
    return part.refusal if isinstance(part, ResponsesRefusalPart) else part.text
