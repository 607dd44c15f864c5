"""When a request that goes on is stored: as often as that is worth its time.

Pure. Knows what storing took so far. Refuses to know what is stored.
"""

from __future__ import annotations

__all__ = ["Checkpoints"]

GAIN = 4  # computing the tokens again must take this many times as long as storing them
REST = 20  # times what storing took, before the next: at most a twentieth of the time goes into it


class Checkpoints:
    """Compares what computing tokens again would take with what storing them takes.

    worth_s: computing that takes less than this is never worth it.
    """

    def __init__(self, worth_s: float) -> None:
        self._worth_s = worth_s
        self._token_s = 0.0  # to store one token
        self._rest_until = 0.0

    def is_due(self, n_new: int, n_all: int, tokens_per_s: float, now: float) -> bool:
        """Tell whether to store n_all tokens now, of which n_new are not stored yet."""
        if not n_new or now < self._rest_until:
            return False
        return n_new / tokens_per_s >= max(self._worth_s, GAIN * n_all * self._token_s)

    def observe(self, seconds: float, n_all: int, now: float) -> None:
        """Take in that storing n_all tokens took `seconds`, and has just ended."""
        self._token_s = seconds / n_all
        self._rest_until = now + REST * seconds
