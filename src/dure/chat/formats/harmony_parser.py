"""Parses harmony's answers while they are generated.

Knows headers, bodies and what ends them. A malformed header becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from dure.chat.call_reader import call_id
from dure.chat.parser import Parsed, StateParser, held_back
from dure.chat.task import Content, Reasoning, ToolArguments, ToolCall

__all__ = ["HarmonyParser"]

_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_HEADS = ("<|start|>assistant", "<|channel|>", " to=")
_BODY = "<|message|>"
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_HEADER_LIMIT = 512


class HarmonyParser(StateParser):
    """A ChatParser. channel: of the message that the prompt has begun; None if it has not."""

    def __init__(self, names: Collection[str], channel: str | None) -> None:
        super().__init__()
        self._names = names
        self._wrap: Callable[[str], Parsed] = Content
        self._state = self._header
        if channel is not None:
            self._wrap = Reasoning if channel == "analysis" else Content
            self._state = self._body

    def _header(self, final: bool) -> bool:
        text = self._pending
        if not text:
            return False
        heads = [head for head in _HEADS if text.startswith(head)]
        if not heads:
            if any(head.startswith(text) for head in _HEADS) and not final:
                return False
            return self._no_header()
        at = text.find(_BODY)
        if at < 0 or at > _HEADER_LIMIT:
            if len(text) <= _HEADER_LIMIT + len(_BODY) and not final:
                return False
            return self._no_header()
        self._pending = text[at + len(_BODY) :]
        return self._open(text[:at])

    def _open(self, header: str) -> bool:
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient is not None and recipient[1] in self._names:
            index, self._n_calls = self._n_calls, self._n_calls + 1
            self._events.append(ToolCall(index, call_id(), recipient[1]))
            return self._begin(lambda text: ToolArguments(index, text))
        if "to=" in header:  # an unknown recipient: the call becomes text
            self._events.append(Content(header + _BODY))
        elif channel is not None and channel[1] == "analysis":
            return self._begin(Reasoning)
        return self._begin(Content)

    def _no_header(self) -> bool:
        """Treat it as text; consume one character, so that no marker is parsed twice."""
        self._events.append(Content(self._pending[:1]))
        self._pending = self._pending[1:]
        return self._begin(Content)

    def _begin(self, wrap: Callable[[str], Parsed]) -> bool:
        self._wrap, self._state = wrap, self._body
        return True

    def _body(self, final: bool) -> bool:
        found = [(self._pending.find(end), end) for end in _ENDS if end in self._pending]
        if not found:
            n_held = 0 if final else held_back(self._pending, _ENDS)
            self._emit(self._pending[: len(self._pending) - n_held])
            self._pending = self._pending[len(self._pending) - n_held :]
            return False
        at, end = min(found)
        self._emit(self._pending[:at])
        self._pending = self._pending[at if end == "<|start|>" else at + len(end) :]
        self._state = self._header
        return True

    def _emit(self, text: str) -> None:
        if text:
            self._events.append(self._wrap(text))
