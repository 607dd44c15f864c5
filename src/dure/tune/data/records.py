"""Examples as they are written in files: one JSON object on each line, or plain text.

Knows three kinds: conversations as in OpenAI's chat API, pairs of a prompt and its answer, and texts. A
file is of the kind of its first line. Refuses to know tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dure.errors import ResourceError, UsageError

__all__ = ["ExampleRecord", "Kind", "read_records", "record_of"]

_CURE = (
    'write {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...} on each line'
)
_PAIRS = (("prompt", "completion"), ("instruction", "output"), ("question", "answer"))
_SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}
_LINES = (".json", ".jsonl", ".ndjson")


class Kind(StrEnum):
    """What an example is."""

    CHAT = "conversations"
    PAIR = "pairs"
    TEXT = "texts"


@dataclass(frozen=True)
class ExampleRecord:
    """An example. place: its file and line. messages: of a conversation or a pair.

    parts: of a text, each with the weight of its loss.
    """

    kind: Kind
    place: str
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    parts: Sequence[tuple[str, float]] = ()

    @property
    def share(self) -> float:
        """Return a number from 0 to 1 that depends on what the example says, and on nothing else."""
        said = json.dumps([self.messages, self.tools, self.parts], sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8]) / 2**64


def read_records(path: Path) -> Iterator[ExampleRecord]:
    """Yield the examples of a file. Raises UsageError that names the line, ResourceError."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() not in _LINES:
                text = _decoded(file.read(), str(path))
                yield ExampleRecord(Kind.TEXT, str(path), parts=[(text, 1.0)])
                return
            first: Kind | None = None
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{path} line {number}"
                record = record_of(_object(line, place), place)
                first = first or record.kind
                if record.kind is not first:
                    raise UsageError(
                        f"{place}: the first line of the file is one of {first}, this one of "
                        f"{record.kind}",
                        "put them into files of their own, and give --data twice",
                    )
                yield record
    except OSError as error:
        raise ResourceError(f"--data {path} cannot be read: {error.strerror}") from error


def record_of(said: Mapping[str, Any], place: str) -> ExampleRecord:
    """Return the example that an object says. Raises UsageError that names its place and the field."""
    if "messages" in said:
        messages = _messages(said["messages"], f'{place}: "messages"')
        return ExampleRecord(Kind.CHAT, place, messages, _tools(said, place))
    if "conversations" in said:
        messages = _spoken(said["conversations"], f'{place}: "conversations"')
        return ExampleRecord(Kind.CHAT, place, messages, _tools(said, place))
    for asks, answers in _PAIRS:
        if asks in said:
            return ExampleRecord(Kind.PAIR, place, _pair(said, asks, answers, place))
    if "text" in said:
        return ExampleRecord(Kind.TEXT, place, parts=[(_text(said, "text", place), 1.0)])
    if "parts" in said:
        return ExampleRecord(Kind.TEXT, place, parts=_parts(said["parts"], f'{place}: "parts"'))
    fields = ", ".join(f'"{name}"' for name in list(said)[:6]) or "no field"
    raise UsageError(f"{place} has {fields}, which is no example", _CURE)


def _object(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        said = json.loads(_decoded(line, place))
    except (ValueError, RecursionError) as error:
        at = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{place}{at} is no JSON", _CURE) from None
    if not isinstance(said, dict):
        raise UsageError(f"{place} is no JSON object", _CURE)
    return said


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{place} is no text", "write it in UTF-8") from None


def _messages(value: Any, field: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise UsageError(
            f"{field} is no list of messages",
            'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    if not any(isinstance(one, dict) and one.get("role") == "assistant" for one in value):
        raise UsageError(
            f"{field} has no message of the assistant, so there is nothing to learn",
            "add its answer, or leave out the line",
        )
    return value


def _spoken(value: Any, field: str) -> list[Mapping[str, Any]]:
    """Return messages of ShareGPT's form: who speaks is `from`, what is said `value`."""
    turns = value if isinstance(value, list) else []
    messages: list[Mapping[str, Any]] = []
    for number, turn in enumerate(turns):
        who = turn.get("from") if isinstance(turn, dict) else None
        said = turn.get("value") if isinstance(turn, dict) else None
        if who not in _SPEAKERS or not isinstance(said, str):
            raise UsageError(
                f"{field}[{number}] has no speaker and words",
                'write {"from": "human" or "gpt", "value": "..."}',
            )
        messages.append({"role": _SPEAKERS[who], "content": said})
    return _messages(messages, field)


def _pair(said: Mapping[str, Any], asks: str, answers: str, place: str) -> list[Mapping[str, Any]]:
    question = said[asks]
    before: list[Mapping[str, Any]] = []
    if isinstance(said.get("system"), str) and said["system"]:
        before.append({"role": "system", "content": said["system"]})
    if isinstance(question, list):
        before += question
    else:
        more = said.get("input") if asks == "instruction" else None
        words = _text(said, asks, place) + (f"\n\n{more}" if isinstance(more, str) and more else "")
        before.append({"role": "user", "content": words})
    answer = said.get(answers)
    if isinstance(answer, list):
        return _messages([*before, *answer], f'{place}: "{answers}"')
    return [*before, {"role": "assistant", "content": _text(said, answers, place)}]


def _parts(value: Any, field: str) -> list[tuple[str, float]]:
    """Return a text's parts, each a text and its weight."""
    parts = value if isinstance(value, list | tuple) else []
    found = [
        (one[0], float(one[1]))
        for one in parts
        if isinstance(one, list | tuple)
        and len(one) == 2
        and isinstance(one[0], str)
        and isinstance(one[1], int | float)
    ]
    if not found or len(found) != len(parts):
        raise UsageError(f"{field} is no list of texts and weights", 'write [["text", 0.1], ...]')
    return found


def _text(said: Mapping[str, Any], name: str, place: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        what = "is missing" if name not in said else f"is {type(value).__name__}, not a text"
        raise UsageError(f'{place}: "{name}" {what}', "add it, or leave out the line")
    return value


def _tools(said: Mapping[str, Any], place: str) -> Sequence[Mapping[str, Any]]:
    tools = said.get("tools") or ()
    if isinstance(tools, list | tuple) and all(isinstance(one, dict) for one in tools):
        return tools
    raise UsageError(f'{place}: "tools" is no list of tools', "write them as in OpenAI's chat API")
