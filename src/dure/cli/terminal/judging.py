"""Makes the judge of files that are made of a model, on a text of the user's or of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.chat.reading import tokens_of
from dure.cli.terminal.console import loading_bar
from dure.cli.terminal.running_model import reading, running_model
from dure.deploy.options import RunOptions
from dure.engine.executor import Executor
from dure.errors import ResourceError
from dure.evaluate.judge import identity_of
from dure.evaluate.own_text import AT_ONCE
from dure.evaluate.own_windows import OwnWindows
from dure.evaluate.swaps import SwapJudge
from dure.evaluate.windows import TextWindows, cut_into_windows
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf

__all__ = ["judge_of"]

WINDOW, WINDOWS = 512, 16  # tokens of a window if the model sees as many, and the most windows


def judge_of(model: Path, data: Path | None) -> SwapJudge:
    """Return a judge on a text; None: the model writes it now, unless it did before.

    Raises ResourceError if a file cannot be read or the model does not fit into memory, UsageError for a
    text that is too short.
    """
    with open_gguf(model) as gguf:
        window = min(WINDOW, gguf.int(f"{gguf.architecture}.context_length", WINDOW))
        options = RunOptions(ctx=window, threads=probe().cores)  # else each file's best is measured
        identity = identity_of(gguf, options)
    windows = _read(model, data, window) if data else _own(model, identity, window)

    @contextmanager
    def run(path: Path) -> Iterator[Executor]:
        with running_model(path, options) as (_, executor):
            yield executor

    return SwapJudge(model, windows, identity, run)


def _read(model: Path, data: Path, window: int) -> TextWindows:
    try:
        text = data.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise ResourceError(f"--data {data} cannot be read: {error.strerror}") from error
    with reading(model, RunOptions(ctx=window), chats=False) as (vocabulary, texts):
        tokens = texts.call(tokens_of, text, False, True)
        return cut_into_windows(
            tokens, window, begin=vocabulary.begin, source=data.name, most=WINDOWS
        )


def _own(model: Path, identity: str, window: int) -> TextWindows:
    own = OwnWindows(identity, WINDOWS, window)
    if (written := own.windows(model.name)) is not None:
        return written
    with reading(model, RunOptions(ctx=window), chats=True) as (vocabulary, texts):
        options = RunOptions(ctx=own.length(vocabulary.n_ctx_train), n_sequences=AT_ONCE)
        with (
            running_model(model, options) as (_, executor),
            loading_bar(f"{model.name} writes a text") as progress,
        ):
            own.write(executor, vocabulary, texts, progress)
    written = own.windows(model.name)
    assert written is not None, "every window is written"
    return written
