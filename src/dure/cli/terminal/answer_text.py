"""Collects an answer while it is generated, and writes it as it comes.

Content goes to stdout. Reasoning goes to stderr, dimmed, on a terminal only, so that a pipe gets the answer
and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from dure.chat.parser import Parsed
from dure.chat.task import Content, Reasoning, ToolArguments, ToolCall
from dure.cli.terminal.console import errors, printable_lines, write

__all__ = ["AnswerText"]


class AnswerText:
    """One answer. is_written: write it as it comes, not only collect it."""

    def __init__(self, *, is_written: bool = True) -> None:
        self._is_written = is_written
        self.content, self.reasoning = "", ""

    def add(self, pieces: Iterable[Parsed]) -> None:
        """Add the next pieces of the answer."""
        for piece in pieces:
            match piece:
                case Content(text):
                    self.add_text(text)
                case Reasoning(text):
                    self.reasoning += text
                    if self._is_written and errors.is_terminal:
                        errors.print(
                            printable_lines(text), end="", style="dim", markup=False, soft_wrap=True
                        )
                case ToolCall(name=name):  # no tool was offered, so the call is content
                    is_first = not self.content or self.content.endswith("\n")
                    self.add_text(f"{'' if is_first else chr(10)}{name} ")
                case ToolArguments(text=text):
                    self.add_text(text)

    def add_text(self, text: str) -> None:
        """Add content."""
        if not self.content and self.reasoning and self._is_written and errors.is_terminal:
            errors.print()
        self.content += text
        if self._is_written:
            write(text)
