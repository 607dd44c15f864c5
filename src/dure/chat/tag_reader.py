"""Reads one tool call that is written with a tag for every argument, while it is generated.

Knows `<function=name><parameter=key>value</parameter></function>`, and makes JSON of it with the help of
the tool's schema: a text stays text, anything else is read as JSON. Refuses to know what stands around.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dure.chat.call_reader import Read, call_id
from dure.chat.task import ToolArguments, ToolCall

__all__ = ["TagReader", "is_text"]

_HEAD = re.compile(r"\s*<function=([^>\s]+)>")
_HEAD_LIMIT = 512
_OPENING = re.compile(r"\s*<parameter=([^>\n]+)>\n?")
_END = re.compile(r"\s*</function>")
_MARKS = ("<parameter=", "</function>")
_CLOSING = "</parameter>"
_WORDS = {"True": "true", "False": "false", "None": "null"}  # as some templates write past calls


class TagReader:
    """Reads call number `index`. tools: the parameters' schema of every tool, by name."""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]], index: int) -> None:
        self.accepted = False
        self._tools, self._index = tools, index
        self._pending = self._name = ""
        self._key: str | None = None  # of the parameter that is being read
        self._n = 0
        self._searched = 0  # characters of the pending text in which no closing tag begins

    def feed(self, text: str, final: bool = False) -> Read:
        """Read more text; not after "done" or "rejected"."""
        events: list[ToolCall | ToolArguments] = []
        self._pending += text
        if not self.accepted:
            state = self._open(final)
            if state != "accepted":
                return Read("rejected" if state == "rejected" else "more", [])
            events.append(ToolCall(self._index, call_id(), self._name))
        while (written := self._parameter()) is not None:
            events.append(ToolArguments(self._index, written))
        return self._rest(events, final)

    def _open(self, final: bool) -> str:
        head = _HEAD.match(self._pending)
        if head is not None and head.end() <= _HEAD_LIMIT:
            if head[1] not in self._tools:
                return "rejected"
            self.accepted, self._name = True, head[1]
            self._pending = self._pending[head.end() :]
            return "accepted"
        lead = self._pending.lstrip()[: len("<function=")]
        possible = "<function=".startswith(lead) and len(self._pending) <= _HEAD_LIMIT
        return "more" if possible and not final else "rejected"

    def _parameter(self) -> str | None:
        """Return more of the arguments' JSON, None if more text is needed first."""
        if self._key is None:
            opening = _OPENING.match(self._pending)
            # the line break after the tag belongs to it: wait until it is known
            if opening is None or opening.end() == len(self._pending):
                return None
            self._key, self._searched = opening[1], 0
            self._pending = self._pending[opening.end() :]
        at = self._pending.find(_CLOSING, self._searched)
        if at < 0:
            self._searched = max(0, len(self._pending) - len(_CLOSING))
            return None
        value = self._pending[:at].removesuffix("\n")
        self._pending = self._pending[at + len(_CLOSING) :]
        written = self._lead() + self._json(self._key, value)
        self._key = None
        return written

    def _rest(self, events: list[ToolCall | ToolArguments], final: bool) -> Read:
        if self._key is None:
            end = _END.match(self._pending)
            if end is not None:
                return self._done(events, self._pending[end.end() :])
            lead = self._pending.lstrip()
            known = any(m.startswith(lead[: len(m)]) for m in _MARKS)
            if not known or (final and lead):
                return self._done(events, self._pending)
        elif final:
            cut = self._lead() + json.dumps(self._pending, ensure_ascii=False)[:-1]
            events.append(ToolArguments(self._index, cut))
        return Read("more", events)

    def _done(self, events: list[ToolCall | ToolArguments], rest: str) -> Read:
        events.append(ToolArguments(self._index, "}" if self._n else "{}"))
        return Read("done", events, rest)

    def _lead(self) -> str:
        assert self._key is not None
        self._n += 1
        before = "{" if self._n == 1 else ", "
        return f"{before}{json.dumps(self._key, ensure_ascii=False)}: "

    def _json(self, key: str, value: str) -> str:
        properties = self._tools[self._name].get("properties")
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        if not is_text(schema):
            written = _WORDS.get(value.strip(), value)
            try:
                json.loads(written)
            except (ValueError, RecursionError):
                pass
            else:
                return written.strip()
        return json.dumps(value, ensure_ascii=False)


def is_text(schema: Any) -> bool:
    """Return whether the values of a schema are texts, which are written without quotes."""
    if not isinstance(schema, Mapping):
        return False
    if schema.get("type") == "string":
        return True
    listed = schema.get("enum")
    if "type" in schema or not isinstance(listed, list):
        return False
    return all(isinstance(value, str) for value in listed)
