"""A text as it is judged: tokens in windows of one length, of which the second half is scored.

As `llama-perplexity` does: every window begins as the model wants a text to begin, and what is left at the
end of the text is not used. Refuses to know models. Source: llama.cpp, `tools/perplexity`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dure.engine.arrays import Ints
from dure.errors import UsageError

__all__ = ["LEAST_WINDOW", "TextWindows", "check_sizes", "cut_into_windows"]

LEAST_WINDOW = 8  # tokens
_LEAST_WINDOWS = 2  # an interval needs more than one


@dataclass(frozen=True)
class TextWindows:
    """Tokens of a text, int32 [n_windows, n_ctx].

    source: a file of text, or the model that wrote it, if `is_own`.
    """

    tokens: Ints
    source: str
    is_own: bool = False

    @property
    def n_windows(self) -> int:
        """How many windows there are."""
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """The tokens of a window."""
        return len(self.tokens[0])

    @property
    def first(self) -> int:
        """The first token of a window after which the next one is scored."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """How many tokens of a window are scored."""
        return self.n_ctx - 1 - self.first

    @cached_property
    def sha256(self) -> str:
        """What identifies the tokens and their windows."""
        sizes = f"{self.n_windows} {self.n_ctx} ".encode()
        return hashlib.sha256(sizes + self.tokens.tobytes()).hexdigest()

    def some(self, n: int) -> TextWindows:
        """Return the first n windows."""
        return replace(self, tokens=self.tokens[:n])


def check_sizes(n_ctx: int, most: int | None) -> None:
    """Check the tokens of a window, and how many windows are wanted. Raises UsageError."""
    if n_ctx < LEAST_WINDOW:
        raise UsageError(f"--ctx {n_ctx} is too short a window", f"give {LEAST_WINDOW} or more")
    if most is not None and most < _LEAST_WINDOWS:
        raise UsageError(f"--chunks {most}", f"give {_LEAST_WINDOWS} or more")


def cut_into_windows(
    tokens: Sequence[int],
    n_ctx: int,
    *,
    begin: int | None,
    source: str,
    most: int | None = None,
    has_ctx: bool = True,
) -> TextWindows:
    """Cut a text into windows. begin: the token that a text begins with; None: it begins with its first.

    most: windows. has_ctx: a person can ask for smaller ones. Raises UsageError if the text is too short.
    """
    check_sizes(n_ctx, most)
    n = len(tokens) // n_ctx
    if n < _LEAST_WINDOWS:
        least = _LEAST_WINDOWS * n_ctx
        smaller = len(tokens) // _LEAST_WINDOWS
        cure = f"give {least} or more"
        if has_ctx and smaller >= LEAST_WINDOW:
            cure += f", or use --ctx {smaller}"
        raise UsageError(f"{source} has {len(tokens)} tokens", cure)
    n = min(n, most or n)
    windows = np.array(tokens[: n * n_ctx], np.int32).reshape(n, n_ctx)
    if begin is not None:
        windows[:, 0] = begin
    return TextWindows(windows, source)
