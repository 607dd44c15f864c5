"""Runs a model for a command: shows its start on the terminal and ends it with the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from dure.chat.reading import TextTools
from dure.cli.terminal.console import errors, loading_bar, print_warning, progress_bar
from dure.cli.terminal.noted import noted
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
from dure.work_notes import WorkPhase

__all__ = ["TerminalReporter", "proposer", "reading", "running_deployment", "running_model"]


class TerminalReporter:
    """Shows bars and warnings on stderr. model: what is started, noted as a load; "": nothing is."""

    def __init__(self, model: str = "") -> None:
        self._model = model

    @contextmanager
    def cutting(self, name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a bar of bytes."""
        with self._noted(), progress_bar(f"cutting {name}", total_bytes, "cutting") as progress:
            yield progress

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar from 0 to 1."""
        return self._bar(f"loading {what}", "loading")

    def doing(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar from 0 to 1 on a terminal, a line elsewhere."""
        if not errors.is_terminal:
            errors.print(what, markup=False)
        return self._bar(what, "preparing")

    @contextmanager
    def _bar(self, title: str, phase: WorkPhase) -> Iterator[Callable[[float], None]]:
        with self._noted(), loading_bar(title, phase) as progress:
            yield progress

    def _noted(self) -> AbstractContextManager[None]:
        return noted("load", self._model) if self._model else nullcontext()

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
    return running.running_model(model, options, TerminalReporter(model.name))


def running_deployment(
    model: Path, options: RunOptions
) -> AbstractContextManager[tuple[GgufFile, Deployment]]:
    """Run a model until the block ends, with all that is known of its start."""
    return running.running_deployment(model, options, TerminalReporter(model.name))


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
