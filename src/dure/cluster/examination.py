"""Examines this machine for the doctor, as one that may be a root or a node.

Knows where dure keeps its own here, and on which ports it answers. Refuses to judge.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from dure.cluster.software import NODE_UNIT
from dure.cluster.trust.joining import JOIN_PORT, NodeFile
from dure.engine.compute.build import system_info
from dure.engine.compute.variants import best, chosen
from dure.errors import ClusterError, DureError, EngineError
from dure.hardware.examination.condition import Condition, Kernels
from dure.hardware.examination.examine import Installation, examine
from dure.hardware.examination.machine_root import UnreadableError
from dure.places import (
    cluster_directory,
    config_file,
    models_directory,
    node_directory,
    shard_directory,
)

__all__ = ["condition_here"]


def condition_here(node: Path | None = None, only: Collection[str] = ()) -> Condition:
    """Examine this machine; that takes seconds.

    node: the directory of its node, if not the usual one. only: the readings that are wanted.
    """
    return examine(_installation(node or _node_directory()), only=only)


def _node_directory() -> Path:
    """Return the directory of this machine's node: its service may run as another user."""
    if not os.environ.get("DURE_NODE_DIR"):
        with contextlib.suppress(OSError):
            unit = (Path("/etc/systemd/system") / NODE_UNIT).read_text()
            if named := re.search(r'^Environment="?DURE_NODE_DIR=([^"\n]+)', unit, re.MULTILINE):
                return Path(named[1].replace("%%", "%"))
    return node_directory()


def _installation(node: Path) -> Installation:
    return Installation(
        node_directory=str(node),
        user_units=str(Path.home() / ".config" / "systemd" / "user"),
        config_file=str(config_file()),
        unit=NODE_UNIT,
        folders={
            "models": str(models_directory()),
            "shards": str(shard_directory()),
            "a node's shards": str(node),
        },
        ports=tuple(_ports(node)),
        build=_build,
        kernels=_kernels,
    )


def _ports(node: Path) -> list[int]:
    """Return the ports on which this machine's own cluster wants to reach it."""
    ports = []
    with contextlib.suppress(ClusterError):
        ports.append(NodeFile.read(node).port)
    if (cluster_directory() / "cluster.json").exists():
        ports.append(JOIN_PORT)
    return ports


@cache
def _build() -> str:
    try:
        return system_info()
    except EngineError as error:
        raise UnreadableError(error.problem) from error


def _kernels() -> Kernels:
    try:
        return Kernels(chosen(), best())
    except DureError as error:
        raise UnreadableError(error.problem) from error
