"""What all chat parsers share, which parse an answer while it is generated.

Knows how to hold back text that may be the beginning of a mark. Refuses to know any marks, tokens and
grammars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from dure.chat.task import Content, Reasoning, ToolArguments, ToolCall

__all__ = ["ChatParser", "Parsed", "StateParser", "held_back", "joined"]

Parsed = Content | Reasoning | ToolCall | ToolArguments


class ChatParser(Protocol):
    """Parses one answer. Every choice needs a parser of its own."""

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""

    def feed(self, text: str) -> list[Parsed]:
        """Return the events that more text decides."""

    def finish(self) -> list[Parsed]:
        """Return the events of the text that was held back. Call it once, at the end."""


class StateParser:
    """Runs the states of a ChatParser over the text that is not decided yet.

    A state is a method. It takes what it can of `_pending`, appends to `_events`, and returns whether
    the state that then stands in `_state` can go on. Its argument: whether the text has ended.
    """

    _state: Callable[[bool], bool]  # set by the subclass

    def __init__(self) -> None:
        self._pending = ""
        self._events: list[Parsed] = []
        self._n_calls = 0

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""
        return self._n_calls > 0

    def feed(self, text: str) -> list[Parsed]:
        """Return the events that more text decides."""
        self._pending += text
        return self._run(final=False)

    def finish(self) -> list[Parsed]:
        """Return the events of the text that was held back. Call it once, at the end."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Parsed]:
        self._events = []
        while self._state(final):
            pass
        return joined(self._events)


def held_back(text: str, tags: tuple[str, ...]) -> int:
    """Count the characters at the end that may belong to a tag: its beginning, and space before it."""
    if not any(tags):
        return 0
    longest = 0
    for tag in filter(None, tags):
        for n in range(min(len(tag) - 1, len(text)), longest, -1):
            if text.endswith(tag[:n]):
                longest = n
                break
    body = text[: len(text) - longest]
    return len(text) - len(body.rstrip())


def joined(events: Iterable[Parsed]) -> list[Parsed]:
    """Return the same events, with neighbours of one kind joined."""
    result: list[Parsed] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Content | Reasoning) and type(last) is type(event):
            result[-1] = type(event)(last.text + event.text)
        elif (
            isinstance(event, ToolArguments)
            and isinstance(last, ToolArguments)
            and last.index == event.index
        ):
            result[-1] = ToolArguments(event.index, last.text + event.text)
        else:
            result.append(event)
    return result
