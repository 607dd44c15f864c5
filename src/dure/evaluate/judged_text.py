"""The text that models are judged on: a file of the user's, or one that a model writes itself.

The entry point for whoever judges. Refuses to know how a model is started, and how texts are read: it is
given functions for both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dure.chat.reading import TextTools, tokens_of
from dure.engine.executor import FullExecutor
from dure.evaluate.judge import Progress
from dure.evaluate.own_text import AT_ONCE
from dure.evaluate.own_windows import OwnWindows
from dure.evaluate.user_text import read_text
from dure.evaluate.windows import TextWindows, cut_into_windows
from dure.isolation import Isolation
from dure.model.gguf import GgufFile
from dure.model.vocabulary import Vocabulary

__all__ = ["OWN_WINDOWS", "JudgedOn", "Tools"]

OWN_WINDOWS = 16  # that a model writes if there is no text


@dataclass(frozen=True)
class Tools:
    """What others do for an evaluation.

    start: a model with a context and a number of sequences, while a block runs. read: its vocabulary, and
    what reads texts. watch: shows something that takes a while, from 0 to 1.
    """

    start: Callable[[Path, int, int], AbstractContextManager[tuple[GgufFile, FullExecutor]]]
    read: Callable[[Path], AbstractContextManager[tuple[Vocabulary, Isolation[TextTools]]]]
    watch: Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class JudgedOn:
    """Windows of n_ctx tokens of a text. data: the file; None: the author writes it.

    author: the model whose words they are. identity: of it; see `identity_of`.
    most: windows; None: all, or 16 of the author's own. has_ctx: a person can ask for smaller ones.
    """

    author: Path
    identity: str
    data: Path | None
    n_ctx: int
    most: int | None = None
    has_ctx: bool = True

    @property
    def is_there(self) -> bool:
        """Whether the text need not be written first."""
        return self.data is not None or self._own.windows(self.author.name) is not None

    def windows(self, tools: Tools) -> TextWindows:
        """Return the windows; have the author write them if it has not yet.

        Raises ResourceError if a file cannot be read, UsageError for one that is no text, or too short.
        """
        if self.data:
            return self._read(self.data, tools)
        if not self.is_there:
            self._write(tools)
        windows = self._own.windows(self.author.name)
        assert windows is not None, "every window is written"
        return windows

    @cached_property
    def _own(self) -> OwnWindows:
        return OwnWindows(self.identity, self.most or OWN_WINDOWS, self.n_ctx)

    def _read(self, data: Path, tools: Tools) -> TextWindows:
        text = read_text(data, "--data")
        with tools.read(self.author) as (vocabulary, texts):
            return cut_into_windows(
                texts.call(tokens_of, text, False, True),
                self.n_ctx,
                begin=vocabulary.begin,
                source=data.name,
                most=self.most,
                has_ctx=self.has_ctx,
            )

    def _write(self, tools: Tools) -> None:
        own = self._own
        with tools.read(self.author) as (vocabulary, texts):
            length = own.length(vocabulary.n_ctx_train)
            with (
                tools.start(self.author, length, AT_ONCE) as (_, executor),
                tools.watch(f"{self.author.name} writes a text") as progress,
            ):
                own.write(executor, vocabulary, texts, progress)
