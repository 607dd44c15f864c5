"""What a model gives a program: an answer, its pieces while it is generated, and calls of tools.

Plain values. Refuses to know how they are generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dure.chat.task import TokenLogprob
from dure.generate.request import Timings

__all__ = ["Answer", "CallOfTool", "Piece"]


@dataclass(frozen=True)
class CallOfTool:
    """A tool that the model wants called. arguments: by name; empty if the answer was cut off."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """A little more of an answer: of its text, or of the thoughts before it. str() is the text."""

    text: str = ""
    reasoning: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Answer:
    """What the model answered. str() is the text.

    finish: "stop" (the model ended it, or a stop string), "length" (max_tokens or the context is reached)
    or "tool_calls". tokens: all that were generated. reasoning: thoughts before the text. logprobs: of the
    tokens of reasoning and text, if they were asked for. timings: what it took.
    """

    text: str
    finish: Literal["stop", "length", "tool_calls"]
    tokens: tuple[int, ...]
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[CallOfTool, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to go on with the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [_as_message(call) for call in self.tool_calls]
        return message


def _as_message(call: CallOfTool) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
