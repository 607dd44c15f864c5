"""Starts a draft model on rank 0's machine.

Knows which draft model fits a model, and the memory it takes. Refuses to know what it proposes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dure.deploy.local import limits_of, memory_of_whole, table_of, threads_of
from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.engine.local import LocalExecutor
from dure.errors import UsageError
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = ["start_draft"]


def start_draft(
    path: Path, vocabulary: Vocabulary, options: RunOptions, n_ctx: int, reporter: Reporter
) -> LocalExecutor:
    """Start a draft model for a model with this vocabulary.

    n_ctx: the large model's context, for each of options.n_sequences answers.
    Raises UsageError if the vocabularies differ, ResourceError if it does not fit the memory.
    """
    machine = probe()
    threads = threads_of(options.threads, 1, machine)
    with open_gguf(path) as model:
        _check_vocabulary(Vocabulary(model), vocabulary)
        trained = model.int(f"{model.architecture}.context_length", n_ctx)
        own = RunOptions(
            ctx=min(n_ctx, trained),
            n_sequences=options.n_sequences,
            lock_memory=options.lock_memory,
            pin=options.pin,
        )
        memory, n_ctx = memory_of_whole(model, own, machine, full_window=True)
        table = table_of(model)
    with reporter.loading(path.name) as progress:
        executor = LocalExecutor(
            path,
            replace(
                limits_of(n_ctx, threads, own, memory), full_window=True
            ),  # it is cut back after every step
            kv_bytes=memory.kv_bytes(n_ctx, own.n_sequences),
            table=table,
            progress=progress,
        )
    if not executor.info.can_forget:
        executor.close()
        raise UsageError(
            f"{path.name} is recurrent and cannot undo rejected draft tokens",
            "give another --draft model",
        )
    return executor


def _check_vocabulary(draft: Vocabulary, model: Vocabulary) -> None:
    """Check a draft model's vocabulary and close it. Raises UsageError if a token's text differs."""
    n = min(draft.n_tokens, model.n_tokens)
    different = next((i for i in range(n) if draft.piece(i) != model.piece(i)), None)
    name = draft.name
    draft.close()
    if different is not None:
        raise UsageError(
            f"{name} has another vocabulary than {model.name} (token {different} is another text)",
            "--draft needs a smaller model of the same family",
        )
