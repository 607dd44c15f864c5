"""Reads one tool call that is written as JSON, while it is generated.

Knows `{"name": ..., "arguments": {...}}` in its variants: either order of the keys, more keys, and
arguments that are JSON within a string. Refuses to know what tags stand around it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from dure.chat.json_scan import JsonScan
from dure.chat.task import ToolArguments, ToolCall

__all__ = ["CallReader", "Read", "call_id"]

_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]*)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_HEAD_LIMIT = 512  # characters within which a head must be seen to stream what follows
_NAME = re.compile(r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]*)"')
_KEYS = ("arguments", "parameters")


def call_id() -> str:
    """Return a new id of the form that OpenAI's have."""
    return "call_" + secrets.token_hex(12)


@dataclass(frozen=True)
class Read:
    """The result of reading a text: the events, and the rest. "rejected": it is no call."""

    state: Literal["more", "done", "rejected"]
    events: list[ToolCall | ToolArguments]
    rest: str = ""


class CallReader:
    """Reads call number `index`. A call of a name that is not in `names` is no call.

    eager: reject as early as can be known, because other JSON may stand here as well.
    """

    def __init__(self, names: Collection[str], index: int, *, eager: bool = False) -> None:
        self.accepted = False
        self._names, self._index, self._eager = names, index, eager
        self._head = ""
        self._outer = JsonScan()
        self._arguments: JsonScan | None = None

    def feed(self, text: str, final: bool = False) -> Read:
        """Read more text; not after "done" or "rejected"."""
        return self._tail(text) if self.accepted else self._open(text, final)

    def _open(self, text: str, final: bool) -> Read:
        if not self._head:
            text = text.lstrip()
        if not self._head and text and text[0] != "{":
            return Read("rejected", [])
        end = self._outer.feed(text)
        seen = self._head + text
        if (head := self._streamable(seen)) is not None:
            return self._accept(head, seen)
        if self._eager and not self._possible(seen):
            return Read("rejected", [])
        if end is not None and not self._outer.broken:
            return self._whole(seen[: len(self._head) + end], text[end:])
        if self._outer.broken or final:
            return Read("rejected", [])
        self._head = seen
        return Read("more", [])

    def _streamable(self, seen: str) -> re.Match[str] | None:
        if len(self._head) > _HEAD_LIMIT:
            return None
        head = _HEAD.match(seen)
        if head is None or head.end() > _HEAD_LIMIT or head[1] not in self._names:
            return None
        return head

    def _accept(self, head: re.Match[str], seen: str) -> Read:
        self.accepted = True
        self._outer, self._arguments = JsonScan(), JsonScan()
        self._outer.feed(head[0])
        read = self._tail(seen[head.end() :])
        call = ToolCall(self._index, call_id(), head[1])
        return Read(read.state, [call, *read.events], read.rest)

    def _tail(self, text: str) -> Read:
        events: list[ToolCall | ToolArguments] = []
        if self._arguments is not None:
            end = self._arguments.feed(text)
            part = text if end is None else text[:end]
            if part:
                events.append(ToolArguments(self._index, part))
            if end is None:
                return Read("more", events)
            if self._arguments.broken:
                return Read("done", events, text[end:])
            text, self._arguments = text[end:], None
        end = self._outer.feed(text)
        if end is None:
            return Read("more", events)
        return Read("done", events, text[end:])

    def _whole(self, raw: str, rest: str) -> Read:
        call = _call_of(raw, self._names)
        if call is None:
            return Read("rejected", [])
        self.accepted = True
        name, arguments = call
        return Read(
            "done",
            [ToolCall(self._index, call_id(), name), ToolArguments(self._index, arguments)],
            rest,
        )

    def _possible(self, seen: str) -> bool:
        """Return whether a call may begin so, with its keys in the usual order."""
        named = _NAME.match(seen[:_HEAD_LIMIT])
        if named is not None:
            return named[1] in self._names
        if len(seen) >= _HEAD_LIMIT:
            return False
        bare = re.sub(r"\s", "", seen)[:64]
        return any(
            head.startswith(bare) or bare.startswith(head)
            for head in ('{"name":"', '{"type":"function","name":"')
        )


def _call_of(raw: str, names: Collection[str]) -> tuple[str, str] | None:
    try:
        value: Any = json.loads(raw, strict=False)
    except (ValueError, RecursionError):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    arguments: Any = next((value[key] for key in _KEYS if key in value), {})
    if isinstance(arguments, str):
        return (name, arguments) if _is_object(arguments) else None
    if arguments is None:
        arguments = {}
    return (
        (name, json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
