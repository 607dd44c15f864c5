"""Ranks on the cluster's machines: rank 0 on the root, one on each node, started through the agents.

Knows mpiexec's arguments and what the launcher finds in the job's directory. Refuses to know which
machine gets which share.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dure.cluster.job_identity import JobIdentity
from dure.cluster.network import device_of, named_device, network_environment
from dure.cluster.node_api import RANK_SCRIPT
from dure.cluster.root.launch_file import LaunchFile, NodeRank
from dure.cluster.root.membership import Cluster, Member
from dure.engine.ranks.job import Job
from dure.engine.ranks.launch import GUARD
from dure.engine.ranks.shared_memory import make_room
from dure.errors import ClusterError
from dure.hardware.health import Link
from dure.hardware.rank_priority import priority_environment

__all__ = ["ClusterLaunch", "JobOwner"]


@dataclass(frozen=True)
class JobOwner:
    """Whose ranks are started. shares: beside other jobs. ended: jobs that are over, by node."""

    identity: JobIdentity
    shares: bool
    ended: Callable[[str], list[str]]


class ClusterLaunch:
    """Start rank 0 here and rank i+1 on the i-th node; see `dure.engine.ranks.launch.Launch`.

    nodes: each with the name of its shard. owner: the job whose ranks these are, with other jobs on the
    same nodes only if it shares; jobs that have ended are in nobody's way. links: this machine's network
    devices. interface: the one to use; None: the one that leads to the first node.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[tuple[Member, str]],
        owner: JobOwner,
        links: tuple[Link, ...],
        interface: str | None = None,
    ) -> None:
        self._cluster, self._nodes, self._owner = cluster, nodes, owner
        self._device = (
            named_device(interface, links)
            if interface
            else device_of(_address_towards(nodes[0][0]), links)
        )

    def prepare(self, job: Job, directory: Path) -> None:  # noqa: ARG002  # it is in its file
        """Write the file that the launcher of each node's rank reads."""
        make_room(1)
        nodes = {
            _mpi_host(rank): NodeRank(
                member.name, rank, member.host, member.port, shard, self._owner.ended(member.name)
            )
            for rank, (member, shard) in enumerate(self._nodes, 1)
        }
        home = str(self._cluster.directory.absolute())
        launch = LaunchFile(home, nodes, self._owner.identity, self._owner.shares)
        (directory / "launch.json").write_bytes(msgspec.json.encode(launch))

    def environment(self) -> dict[str, str]:
        """Have mpiexec start `launcher`, and rank 0 use the device that leads to the nodes."""
        launcher = "-m dure.cluster.root.launcher"  # parted at blanks, so nothing else can be told
        return {
            "HYDRA_LAUNCHER_EXTRA_ARGS": launcher,
            **network_environment(self._device),
            **priority_environment(),
        }

    @property
    def transport(self) -> str:
        """TCP, through the connections between root and nodes."""
        return f"TCP over {self._device}"

    def arguments(self, job_file: Path, n_ranks: int) -> list[str]:
        """Return mpiexec's arguments: one part for each rank; a node's agent writes the script."""
        hosts = ",".join(["127.0.0.1", *map(_mpi_host, range(1, n_ranks))])
        first = ["sh", "-c", GUARD, str(job_file.with_name("rank0.exit"))]
        first += [sys.executable, "-m", "dure.engine.ranks.rank", str(job_file)]
        node_rank = ("sh", "-c", f". {RANK_SCRIPT}")
        there = (
            "-n",
            "1",
            "-wdir",
            "/",
            *node_rank,
        )  # nodes need not have the directory of this one
        others = [word for _ in range(n_ranks - 1) for word in (":", *there)]
        return [
            *("-launcher", "rsh", "-launcher-exec", sys.executable),
            *("-iface", "lo", "-localhost", "127.0.0.1", "-hosts", hosts, "-genvnone"),
            *("-n", "1", *first, *others),
        ]


def _mpi_host(rank: int) -> str:
    """Return what mpiexec calls the node of a rank: an address that no machine has.

    For a name it would ask the name server, and wait if that is silent.
    """
    return f"240.0.{rank >> 8}.{rank & 255}"


def _address_towards(member: Member) -> str:
    """Return this machine's address on the way to a node; nothing is sent."""
    family = socket.AF_INET6 if ":" in member.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((member.host, member.port))
        except OSError as error:
            raise ClusterError(
                f"no network leads to {member.name} at {member.host} ({error.strerror})",
                "is the cable in?",
            ) from error
        return str(probe.getsockname()[0])
