"""Decides when to restart an engine that ended, and when to refuse requests meanwhile. Pure."""

from __future__ import annotations

__all__ = ["RestartPolicy"]

PAUSES_S = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)  # before the next start, by the number of failed ones
HOPELESS, HOPELESS_CLUSTER = 3, 8  # failed starts in a row; a node may come back


class RestartPolicy:
    """Counts failed starts. on_cluster: more may fail before it is hopeless."""

    def __init__(self, *, on_cluster: bool) -> None:
        self._limit = HOPELESS_CLUSTER if on_cluster else HOPELESS
        self._n_failures = 0  # to start, in a row
        self.n_restarts = 0

    def engine_ended(self, *, was_ready: bool) -> None:
        """Count an engine that ended; was_ready: it had loaded its model."""
        self._n_failures = 0 if was_ready else self._n_failures + 1
        self.n_restarts += 1

    @property
    def is_hopeless(self) -> bool:
        """Return whether too many starts failed, so that requests are refused; restarts go on."""
        return self._n_failures >= self._limit

    @property
    def pause_s(self) -> float:
        """Return the seconds to wait before the next start."""
        return PAUSES_S[min(self._n_failures, len(PAUSES_S) - 1)]
