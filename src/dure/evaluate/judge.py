"""Judges models on one text: the original first, then any number of others beside it.

Only one of them is in memory at a time: what the original gives is kept on disk, and used again by the next
command. Every window is kept as soon as it is done, so what was stopped goes on where it was.
Refuses to know options, and how a model is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from dure.deploy.options import RunOptions
from dure.engine.executor import Executor
from dure.errors import UsageError
from dure.evaluate.reference import KeptWindow, most_bytes
from dure.evaluate.scores import Divergence, WindowScores
from dure.evaluate.statistics import Doubles
from dure.evaluate.store import WindowStore, check_room
from dure.evaluate.windows import TextWindows
from dure.model.gguf import GgufFile

__all__ = ["Original", "Progress", "check_same_words", "identity_of", "scores_of"]

Progress = Callable[[float], None]
VERSION = 1  # of what is kept


def _silent(_: float) -> None:
    pass


class Original:
    """What a model's original gives on a text, as it is kept on disk.

    identity: all that its logits depend on; see `identity_of`.
    directory: where it is kept; None: in the cache.
    Fill it once, with the original running; then compare any model with it.
    """

    def __init__(self, windows: TextWindows, identity: str, directory: Path | None = None) -> None:
        self.windows, self._directory = windows, directory
        self.key = f"{VERSION} original {identity} {windows.sha256}"
        self._store = WindowStore(self.key, directory)

    @property
    def is_complete(self) -> bool:
        """Whether every window is kept; a damaged one counts as not."""
        return not any(True for _ in self._missing())

    def _missing(self) -> Iterator[int]:
        for number in range(self.windows.n_windows):
            if self._store.load(number) is None:
                yield number

    def fill(self, executor: Executor, progress: Progress = _silent) -> None:
        """Have the original read every window that is not kept yet.

        Raises ResourceError if there may not be enough room.
        """
        windows = self.windows
        missing = list(self._missing())
        each = most_bytes(windows.n_scored, executor.info.n_vocab)
        check_room(each * len(missing), self._directory)
        for done, number in enumerate(missing):
            kept = KeptWindow.of(executor, windows.tokens[number], windows.first)
            self._store.save(number, kept.packed())
            progress((done + 1) / len(missing))

    def window(self, number: int) -> KeptWindow:
        """Return what is kept of a window. Raises UsageError if it is not there any more."""
        content = self._store.load(number)
        if content is None:
            raise UsageError(
                f"what the original gave in window {number} is missing or damaged",
                "run the command again: it is computed again",
            )
        return KeptWindow.unpacked(content)

    def compare(
        self, executor: Executor, identity: str | None = None, progress: Progress = _silent
    ) -> Divergence:
        """Return how far a running model is from the original.

        identity: of the model; None: keep nothing.
        """
        scores = scores_of(executor, self.windows, identity, self, progress, self._directory)
        return Divergence.of(scores, self._own)

    @cached_property
    def _own(self) -> list[tuple[Doubles, float]]:
        return [
            (kept.nll, float(kept.rests.mean()))
            for kept in map(self.window, range(self.windows.n_windows))
        ]


def scores_of(
    executor: Executor,
    windows: TextWindows,
    identity: str | None = None,
    original: Original | None = None,
    progress: Progress = _silent,
    directory: Path | None = None,
) -> list[WindowScores]:
    """Return the scores of a running model on each window; those that are kept are not computed again.

    identity: of the model; None: keep nothing.
    """
    beside = original.key if original else "alone"
    key = f"{VERSION} scores {identity} {windows.sha256} {beside}"
    store = WindowStore(key, directory) if identity else None
    scores = []
    for number, tokens in enumerate(windows.tokens):
        content = store.load(number) if store else None
        if content is None:
            kept = original.window(number) if original else None
            content = WindowScores.of(executor, tokens, windows.first, kept).packed()
            if store:
                store.save(number, content)
        scores.append(WindowScores.unpacked(content))
        progress((number + 1) / windows.n_windows)
    return scores


def identity_of(model: GgufFile, options: RunOptions) -> str:
    """Return what a model's logits depend on: its file, how it is cut, and the programs that compute."""
    cut = [options.ranks, options.shares, options.cluster and options.nodes, options.wire.value]
    is_cut = options.cluster or options.shares or (options.ranks or 1) > 1
    programs = [f"{name} {version(name)}" for name in ("dure", "llama-cpp-python")]
    return " ".join([model.fingerprint, str(cut) if is_cut else "whole", *programs])


def check_same_words(original: GgufFile, model: GgufFile) -> None:
    """Check that two models have one vocabulary. Raises UsageError."""
    words = [one.metadata.get("tokenizer.ggml.tokens") for one in (original, model)]
    if words[0] is None or words[1] is None or words[0].raw != words[1].raw:
        raise UsageError(
            f"{model.paths[0].name} has not the vocabulary of {original.paths[0].name}",
            "name the model that it was made from: only the same tokens can be compared",
        )
