"""Judges files that were made of one model, one after the other, by how far they are from it on a text.

The model itself reads the text once; what it gave is kept. Refuses to know how a model is started: a
function that starts one is given.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from dure.engine.executor import Executor
from dure.evaluate.judge import Original, Progress
from dure.evaluate.scores import Divergence
from dure.evaluate.windows import TextWindows

__all__ = ["SwapJudge"]

Run = Callable[[Path], AbstractContextManager[Executor]]


class SwapJudge:
    """The judge of one model's files. identity: see `Original`. run: starts a model while a block runs."""

    def __init__(
        self,
        model: Path,
        windows: TextWindows,
        identity: str,
        run: Run,
        directory: Path | None = None,
    ) -> None:
        self._model, self._run = model, run
        self._original = Original(windows, identity, directory)

    @property
    def text(self) -> str:
        """What the text is known by."""
        return self._original.windows.sha256

    @property
    def n_tokens(self) -> int:
        """The tokens of the text."""
        return int(self._original.windows.tokens.size)

    @property
    def has_read_original(self) -> bool:
        """Whether what the model itself gives is kept."""
        return self._original.is_complete

    def read_original(self, progress: Progress = lambda _: None) -> None:
        """Have the model itself read the text, unless what it gave is kept already."""
        if not self.has_read_original:
            with self._run(self._model) as executor:
                self._original.fill(executor, progress)

    def divergence(self, path: Path, progress: Progress = lambda _: None) -> Divergence:
        """Run a file and return how far it is from the model."""
        with self._run(path) as executor:
            return self._original.compare(executor, progress=progress)
