"""Defines what a model family's format provides: markers, grammar, parser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dure.chat.parser import ChatParser
from dure.chat.plan import Marks, Plan

__all__ = ["AnyTool", "CallFormat", "Opened"]


@dataclass(frozen=True)
class Opened:
    """What the prompt has begun: the reasoning, or the content of an answer that is continued."""

    marks: Marks
    reasoning: bool = False
    content: bool = False


class AnyTool(Mapping[str, Mapping[str, Any]]):
    """The tools of a reader that has offered none, but wants to see calls as such: any name is one."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return {}

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True


class CallFormat(Protocol):
    """A model family's way of writing calls."""

    @property
    def written(self) -> re.Pattern[str]:
        """Return what matches the probe's call as the family's template renders it."""

    def markers(self, marks: Marks, *, tools: bool) -> tuple[str, ...]:
        """Return the special texts that the parser needs to see."""

    def grammar(self, plan: Plan) -> tuple[str, tuple[str, ...], str]:
        """Return the root's body, the triggers of a lazy grammar, and a tag whose token is a trigger too.

        The root is "" if the answer is free. Every text that a trigger matches must be a prefix of one
        that the root allows: llama.cpp ends the process otherwise.
        """

    def parser(
        self, tools: Mapping[str, Mapping[str, Any]], opened: Opened, limit: int | None
    ) -> ChatParser:
        """Return a new parser. tools: the parameter schemas of the tools that may be called."""

    def continued(self, content: str, reasoning: str, opened: Opened) -> str:
        """Return the text that is appended to the prompt if an answer is continued."""
