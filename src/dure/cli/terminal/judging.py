"""Gives what judges models its tools: they start models, read texts and show bars as a command does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from dure.chat.reading import TextTools
from dure.cli.terminal.console import loading_bar
from dure.cli.terminal.running_model import TerminalReporter, running_model
from dure.deploy.options import RunOptions
from dure.engine.executor import Executor, FullExecutor
from dure.evaluate.judge import identity_of
from dure.evaluate.judged_text import JudgedOn, Tools
from dure.evaluate.swaps import SwapJudge
from dure.hardware.probe import probe
from dure.isolation import Isolation
from dure.library import running
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = ["judge_on", "judging_tools", "text_of"]

WINDOW, WINDOWS = 512, 16  # tokens of a window if the model sees as many, and the most windows


class _Barless(TerminalReporter):
    def loading(self, _: str) -> AbstractContextManager[Callable[[float], None]]:
        return nullcontext(lambda _: None)


def judging_tools(options: Callable[[Path, int, int], RunOptions]) -> Tools:
    """Return the tools. options: of the start of a model with a context and a number of sequences."""

    def start(
        path: Path, n_ctx: int, n_sequences: int
    ) -> AbstractContextManager[tuple[GgufFile, FullExecutor]]:
        return running_model(path, options(path, n_ctx, n_sequences))

    @contextmanager
    def read(path: Path) -> Iterator[tuple[Vocabulary, Isolation[TextTools]]]:
        with open_gguf(path) as gguf:
            vocabulary = Vocabulary(gguf)
        reader: Isolation[TextTools]
        with Isolation.of_module("dure.library.reader", str(path.absolute())) as reader:
            yield vocabulary, reader
        vocabulary.close()

    return Tools(start, read, partial(loading_bar, phase="judging"))


def text_of(model: GgufFile, data: Path | None) -> JudgedOn:
    """Return the text that files made of a model are judged on. data: a file; None: the model writes it."""
    window = min(WINDOW, model.int(f"{model.architecture}.context_length", WINDOW))
    identity = identity_of(model, _alone(model.paths[0], window, 1))
    return JudgedOn(model.paths[0], identity, data, window, WINDOWS, has_ctx=False)


def judge_on(text: JudgedOn) -> SwapJudge:
    """Return a judge of files that are made of the text's author, which writes the text if it must.

    Its starts show no bars of their own: the bar of what is judged goes on.
    Raises as `JudgedOn.windows` does, and ResourceError if the model does not fit into memory.
    """
    tools = judging_tools(_alone)

    @contextmanager
    def run(path: Path) -> Iterator[Executor]:
        with running.running_model(path, _alone(path, text.n_ctx, 1), _Barless()) as (_, executor):
            yield executor

    return SwapJudge(text.author, text.windows(tools), text.identity, run)


def _alone(_: Path, n_ctx: int, n_sequences: int) -> RunOptions:
    """Return the options of a start on this machine; without threads, each file's best are measured."""
    return RunOptions(ctx=n_ctx, n_sequences=n_sequences, threads=probe().cores)
