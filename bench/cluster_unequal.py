"""Unequal machines: the shares that dure plans from measured speeds, compared with equal ones.

Three hosts (network namespaces on 1 Gbit/s links) have a whole processor, 0.6 and 0.3 of one, by control
groups. The prediction comes from the measured speeds and links and the two cuts: at every all-reduce, all
wait for the slowest. Prefill is measured, because between two of its all-reduces lie many of the periods
(4 ms) of a quota. Between two all-reduces of one token lies less than one period, in which a machine with a
quota is as fast as any other until it halts, unlike a slow machine.

    sudo -E "$(command -v python)" bench/cluster_unequal.py

Needs root, iproute2, two processors and control groups of version 1. Nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_hosts import Machine, joined, machines
from measure import Contender, Quantity, Sample, alternate, compare, main, parser, report
from shapes import add_model_options, gguf_file

from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.model.architectures import Along
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import open_gguf

PARTS = ((0, 1.0), (1, 0.6), (1, 0.3))
"""Of every host: its processor, and how much of it."""
TOKENS = 512
CLOSE = 0.2
Q8_BYTES = 34 / 32  # of a number on the wire
_SECTIONS = (
    {Along.QUERY, Along.KEY, Along.VALUE, Along.CONTEXT, Along.HEADS},
    {Along.FFN},
)
"""The weights read between two all-reduces; of a prompt, only the last logits are computed."""


def contender(root: Machine, model: Path, name: str, *options: object) -> Contender:
    """Return a contender: prefill on the cluster with some shares."""

    def measure() -> Sample:
        printed = root.dure(
            *("bench", model, "--json", "-t", 1, "-p", TOKENS, "-n", 1, "--repeat", 1),
            *("--cluster", "--nodes", "all", *options),
        )
        return {"prompt": float(json.loads(printed)["rows"][0]["prompt"]["tokens_per_s"]["median"])}

    return Contender(name, measure)


@dataclass(frozen=True)
class Measured:
    """Each machine's bytes of weights per second, in decode and in prefill, and the slowest link."""

    decode: list[float]
    prompt: list[float]
    link: float

    @classmethod
    def of(cls, root: Machine, names: Sequence[str]) -> Measured:
        """Return what the root saved."""
        known = KnownSpeeds(root.home / "dure_cluster_dir")
        speeds = [speed for name in names if (speed := known.speed(name, "Q4_0")) is not None]
        links = [link.bytes_per_s for name in names if (link := known.link(name)) is not None]
        return cls(
            [speed.decode_bytes_per_s for speed in speeds],
            [speed.prompt_bytes_per_s for speed in speeds],
            min(links),
        )

    def prompt_s(self, model: Path, shares: Sequence[float]) -> float:
        """Return the predicted seconds of prefill with these shares."""
        with open_gguf(model) as gguf:
            plan = plan_cut(gguf, shares)
            sizes = [_section_bytes(plan, gguf.tensors, along) for along in _SECTIONS]
        compute = sum(
            max(size / speed for size, speed in zip(ranks, self.prompt, strict=True))
            for ranks in sizes
        )
        n, shape = len(shares), plan.shape
        sent = 2 * (n - 1) / n * shape.n_embd * Q8_BYTES  # in two phases
        return TOKENS * (compute + 2 * shape.n_layer * sent / self.link)


def _section_bytes(plan: CutPlan, tensors: Mapping[str, Any], along: set[Along]) -> list[int]:
    """Return each rank's bytes of the tensors that are cut along an axis."""
    names = [n for n in tensors if plan.architecture.rule(n).along in along]
    return [
        sum(plan.size_bytes(tensors[name], rank) for name in names)
        for rank in range(len(plan.ranks))
    ]


def run() -> int:
    """Measure; return 0 if the ratio is as predicted, within a fifth."""
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
        found = Measured.of(root, [ROOT_NAME, *(node.name for node in nodes)])
        ratio = found.prompt_s(model, [1, 1, 1]) / found.prompt_s(model, found.decode)
        quantity = Quantity("prompt", "prompt", "tok/s", round(ratio * (1 - CLOSE), 3))
        comparisons = compare([quantity], [planned, equal], arguments.rounds)
    settings = {
        "model": arguments.shape,
        "decoding": [f"{speed / 1e9:.2f} GB/s" for speed in found.decode],
        "prompt": [f"{speed / 1e9:.0f} GB/s" for speed in found.prompt],
        "predicted_ratio": round(ratio, 3),
        "measured_to_predicted": round(comparisons[0].ratio / ratio, 3),
    }
    report("cluster_unequal", settings, comparisons, arguments.json)
    return 0 if abs(comparisons[0].ratio / ratio - 1) <= CLOSE else 1


if __name__ == "__main__":
    main(run)
