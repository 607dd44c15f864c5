"""Which GPU each machine of a cluster would compute on.

Knows how machines are asked. Refuses to know models, and who wants a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.engine.compute.gpu import gpus_in_process
from dure.hardware.gpu import Gpu
from dure.plan.gpu_layers import gpus_of_ranks

__all__ = ["gpus_of"]

_ASK_S = 90.0  # a driver may compile when it is first used


def gpus_of(nodes: Nodes, reports: Sequence[NodeReport]) -> dict[str, Gpu]:
    """Return the GPUs of the root and of these nodes, by machine, with what is free there now.

    Raises ClusterError if a node that has one does not answer.
    """
    found = {ROOT_NAME: gpus_in_process()}
    for report in reports:
        if report.platform is not None and report.platform.gpus:
            with closing(nodes.client(report.member, _ASK_S)) as client:
                found[report.member.name] = client.gpus()
    used = {name: gpus_of_ranks(gpus, 1)[0] for name, gpus in found.items()}
    return {name: gpu for name, gpu in used.items() if gpu is not None}
