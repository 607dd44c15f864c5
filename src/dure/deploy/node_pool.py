"""Finds the nodes that a model can start on: waits for them, and leaves out full and busy ones.

Refuses to know how the model is divided among them: a function given to it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dure.cluster.root.job_registry import MachineUse
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.survey import NodeReport, Nodes
from dure.deploy.node_sharing import NodeSharing
from dure.deploy.node_wait import NodeWait
from dure.deploy.reporter import EngineEvent, Reporter
from dure.deploy.start_timer import StartTimer
from dure.errors import ResourceError
from dure.model.shard import Shard
from dure.sizes import compared

__all__ = ["FullNode", "NodePool", "PlannedStart", "full_nodes"]


@dataclass(frozen=True)
class FullNode:
    """A node without disk space for its shard of needed_bytes."""

    member: Member
    needed_bytes: int
    lack: ResourceError


def full_nodes(nodes: Nodes, placed: Sequence[tuple[Member, Shard]]) -> list[FullNode]:
    """Return the nodes that have neither their shard nor disk space for it."""
    full = []
    for member, shard in placed:
        with closing(nodes.client(member)) as client:
            room = client.shards().room_for(shard.name)
        if room < shard.weights_bytes:
            has, takes = compared(room, shard.weights_bytes)
            lack = ResourceError(
                f"{member.name} has room for {has}, and its shard takes {takes}",
                "`dure cache prune --days 0 --cluster` makes room, or a larger --quota on it",
            )
            full.append(FullNode(member, shard.weights_bytes, lack))
    return full


class PlannedStart(Protocol):
    """A start that is planned but not begun."""

    @property
    def uses(self) -> Mapping[str, MachineUse]:
        """Return what it takes of each machine, by name."""

    def full_nodes(self, nodes: Nodes) -> Sequence[FullNode]:
        """Return the nodes that have neither their shard nor disk space for it."""


Start = TypeVar("Start", bound=PlannedStart)
Planned = Callable[[list[NodeReport], Occupancy, bool], Start]


class NodePool:
    """Finds nodes that can run a model.

    missing: members that do not answer, have a full disk or are used by other jobs, each with the bytes of
    the shard that does not fit (0 if that is not the reason). known: the names of all members that were
    there to choose from.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        reporter: Reporter,
        timer: StartTimer,
        sharing: NodeSharing,
        *,
        may_drop_full: bool,
    ) -> None:
        self._cluster, self._nodes, self._reporter, self._timer = cluster, nodes, reporter, timer
        self._sharing, self._may_drop_full = sharing, may_drop_full
        self._full: dict[str, FullNode] = {}
        self.missing: list[tuple[Member, int]] = []
        self.known: set[str] = set()

    def choose(self, wait: NodeWait, planned: Planned[Start]) -> Start:
        """Return the start that the nodes allow, with its machines claimed.

        planned: plans it from the nodes that can be used, who else uses them, and whether others are
        missing. While it raises ResourceError, missing nodes are waited for. Raises ClusterError if nodes
        that must take part are busy.
        """
        while True:
            available, missing = wait.wait()
            self._timer.note("gather_s")
            self._reporter.event(EngineEvent.PLACES)
            self.known = {report.member.name for report in (*available, *missing)}
            occupancy = self._sharing.occupancy(available)
            busy = self._sharing.busy(available, occupancy)
            self.missing = [(report.member, 0) for report in (*missing, *busy)]
            self.missing += [(full.member, full.needed_bytes) for full in self._full.values()]
            left_out = {member.name for member, _ in self.missing}
            usable = [report for report in available if report.member.name not in left_out]
            try:
                start = planned(usable, occupancy, bool(self.missing))
            except ResourceError as error:
                if busy and not missing:
                    raise self._sharing.lacks(busy, occupancy) from error
                if not missing:
                    raise
                wait.require_more(str(error))
            else:
                if not self._drop(start.full_nodes(self._nodes)) and self._sharing.claim(
                    start.uses, left_out, occupancy
                ):
                    return start
            self._reporter.event(EngineEvent.LACKS)

    def _drop(self, full: Sequence[FullNode]) -> bool:
        """Leave out full nodes; return whether there are any. At the first start they are an error."""
        if full and not self._may_drop_full:
            raise full[0].lack
        for node in full:
            self._cluster.events.add("left_out", node=node.member.name, reason=str(node.lack))
            self._full[node.member.name] = node
        return bool(full)
