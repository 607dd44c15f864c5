"""Turns Anthropic's content blocks into messages of a chat.

Refuses to know options, HTTP and how an answer is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dure.chat.messages import ChatMessage
from dure.errors import UsageError
from dure.http.unused_fields import note_unused
from dure.serve.anthropic.requests import (
    AnthropicInputMessage,
    CountTokensRequest,
    InputBlock,
    OtherBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)

__all__ = ["found_tools", "messages_of"]

_BILLING = "x-anthropic-billing-header:"


def messages_of(request: CountTokensRequest) -> list[ChatMessage]:
    """Return the chat's messages. Raises UsageError naming the block that a text model cannot read."""
    messages: list[ChatMessage] = []
    if system := _system(request.system or ""):
        messages.append({"role": "system", "content": system})
    for index, message in enumerate(request.messages):
        messages += _messages(message, f"messages.{index}")
    return messages


def _system(system: str | Sequence[TextBlock]) -> str:
    """Return the system's text, without Claude Code's note to Anthropic's accountants.

    The note differs in every session, so no two could share the prefix that follows it.
    """
    if isinstance(system, str):
        return system
    told = [block.text for block in system if not block.text.startswith(_BILLING)]
    if len(told) < len(system):
        note_unused("system.billing_header")
    return "\n\n".join(told)


def _messages(message: AnthropicInputMessage, place: str) -> list[ChatMessage]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    blocks = [
        (block, f"{place}.content.{i}")
        for i, block in enumerate(message.content)
        if not _is_sealed(block)
    ]
    for block, at in blocks:
        _check(block, message.role, at)
    if message.role == "assistant":
        return [_assistant([block for block, _ in blocks])]
    # A call's results follow the call, whatever else the user says with them.
    results = [_result(block, at) for block, at in blocks if isinstance(block, ToolResultBlock)]
    texts = [block.text for block in message.content if isinstance(block, TextBlock)]
    if texts or not results:
        return [*results, {"role": message.role, "content": "\n".join(texts)}]
    return results


_BLOCKS_OF = {
    "user": (TextBlock, ToolResultBlock),
    "assistant": (TextBlock, ThinkingBlock, ToolUseBlock),
    "system": (TextBlock,),
}


def _is_sealed(block: InputBlock) -> bool:
    """Return whether a block holds thoughts that nobody but Anthropic can read."""
    return isinstance(block, OtherBlock) and block.type == "redacted_thinking"


def _check(block: InputBlock, role: str, place: str) -> None:
    if isinstance(block, OtherBlock):
        raise _unreadable(block, place)
    if not isinstance(block, _BLOCKS_OF[role]):
        raise UsageError(f"{place}: a block of type {block.type!r} is not of the role {role!r}")


def _unreadable(block: OtherBlock, place: str) -> UsageError:
    if block.type == "image":
        return UsageError(
            f"{place}: image input is not supported", "this model reads text only, leave it out"
        )
    return UsageError(
        f"{place}: blocks of type {block.type!r} are not supported",
        "this model reads text only, leave it out",
    )


def _assistant(blocks: Sequence[InputBlock]) -> ChatMessage:
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    message: ChatMessage = {"role": "assistant", "content": "".join(texts) if texts else None}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    return message


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ToolResultBlock, place: str) -> ChatMessage:
    text = _result_text(block, place)
    if block.is_error:
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _result_text(block: ToolResultBlock, place: str) -> str:
    if block.content is None or isinstance(block.content, str):
        return block.content or ""
    texts = []
    for index, part in enumerate(block.content):
        if isinstance(part, OtherBlock):
            raise _unreadable(part, f"{place}.content.{index}")
        texts.append(_part_text(part))
    return "\n".join(texts)


def _part_text(part: TextBlock | ToolReferenceBlock) -> str:
    if isinstance(part, TextBlock):
        return part.text
    return f"The tool {part.tool_name} can be called now."


def found_tools(request: CountTokensRequest) -> set[str]:
    """Return the names of the deferred tools that a search in the conversation has found."""
    blocks = (
        block
        for message in request.messages
        if not isinstance(message.content, str)
        for block in message.content
    )
    return {
        part.tool_name
        for block in blocks
        if isinstance(block, ToolResultBlock) and not isinstance(block.content, str)
        for part in block.content or ()
        if isinstance(part, ToolReferenceBlock)
    }
