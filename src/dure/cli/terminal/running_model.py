"""A running model for a command: opened with progress on the terminal, and ended with the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dure.cli.terminal.console import errors, loading_bar, progress_bar
from dure.deploy.start import Wishes, open_executor
from dure.engine.executor import Executor, FullExecutor
from dure.generate.speculative.proposer import Guessing, open_guessing
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.worker.lifecycle import Happening

__all__ = ["TerminalListener", "guesses", "opened"]


class TerminalListener:
    """Shows bars and warnings on stderr."""

    def cutting(self, name: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar of bytes."""
        return progress_bar(f"cutting {name}", total_bytes)

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """A bar from 0 to 1."""
        return loading_bar(f"loading {what}")

    def doing(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """A bar from 0 to 1; where nobody sees bars, a line."""
        if not errors.is_terminal:
            errors.print(what, markup=False)
        return loading_bar(what)

    def happened(self, happening: Happening) -> None:
        """The bars tell enough."""

    def news(self, text: str) -> None:
        """A yellow line too."""
        self.warn(text)

    def warn(self, text: str) -> None:
        """A yellow line."""
        errors.print(text, style="yellow", markup=False)


@contextmanager
def opened(model: Path, wishes: Wishes) -> Iterator[tuple[GgufFile, FullExecutor]]:
    """A running model, ended when the block ends, whatever happens in it."""
    with open_gguf(model) as gguf:
        executor = open_executor(gguf, wishes, TerminalListener()).executor
        try:
            yield gguf, executor
        finally:
            executor.close()


@contextmanager
def guesses(
    draft: str, gguf: GgufFile, vocabulary: Vocabulary, wishes: Wishes, executor: Executor
) -> Iterator[Guessing | None]:
    """What guesses ahead for a running model, as --draft says; see `open_guessing`."""
    n_ctx = executor.info.n_ctx
    guessing = open_guessing(draft, gguf, vocabulary, wishes, n_ctx, TerminalListener())
    try:
        yield guessing
    finally:
        if guessing is not None:
            guessing.close()
