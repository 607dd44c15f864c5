"""Nodes that a model runs without: looked for in the background, so that they can be taken in again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from dure.cluster.membership import Member
from dure.cluster.survey import Nodes
from dure.errors import DureError

__all__ = ["Returning"]

LOOK_EVERY_S = 5.0


class Returning:
    """Looks for some nodes until one answers that has room for so many bytes."""

    def __init__(self, nodes: Nodes, without: Sequence[tuple[Member, int]]) -> None:
        self._nodes, self._without, self._who = nodes, without, ""
        if without:
            threading.Thread(target=self._look, daemon=True).start()

    def who(self) -> str:
        """The node that is back; "" where none is."""
        return self._who

    def _look(self) -> None:
        while not self._who:
            time.sleep(LOOK_EVERY_S)
            with contextlib.suppress(
                DureError, OSError
            ):  # the cluster is being changed: look again
                self._who = self._found()

    def _found(self) -> str:
        reports = self._nodes.survey([member for member, _ in self._without])
        for report, (_, needed_bytes) in zip(reports, self._without, strict=True):
            if not report.problem and (
                not needed_bytes or self._has_room(report.member, needed_bytes)
            ):
                return report.member.name
        return ""

    def _has_room(self, member: Member, needed_bytes: int) -> bool:
        with contextlib.closing(self._nodes.line(member)) as line:
            return int(line.ask("GET", "/shards")["free_bytes"]) >= needed_bytes
