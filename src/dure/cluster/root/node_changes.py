"""Renames nodes, and dissolves the cluster: what the root and its nodes must agree on.

Refuses to ask the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec

from dure.cluster.job_identity import busy_error
from dure.cluster.root.job_registry import JobRegistry
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.root.survey import Nodes
from dure.errors import ClusterError

__all__ = ["dissolve", "rename_node"]

AT_ONCE = 32


def rename_node(cluster: Cluster, nodes: Nodes, name: str, new: str) -> None:
    """Give a node another name, with a certificate for it; the one that it had is revoked.

    Raises UsageError if there is no such node or the name cannot be had, ClusterError if a job uses the
    node or it does not answer.
    """
    member = cluster.member(name)
    cluster.check_free(new)
    _check_idle(cluster, name)
    with closing(nodes.client(member)) as client:
        certificate, serial = cluster.authority.sign(client.prepare_name(new), new)
        renamed = msgspec.structs.replace(member, name=new, serial=serial)
        try:
            client.take_certificate(certificate)
        except ClusterError:  # its answer may be lost
            if not _answers(nodes, renamed):
                raise
    cluster.rename(name, renamed)
    KnownSpeeds(cluster.directory).rename(name, new)


def dissolve(cluster: Cluster, nodes: Nodes) -> Mapping[str, str]:
    """Have all nodes leave, revoke their certificates, and delete what is stored here of the cluster.

    Returns why a node was not told, by name. Raises ClusterError while a job runs, OSError.
    """
    _check_idle(cluster)
    members = cluster.members
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        problems = list(threads.map(lambda member: _leave(nodes, member), members))
    untold = {m.name: why for m, why in zip(members, problems, strict=True) if why}
    for member in members:
        cluster.remove(member.name)
    cluster.delete()
    return untold


def _check_idle(cluster: Cluster, name: str | None = None) -> None:
    """Raise ClusterError if a job of this root uses a node, or any machine."""
    others = JobRegistry(cluster.directory).others()
    using = [other.job for other in others if name is None or name in other.machines]
    if using:
        raise busy_error({name or f"the cluster {cluster.name}": using}, may_share=False)


def _leave(nodes: Nodes, member: Member) -> str:
    try:
        with closing(nodes.client(member)) as client:
            client.leave()
    except ClusterError as error:
        return str(error)
    return ""


def _answers(nodes: Nodes, member: Member) -> bool:
    (report,) = nodes.survey([member])
    return not report.problem
