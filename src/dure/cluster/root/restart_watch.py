"""Whether a model that runs should start again on other nodes: watched in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.readiness import check_nodes
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.errors import ClusterError, DureError

__all__ = ["RestartWatch"]

CHECK_EVERY_S = 5.0


class RestartWatch:
    """Watch until a node that the model runs without can take part, or one that it runs on was removed.

    without: nodes that could not, each with the bytes of room that it must have. used: the names of those
    that it runs on. known: the names of all that there were; a node that joins later may take part too.
    None: it must not. is_usable: returns whether no other job is in the way on a node.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        without: Sequence[tuple[Member, int]],
        used: Collection[str],
        known: Collection[str] | None,
        is_usable: Callable[[NodeReport], bool],
    ) -> None:
        self._cluster, self._nodes = cluster, nodes
        self._without, self._used, self._known = without, used, known
        self._is_usable, self._why = is_usable, ""
        if without or used or known is not None:
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
        members = self._cluster.members
        if gone := {*self._used} - {member.name for member in members}:
            return f"{min(gone)} belongs to the cluster no more"
        wanted = {member.name: needed_bytes for member, needed_bytes in self._without}
        if self._known is not None:
            wanted |= {member.name: 0 for member in members if member.name not in self._known}
        for report in self._nodes.survey([member for member in members if member.name in wanted]):
            name = report.member.name
            if self._is_ready(report) and self._has_room(report.member, wanted[name]):
                return f"{name} is back: it takes part again"
        return ""

    def _is_ready(self, report: NodeReport) -> bool:
        try:
            check_nodes([report], versions())
        except ClusterError:
            return False
        return self._is_usable(report)

    def _has_room(self, member: Member, needed_bytes: int) -> bool:
        if not needed_bytes:
            return True
        with contextlib.closing(self._nodes.client(member)) as client:
            return client.shards().free_bytes >= needed_bytes
