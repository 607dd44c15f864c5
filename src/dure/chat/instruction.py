"""Tells a model about its tools if its chat template does not.

Knows the words, in the conventions of Hermes, which most models were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dure.chat.messages import ChatMessage

__all__ = ["with_tools"]

_BEFORE = "You can call these functions, each described as JSON:\n<tools>\n"
_AFTER = (
    "\n</tools>\n\n"
    "To call a function, answer with its name and its arguments as JSON, within these tags:\n"
    '<tool_call>\n{"name": "the function\'s name", "arguments": {"an argument": "its value"}}\n'
    "</tool_call>\n"
    "The results then come within <tool_response></tool_response>. "
    "Call a function only if it helps; else answer as usual."
)


def with_tools(
    messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]]
) -> list[ChatMessage]:
    """Return the conversation with the tools described in its system message."""
    description = (
        _BEFORE + "\n".join(json.dumps(t["function"], ensure_ascii=False) for t in tools) + _AFTER
    )
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{description}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": description}, *messages]
