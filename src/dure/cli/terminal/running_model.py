"""Runs a model for a command: shows its start on the terminal and ends it with the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dure.chat.reading import TextTools
from dure.cli.terminal.console import errors, loading_bar, print_warning, progress_bar
from dure.deploy.deployment import Deployment
from dure.deploy.options import RunOptions
from dure.deploy.reporter import EngineEvent
from dure.engine.executor import Executor, FullExecutor
from dure.errors import ModelError
from dure.generate.speculative.proposer import Proposer
from dure.isolation import Isolation
from dure.library import running
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = ["TerminalReporter", "proposer", "reading", "running_deployment", "running_model"]


class TerminalReporter:
    """Shows bars and warnings on stderr."""

    def cutting(self, name: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a bar of bytes."""
        return progress_bar(f"cutting {name}", total_bytes)

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar from 0 to 1."""
        return loading_bar(f"loading {what}")

    def doing(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar from 0 to 1 on a terminal, a line elsewhere."""
        if not errors.is_terminal:
            errors.print(what, markup=False)
        return loading_bar(what)

    def event(self, event: EngineEvent) -> None:
        """Show nothing: the bars say enough."""

    def news(self, text: str) -> None:
        """Print a yellow line too."""
        self.warn(text)

    def warn(self, text: str) -> None:
        """Print a yellow line."""
        print_warning(text)


def running_model(
    model: Path, options: RunOptions
) -> AbstractContextManager[tuple[GgufFile, FullExecutor]]:
    """Run a model until the block ends; see `dure.library.running`."""
    return running.running_model(model, options, TerminalReporter())


def running_deployment(
    model: Path, options: RunOptions
) -> AbstractContextManager[tuple[GgufFile, Deployment]]:
    """Run a model until the block ends, with all that is known of its start."""
    return running.running_deployment(model, options, TerminalReporter())


@contextmanager
def reading(
    file: Path, options: RunOptions, *, chats: bool = True, template: str | None = None
) -> Iterator[tuple[Vocabulary, Isolation[TextTools]]]:
    """Load a model's vocabulary, and fork what reads a user's texts; do it before the model is loaded.

    chats: its chat template is wanted too. template: instead of that. Raises as `Vocabulary` and
    `ChatFormatter` do; but what else prevents a start comes first.
    """
    with open_gguf(file) as gguf:
        try:
            vocabulary = Vocabulary(gguf)
        except ModelError:
            with running_model(file, options):
                raise
    tools = TextTools.of(vocabulary, template) if chats else TextTools(vocabulary, None)
    with Isolation(tools) as texts:
        yield vocabulary, texts


def proposer(
    draft: str, gguf: GgufFile, vocabulary: Vocabulary, options: RunOptions, executor: Executor
) -> AbstractContextManager[Proposer | None]:
    """Make the proposer of draft tokens; see `dure.library.running`."""
    return running.proposer(draft, gguf, vocabulary, options, executor, TerminalReporter())
