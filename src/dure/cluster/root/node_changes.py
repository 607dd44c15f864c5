"""Renames nodes, and dissolves the cluster: what the root and its nodes must agree on.

Both have the machines that they are about to themselves meanwhile. Refuses to ask the user.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.sole_use import sole_use
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.root.survey import NodeReport, Nodes, root_report
from dure.cluster.trust.connection import UnreachableError
from dure.errors import ClusterError

__all__ = ["dissolve", "rename_node"]

AT_ONCE = 32
RESTART_S = 10.0  # of an agent, with its new name
LEAVE_S = 600.0  # for a node to delete its shards: a slow card, and much on it


def rename_node(cluster: Cluster, nodes: Nodes, name: str, new: str) -> None:
    """Give a node another name, with a certificate for it; the one that it had is revoked.

    What an earlier call began and could not finish is finished first. Raises UsageError if there is no such
    node or the name cannot be had, ClusterError if a job uses the node or it does not answer.
    """
    name = _finished(cluster, nodes, cluster.member(name))
    if name == new:
        return
    (report,) = nodes.survey([cluster.member(name)])
    with (
        sole_use(cluster, JobIdentity.new("cluster rename", name), [report]),
        closing(nodes.client(report.member)) as client,
    ):
        certificate = cluster.begin_rename(name, new, client.prepare_name(new))
        try:
            client.take_certificate(certificate)
        except UnreachableError as error:  # its answer may be lost, while it begins anew
            if not _answers_soon(nodes, cluster.member(name).renamed):
                again = f"`dure cluster rename {name} {new}` again finishes it"
                raise UnreachableError(error.problem, again) from error
        _finish(cluster, name, new)


def _finished(cluster: Cluster, nodes: Nodes, member: Member) -> str:
    """Finish a renaming that was begun, if the node has taken the name; return what it is called."""
    if member.renaming is None or not _answers(nodes, member.renamed):
        return member.name
    _finish(cluster, member.name, member.renaming.name)
    return member.renaming.name


def _finish(cluster: Cluster, name: str, new: str) -> None:
    cluster.finish_rename(name)
    KnownSpeeds(cluster.directory).rename(name, new)


def _answers_soon(nodes: Nodes, member: Member) -> bool:
    give_up = time.monotonic() + RESTART_S
    while not (answers := _answers(nodes, member)) and time.monotonic() < give_up:
        time.sleep(0.2)
    return answers


def _answers(nodes: Nodes, member: Member) -> bool:
    (report,) = nodes.survey([member])
    return not report.problem


def dissolve(cluster: Cluster, nodes: Nodes) -> Mapping[str, str]:
    """Have all nodes leave, and delete what is stored here of the cluster.

    Without the root's key nobody can ask a node that has not left. Returns why a node was not told, by
    name. Raises ClusterError while a job runs, OSError.
    """
    reports = nodes.survey(cluster.members)
    own = JobIdentity.new("cluster dissolve", cluster.name)
    with sole_use(cluster, own, [root_report(cluster.directory), *reports]):
        with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
            problems = list(threads.map(lambda report: _leave(nodes, report), reports))
        cluster.delete()
    return {one.member.name: why for one, why in zip(reports, problems, strict=True) if why}


def _leave(nodes: Nodes, report: NodeReport) -> str:
    """Have a node leave; return why it has not."""
    if report.problem:
        return report.problem
    try:
        with closing(nodes.client(report.member, LEAVE_S)) as client:
            client.leave()
    except ClusterError as error:
        return str(error)
    return ""
