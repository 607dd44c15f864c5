"""Describes a running model to whoever started it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dure.engine.executor import FullExecutor
from dure.hardware.health import Platform
from dure.model.gguf import GgufFile
from dure.model.shard import Shard
from dure.plan.gpu_layers import GpuLayers
from dure.plan.memory import RankMemory
from dure.plan.setups import Setup

__all__ = ["Deployment", "deployment_of_shards"]


@dataclass(frozen=True)
class Deployment:
    """A running executor with its sizes.

    weights_bytes: of all ranks. kv_token_bytes: each rank's bytes of KV cache
    per token, if all of it moves or is stored; see `RankMemory.moved_bytes_per_token`.
    cut_name: identifies the cut; "whole" if there is none.
    restart_reason: called when the engine is idle, returns why it should restart, as when a machine is
    back; "" if it should not. record: logs an event with its facts. learn: called with each rank's seconds
    of computing in a step. is_shared: other jobs run on its machines, so no time measured there is of it
    alone. machines: of the ranks, as a person knows them; empty if all are here. place_adapter: brings
    an adapter to where the ranks are, and returns each rank's file; see `Adapters.load_adapter`.
    measured_setup: returns the machines of a cluster as they were measured, and their shares; None if
    something of them is not known. platforms, shares: of the ranks of a cluster; empty if all are here.
    gpus: each rank's layers that lie on one, or None; empty if processors compute all.
    """

    executor: FullExecutor
    weights_bytes: int
    kv_token_bytes: tuple[int, ...]
    cut_name: str
    restart_reason: Callable[[], str] = lambda: ""
    record: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None
    learn: Callable[[Sequence[float]], None] = lambda _seconds: None
    is_shared: bool = False
    machines: tuple[str, ...] = ()
    place_adapter: Callable[[GgufFile], Sequence[str]] = lambda adapter: [
        str(adapter.paths[0].absolute())
    ]
    measured_setup: Callable[[], tuple[Setup, Sequence[float]] | None] = lambda: None
    platforms: tuple[Platform, ...] = ()
    shares: tuple[float, ...] = ()
    gpus: tuple[GpuLayers | None, ...] = ()

    @property
    def gpu(self) -> GpuLayers | None:
        """The first rank's layers that lie on a GPU; None: all are computed by processors."""
        return next(filter(None, self.gpus), None)


def deployment_of_shards(
    executor: FullExecutor,
    shards: Sequence[Shard],
    memory: Sequence[RankMemory],
    place_adapter: Callable[[GgufFile], Sequence[str]],
    gpus: Sequence[GpuLayers | None] = (),
) -> Deployment:
    """Return the deployment of an executor that runs these shards."""
    names = "".join(shard.name for shard in shards)
    if any(gpus):
        names += "".join(f"-gpu{gpu.n if gpu else 0}" for gpu in gpus)
    return Deployment(
        executor,
        sum(rank.weights_bytes for rank in memory),
        tuple(rank.moved_bytes_per_token for rank in memory),
        hashlib.blake2b(names.encode(), digest_size=8).hexdigest(),
        place_adapter=place_adapter,
        gpus=tuple(gpus),
    )
