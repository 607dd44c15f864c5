"""Examines every machine of a cluster, from its root: each by itself, and each with the root.

Asks the nodes' agents, all at once. Refuses to decide what is changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from dure.cluster.node_api import EXAMINE_S, SETTINGS_OF_LATENCY, NodeClient
from dure.cluster.root.links import HANDSHAKES, lost_handshakes
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.speeds import round_trip_s
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.cluster.trust.connection import RequestRefusedError
from dure.cluster.trust.identity import ROOT_NAME
from dure.doctor.checks import CHECKS
from dure.doctor.checks.node_link import LINK_CHECKS
from dure.doctor.finding import Finding, Severity, judged
from dure.doctor.node_link import NodeLink, devices_between
from dure.errors import ClusterError
from dure.hardware.examination.condition import Condition
from dure.hardware.settings import NEEDS_RIGHTS, Settings

__all__ = ["ClusterNode", "NodeSettings", "examined_by", "examined_nodes", "findings_of_cluster"]

T = TypeVar("T")


class NodeSettings:
    """The settings of a node, which its agent reads and changes as far as it may."""

    def __init__(self, nodes: Nodes, member: Member) -> None:
        self._nodes, self._member = nodes, member

    def read(self, name: str) -> str:
        """Return a setting's value. Raises ClusterError."""
        return self._ask(name, None)

    def write(self, name: str, value: str) -> None:
        """Change a setting. Raises ClusterError."""
        self._ask(name, value)

    def _ask(self, name: str, value: str | None) -> str:
        if not re.match(SETTINGS_OF_LATENCY, name):
            raise ClusterError(
                f"{name} is changed on {self._member.name} itself alone",
                "run `sudo dure doctor --fix` there",
            )
        with closing(self._nodes.client(self._member, EXAMINE_S)) as client:
            try:
                return client.setting(name, value)
            except RequestRefusedError as error:
                is_denied = error.kind and error.cure == NEEDS_RIGHTS
                cure = AGENT_AS_ROOT if is_denied else error.cure
                raise ClusterError(error.problem, cure) from error


class ClusterNode:
    """A node of the cluster, which its agent examines, and changes as far as it may."""

    def __init__(self, nodes: Nodes, member: Member) -> None:
        self._nodes, self._member = nodes, member

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return self._member.name

    @property
    def settings(self) -> Settings:
        """What of it can be changed."""
        return NodeSettings(self._nodes, self._member)

    def condition(self, only: Collection[str] = ()) -> Condition:
        """Have it examine itself. Raises ClusterError."""
        with closing(self._nodes.client(self._member, EXAMINE_S)) as client:
            return client.examine(only)


_AT_ONCE = 32
AGENT_AS_ROOT = (
    "its agent needs root's rights for that: stop its service for a while, and run "
    "`sudo DURE_NODE_DIR=~/.local/share/dure/node dure node` there"
)
_WHY = "A node that is missing leaves its share to the others, or the model does not fit."


def findings_of_cluster(cluster: Cluster, here: Condition) -> list[Finding]:
    """Return what is found on every machine of a cluster. here: the condition of this one, its root."""
    nodes, members = Nodes(cluster), cluster.members
    found = [replace(one, machine=ROOT_NAME) for one in judged(CHECKS, here)]
    reports = nodes.survey(members)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        of_nodes = threads.map(lambda report: _of_node(nodes, report, here), reports)
        return found + [one for some in of_nodes for one in some]


def examined_nodes(cluster: Cluster) -> dict[str, Condition]:
    """Return the condition of every node, by name. Raises ClusterError if one does not answer."""
    nodes, members = Nodes(cluster), cluster.members

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        conditions = threads.map(lambda member: ClusterNode(nodes, member).condition(), members)
        return {one.name: found for one, found in zip(members, conditions, strict=True)}


def _of_node(nodes: Nodes, report: NodeReport, here: Condition) -> list[Finding]:
    member = report.member
    if report.problem:
        silent = ("answer", "node", Severity.SERIOUS, "the node does not answer", _WHY)
        cure = "is it on, is its cable in, and does `dure node` run on it?"
        return [Finding(*silent, report.problem, cure, machine=member.name)]
    condition, ahead_s, problem = _examined(nodes, member)
    found = judged(LINK_CHECKS, _link(report, here, condition, ahead_s, problem))
    if condition is None:
        unknown = ("examination", "node", Severity.UNREADABLE, "it could not be examined", _WHY)
        cure = "install this machine's version of dure on it"
        found.append(Finding(*unknown, problem, cure))
    else:
        found += judged(CHECKS, condition)
    return [replace(one, machine=member.name) for one in found]


def _examined(nodes: Nodes, member: Member) -> tuple[Condition | None, float | None, str]:
    with closing(nodes.client(member, EXAMINE_S)) as client:
        return examined_by(client, member.name)


def examined_by(client: NodeClient, name: str) -> tuple[Condition | None, float | None, str]:
    """Have a node of this name examine itself.

    Return its condition, by how many seconds its clock is ahead of this machine's, and why these are None.
    """
    try:
        condition = client.examine()
        asked = time.time()
        now = client.examine(["architecture"]).time  # a question that is answered at once
        return condition, now - (asked + time.time()) / 2, ""
    except RequestRefusedError as error:
        too_old = f"the dure of {name} is too old to be asked for it"
        return None, None, str(error) if error.kind else too_old
    except ClusterError as error:
        return None, None, str(error)


def _link(
    report: NodeReport,
    here: Condition,
    there: Condition | None,
    ahead_s: float | None,
    problem: str,
) -> NodeLink:
    member, unreadable = report.member, dict[str, str]()
    trip_s = _noted(unreadable, "round_trip", lambda: round_trip_s(member))
    lost = _noted(unreadable, "loss", lambda: lost_handshakes(member))
    devices = None
    if there is None:
        unreadable |= {"clock": problem, "devices": problem}
    elif reason := here.unreadable.get("devices") or there.unreadable.get("devices"):
        unreadable["devices"] = reason
    else:
        devices = devices_between(here, there, member.host)
    return NodeLink(
        member.name,
        ahead_s,
        report.platform.versions if report.platform else {},
        versions(),
        trip_s,
        lost,
        HANDSHAKES,
        devices,
        unreadable,
    )


def _noted(unreadable: dict[str, str], name: str, measure: Callable[[], T]) -> T | None:
    try:
        return measure()
    except ClusterError as error:
        unreadable[name] = str(error)
        return None
