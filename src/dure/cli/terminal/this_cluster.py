"""The cluster that a command is about: that whose root this machine is."""

from __future__ import annotations

from dure.cluster.root.membership import Cluster
from dure.cluster.trust.joining import NodeFile
from dure.errors import ClusterError
from dure.places import cluster_directory, node_directory

__all__ = ["this_cluster"]


def this_cluster() -> Cluster:
    """Return the cluster whose root this machine is. Raises ClusterError."""
    directory = cluster_directory()
    if not (directory / "cluster.json").exists() and (node_directory() / "node.json").exists():
        own = NodeFile.read(node_directory())
        raise ClusterError(
            f"this machine is {own.name}, a node of the cluster {own.cluster}",
            "type that on its root",
        )
    return Cluster(directory)
