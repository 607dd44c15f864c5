"""What a family of models defines: its marks, its grammar, and how its answers are parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dure.chat.parser import ChatParser
from dure.chat.plan import Marks, Plan

__all__ = ["CallFormat", "Opened"]


@dataclass(frozen=True)
class Opened:
    """What the prompt has begun: the reasoning, or the content if an answer is continued."""

    marks: Marks
    reasoning: bool = False
    content: bool = False


class CallFormat(Protocol):
    """One family's way to write calls."""

    @property
    def written(self) -> re.Pattern[str]:
        """What its template renders of the probe's call."""

    def markers(self, marks: Marks, *, tools: bool) -> tuple[str, ...]:
        """Return the texts that the parser must see."""

    def grammar(self, plan: Plan) -> tuple[str, tuple[str, ...], str]:
        """The root's body, the triggers where it is lazy, and the tag whose token triggers as well.

        The root is "" where the answer is free. With triggers, every text that one matches must be the
        beginning of a text that the root allows: llama.cpp ends the process otherwise.
        """

    def parser(
        self, tools: Mapping[str, Mapping[str, Any]], opened: Opened, limit: int | None
    ) -> ChatParser:
        """Return a new parser. tools: the parameters' schemas of those that may be called."""

    def continued(self, content: str, reasoning: str, opened: Opened) -> str:
        """Return what the prompt ends with if an answer is continued."""
