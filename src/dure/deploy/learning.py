"""Corrects the machines' saved speeds by a running model, for the shares of the next start.

A speed measured alone for a second may differ from that of the real work, by other layers, heat or another
program. Refuses to cut anything: the next start does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds
from dure.plan.placement import observed_speeds

__all__ = ["Learning"]

LEAST_S = 0.002  # of computing in a step; a shorter time is not that of reading weights


class Learning:
    """Corrects speeds after one start. held_bytes: each rank's weights, by machine, in order of ranks.

    is_shared: returns whether other jobs use these machines, so that they look slower than they are.
    """

    def __init__(
        self,
        cluster: Cluster,
        type_name: str,
        held_bytes: Mapping[str, float],
        is_shared: Callable[[], bool],
    ) -> None:
        self._cluster, self._type, self._held = cluster, type_name, held_bytes
        self._is_shared = is_shared

    def learn(self, seconds: Sequence[float]) -> None:
        """Save speeds by which all ranks would end at once, if that is worth other shards."""
        with contextlib.suppress(OSError):  # a full disk: the old speeds will do
            self._learn(seconds)

    def _learn(self, seconds: Sequence[float]) -> None:
        if len(seconds) != len(self._held) or min(seconds) < LEAST_S or self._is_shared():
            return
        known = KnownSpeeds(self._cluster.directory)
        speeds = {name: known.speed(name, self._type) for name in self._held}
        before = [speed.decode_bytes_per_s if speed else math.nan for speed in speeds.values()]
        better = observed_speeds(before, list(self._held.values()), seconds)
        if better is None or any(map(math.isnan, better)):  # with --shares none were measured
            return
        for (name, speed), bytes_per_s in zip(speeds.items(), better, strict=True):
            assert speed is not None, "measured"
            known.correct(name, self._type, bytes_per_s)
        self._cluster.events.add(
            "speeds_corrected",
            compute_ms=[round(1e3 * s, 2) for s in seconds],
            gb_per_s={n: round(b / 1e9, 2) for n, b in zip(self._held, better, strict=True)},
        )
