"""Nodes that are missing: looked for in the background, so that they can be taken in again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from dure.cluster.membership import Member
from dure.cluster.survey import Nodes
from dure.errors import DureError

__all__ = ["Returning"]

LOOK_EVERY_S = 5.0


class Returning:
    """Looks for some nodes until one answers."""

    def __init__(self, nodes: Nodes, missing: Sequence[Member]) -> None:
        self._nodes, self._missing, self._who = nodes, missing, ""
        if missing:
            threading.Thread(target=self._look, daemon=True).start()

    def who(self) -> str:
        """The node that is back; "" where none is."""
        return self._who

    def _look(self) -> None:
        while not self._who:
            time.sleep(LOOK_EVERY_S)
            try:
                reports = self._nodes.survey(self._missing)
            except (DureError, OSError):  # the cluster is being changed: look again
                continue
            self._who = next((r.member.name for r in reports if not r.problem), "")
