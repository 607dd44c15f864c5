"""What the engine leaves for the launchers of a job: where each rank runs, and whose it is.

In a module of its own, as a launcher imports much that an engine does not need when it starts.
"""

from __future__ import annotations

import msgspec

from dure.cluster.job_identity import JobIdentity

__all__ = ["LaunchFile", "NodeRank"]


class NodeRank(msgspec.Struct):
    """Where a rank runs: the node, its address, the name of its shard, and jobs that are over there."""

    name: str
    rank: int
    host: str
    port: int
    shard: str
    ended: list[str]


class LaunchFile(msgspec.Struct):
    """What the launcher reads in the job's directory.

    nodes: by mpiexec's names. owner, shares: as in `RankOrder`.
    """

    cluster: str
    nodes: dict[str, NodeRank]
    owner: JobIdentity
    shares: bool
