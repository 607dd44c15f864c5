"""Loads adapters into a running model: checked against it, cut as it is, and brought to every rank.

Knows in which order that is done. Refuses to know which requests use an adapter.
"""

from __future__ import annotations

from pathlib import Path

from dure.deploy.deployment import Deployment
from dure.deploy.options import RunOptions
from dure.model.adapter import check_adapter, open_adapter, plan_adapter
from dure.model.cut import CutPlan
from dure.model.gguf import GgufFile
from dure.model.shard import Shard
from dure.places import shard_directory

__all__ = ["adapter_bytes", "load_adapter", "planned"]


def load_adapter(
    model: GgufFile, deployment: Deployment, path: Path, number: int | None = None
) -> int:
    """Load an adapter into every rank, while they run; return its number. number: see `Adapters`.

    Raises ModelError or CutError if it does not fit the model, and what its way to the ranks raises.
    """
    with open_adapter(path) as adapter:
        check_adapter(adapter, model)
        return deployment.executor.load_adapter(deployment.place_adapter(adapter), number)


def adapter_bytes(model: GgufFile, options: RunOptions, plan: CutPlan | None = None) -> list[int]:
    """Return the bytes that the adapters of a start take on each rank of a plan; None: of a whole model.

    Raises ModelError or CutError if one does not fit, before the model is loaded.
    """
    total = [0] * (1 if plan is None else len(plan.ranks))
    for file in options.lora:
        with open_adapter(Path(file.path)) as adapter:
            check_adapter(adapter, model)
            sizes = (
                [sum(tensor.size_bytes for tensor in adapter.tensors.values())]
                if plan is None
                else [shard.weights_bytes for shard in planned(adapter, plan)]
            )
        total = [a + b for a, b in zip(total, sizes, strict=True)]
    return total


def planned(adapter: GgufFile, plan: CutPlan) -> list[Shard]:
    """Plan each rank's part of an adapter, where this machine keeps shards."""
    return plan_adapter(adapter, plan, shard_directory())
