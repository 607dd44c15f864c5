"""Whether a model that runs should start again on other nodes: watched in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import NodeReport, Nodes
from dure.errors import DureError

__all__ = ["RestartWatch"]

CHECK_EVERY_S = 5.0


class RestartWatch:
    """Watch until a node that the model runs without is back, or one that it runs on was removed.

    without: each with the bytes of room that it must have. used: the names of the others. is_usable:
    returns whether no other job is in the way on a node that answers.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        without: Sequence[tuple[Member, int]],
        used: Collection[str],
        is_usable: Callable[[NodeReport], bool],
    ) -> None:
        self._cluster, self._nodes = cluster, nodes
        self._without, self._used, self._why = without, used, ""
        self._is_usable = is_usable
        if without or used:
            threading.Thread(target=self._watch, daemon=True).start()

    def why(self) -> str:
        """Return why the model should start again; "" if it should not."""
        return self._why

    def _watch(self) -> None:
        while not self._why:
            time.sleep(CHECK_EVERY_S)
            with contextlib.suppress(DureError, OSError):  # the cluster is being changed: try again
                self._why = self._checked()

    def _checked(self) -> str:
        if gone := {*self._used} - {member.name for member in self._cluster.members}:
            return f"{min(gone)} belongs to the cluster no more"
        if not self._without:
            return ""
        reports = self._nodes.survey([member for member, _ in self._without])
        for report, (_, needed_bytes) in zip(reports, self._without, strict=True):
            if report.problem or not self._is_usable(report):
                continue
            if self._has_room(report.member, needed_bytes):
                return f"{report.member.name} is back: it takes part again"
        return ""

    def _has_room(self, member: Member, needed_bytes: int) -> bool:
        if not needed_bytes:
            return True
        with contextlib.closing(self._nodes.client(member)) as client:
            return client.shards().free_bytes >= needed_bytes
