"""Unequal machines: the shares that dure plans from measured speeds, beside equal ones.

Three hosts (network namespaces on 1 Gbit/s links) have a whole processor, 0.6 and 0.3 of one. What is
predicted comes from the measured speeds and the two cuts: at every sum all wait for the slowest.

    sudo -E "$(command -v python)" bench/cluster_unequal.py

Needs root, iproute2, two processors and control groups of version 1. Nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster_hosts import Machine, joined, machines
from measure import Contender, Quantity, Sample, alternate, compare, main, parser, report
from shapes import add_model_options, gguf_file

from dure.cluster.membership import ROOT_NAME
from dure.cluster.speeds import KnownSpeeds
from dure.model.architecture import Along
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import open_gguf

PARTS = ((0, 1.0), (1, 0.6), (1, 0.3))
"""Of every host: its processor, and how much of it."""
TOKENS = 48
CLOSE = 0.2
_SECTIONS = (
    {Along.QUERY, Along.KEY, Along.VALUE, Along.CONTEXT, Along.HEADS},
    {Along.FFN},
    {Along.VOCABULARY},
)
"""What lies between two sums."""


def contender(root: Machine, model: Path, name: str, *options: object) -> Contender:
    """A model that generates on the cluster, with some shares."""

    def measure() -> Sample:
        said = root.dure(
            *("run", model, "a b c d e f g h", "--raw", "--json", "-t", 1, "-n", TOKENS),
            *("--temp", 0, "--cluster", "--nodes", "all", *options),
        )
        return {"generation": float(json.loads(said)["tokens_per_s"])}

    return Contender(name, measure)


def token_s(model: Path, shares: Sequence[float], speeds: Sequence[float]) -> float:
    """The predicted time of the weights of a token, without sums; speeds: bytes per second."""
    with open_gguf(model) as gguf:
        plan = plan_cut(gguf, shares)
        sizes = [_section_bytes(plan, gguf.tensors, along) for along in _SECTIONS]
    return sum(max(n / s for n, s in zip(ranks, speeds, strict=True)) for ranks in sizes)


def _section_bytes(plan: CutPlan, tensors: Mapping[str, Any], along: set[Along]) -> list[int]:
    """Each rank's bytes of the tensors that are cut so."""
    names = [n for n in tensors if plan.architecture.rule(n).along in along]
    return [
        sum(plan.size_bytes(tensors[name], rank) for name in names)
        for rank in range(len(plan.ranks))
    ]


def run() -> int:
    """Measure; 0 where the ratio is as predicted, within a fifth."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    arguments = options.parse_args()
    model = gguf_file(arguments.shape, arguments.dir)
    with tempfile.TemporaryDirectory() as directory, machines(Path(directory), 3) as hosts:
        for host, (cpu, quota) in zip(hosts, PARTS, strict=True):
            host.cpu, host.quota = cpu, quota
        root, *nodes = hosts
        joined(*hosts)
        planned = contender(root, model, "planned")
        equal = contender(root, model, "equal", "--shares", "1,1,1")
        alternate([planned], 1)  # measures the machines, and sends the shards
        known = KnownSpeeds(root.home / "dure_cluster_dir")
        names = [ROOT_NAME, *(node.name for node in nodes)]
        found = [known.speed(name, "Q4_0") for name in names]
        speeds = [speed.decode_bytes_per_s for speed in found if speed is not None]
        ratio = token_s(model, [1, 1, 1], speeds) / token_s(model, speeds, speeds)
        quantity = Quantity("generation", "generation", "tok/s", round(ratio * (1 - CLOSE), 3))
        comparisons = compare([quantity], [planned, equal], arguments.rounds)
    settings = {
        "model": arguments.shape,
        "speeds": [f"{speed / 1e9:.2f} GB/s" for speed in speeds],
        "predicted_ratio": round(ratio, 3),
        "measured_to_predicted": round(comparisons[0].ratio / ratio, 3),
    }
    report("cluster_unequal", settings, comparisons, arguments.json)
    return 0 if abs(comparisons[0].ratio / ratio - 1) <= CLOSE else 1


if __name__ == "__main__":
    main(run)
