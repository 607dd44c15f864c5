"""When a sequence that goes on is stored: as often as that is worth what it takes. Pure."""

from __future__ import annotations

__all__ = ["Checkpoints"]

GAIN = 4  # what is saved from being computed again takes so many times as long as storing it
REST = 20  # times what storing took, before the next: at most a twentieth of the time goes into it


class Checkpoints:
    """Weighs what computing tokens again would take against what storing them takes.

    worth_s: computing that takes less than this is never worth it.
    """

    def __init__(self, worth_s: float) -> None:
        self._worth_s = worth_s
        self._token_s = 0.0  # to store one token
        self._rest_until = 0.0

    def is_due(self, n_new: int, n_all: int, tokens_per_s: float, now: float) -> bool:
        """Whether to store n_all tokens now, of which n_new are not stored yet."""
        if not n_new or now < self._rest_until:
            return False
        return n_new / tokens_per_s >= max(self._worth_s, GAIN * n_all * self._token_s)

    def took(self, seconds: float, n_all: int, now: float) -> None:
        """Storing n_all tokens took so long, and has just ended."""
        self._token_s = seconds / n_all
        self._rest_until = now + REST * seconds
