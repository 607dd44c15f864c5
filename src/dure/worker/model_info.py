"""Collects what the engine reports of a loaded model."""

from __future__ import annotations

import numpy as np

from dure.deploy.deployment import Deployment
from dure.engine.executor import ExecutorInfo
from dure.generate.request import ModelInfo, RankPlace
from dure.model.gguf import GgufFile

__all__ = ["model_info", "places_of"]


def places_of(deployment: Deployment) -> tuple[RankPlace, ...]:
    """Return where the ranks of a deployment run, and what each holds."""
    facts = deployment.executor.facts()
    nodes = deployment.machines or ("",) * len(facts)
    return tuple(
        RankPlace(node, rank.host, rank.weights_bytes, rank.kv_bytes)
        for node, rank in zip(nodes, facts, strict=True)
    )


def model_info(gguf: GgufFile, info: ExecutorInfo, places: tuple[RankPlace, ...] = ()) -> ModelInfo:
    """Return the description of a model that runs on this executor. places: of its ranks."""
    weights: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.size_bytes
    return ModelInfo(
        path=str(gguf.paths[0]),
        name=gguf.str("general.name", "") or gguf.paths[0].stem,
        architecture=gguf.architecture,
        n_ctx=info.n_ctx,
        n_ctx_train=gguf.int(f"{gguf.architecture}.context_length", info.n_ctx),
        n_vocab=info.n_vocab,
        n_embd=gguf.int(f"{gguf.architecture}.embedding_length", 0),
        n_sequences=info.n_sequences,
        n_ranks=info.n_ranks,
        threads=info.threads,
        transport=info.transport,
        places=places,
        weights_bytes=sum(weights.values()),
        n_params=sum(int(np.prod(tensor.shape)) for tensor in gguf.tensors.values()),
        file_type=max(weights, key=lambda name: weights[name]),
    )
