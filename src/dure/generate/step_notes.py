"""What each step took, for who watches, and the path of one token through the ranks. Plain values."""

from __future__ import annotations

import msgspec

__all__ = ["StepNote", "TokenTrace", "TracedInterval"]


class StepNote(msgspec.Struct, frozen=True, array_like=True):
    """One step. at: when it ended, seconds since 1970. n_prompt: of its tokens, those of prompts.

    The others have an entry for each rank, seconds, as `StepStats` has them.
    """

    at: float
    n_tokens: int
    n_prompt: int
    compute_s: tuple[float, ...]
    sync_s: tuple[float, ...]
    idle_s: tuple[float, ...]
    bytes_sent: tuple[float, ...]

    @property
    def is_decode(self) -> bool:
        """Whether all of its tokens were of answers."""
        return self.n_tokens > 0 and not self.n_prompt


class TracedInterval(msgspec.Struct, frozen=True, array_like=True):
    """What a rank did, in seconds from the step's beginning; see `dure.engine.trace.PARTS`.

    layer: None outside of the layers.
    """

    part: str
    begun_s: float
    ended_s: float
    layer: int | None


class TokenTrace(msgspec.Struct, frozen=True):
    """The step that gave a token (of each running answer), on every rank. n_sums: all-reduces.

    n_experts: that a layer has. experts: of each rank, for each layer, those that the token had (of several
    answers, the first one's); nothing if the model has none.
    """

    note: StepNote
    n_sums: int
    ranks: tuple[tuple[TracedInterval, ...], ...]
    n_experts: int = 0
    experts: tuple[tuple[tuple[int, ...], ...], ...] = ()
