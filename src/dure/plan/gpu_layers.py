"""How many layers of a model lie on a GPU, and what is left for the machine's own memory.

Pure arithmetic over a model's tensors and a `Gpu`. Refuses to look at any device.
Source: llama.cpp `src/llama-model.cpp` (`load_tensors`): the last layers and the output go to the device,
and the table of embeddings stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dure.hardware.gpu import Gpu
from dure.model.gguf import GgufFile, TensorSpec
from dure.plan.memory import RankMemory

__all__ = [
    "GpuLayers",
    "LayerBytes",
    "free_for_layers",
    "gpus_of_ranks",
    "layer_bytes",
    "layer_bytes_of",
    "layers_on",
    "mixed_speed",
]

_KEPT_FREE = 1 << 30  # bytes of a device for what it computes with besides, and for other programs
_KEPT_PART = 8  # of a small device's memory


@dataclass(frozen=True)
class LayerBytes:
    """A model's weights by where they can lie: each layer's, and those that follow the last layer."""

    layers: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class GpuLayers:
    """The last n layers of a model, of n_all, with its output, on a GPU.

    weights_bytes: that lie there. needed_bytes: with their KV cache, and what a step takes.
    """

    gpu: Gpu
    n: int
    n_all: int
    weights_bytes: int
    needed_bytes: int

    @property
    def in_llama(self) -> int:
        """How llama.cpp counts them: the output is a layer too."""
        return self.n + 1 if self.n else 0

    def left(self, memory: RankMemory) -> RankMemory:
        """Return what the machine's own memory holds of a model that takes `memory` in all."""
        if not self.n or self.gpu.shares_ram:
            return memory
        part = 1 - self.n / self.n_all
        return replace(
            memory,
            weights_bytes=max(0, memory.weights_bytes - self.weights_bytes),
            kv_bytes_per_token=round(memory.kv_bytes_per_token * part),
            window_bytes_per_token=round(memory.window_bytes_per_token * part),
            state_bytes=round(memory.state_bytes * part),
        )


def layer_bytes_of(model: GgufFile) -> LayerBytes:
    """Return a model's weights by layer."""
    n = model.int(f"{model.architecture}.block_count", 0)
    return layer_bytes(model.tensors.values(), n)


def layer_bytes(tensors: Iterable[TensorSpec], n: int) -> LayerBytes:
    """Return the weights of a model or shard of n layers. A tied output copies the table of embeddings."""
    named = {tensor.name: tensor for tensor in tensors}
    layers, output = [0] * n, 0
    for name, tensor in named.items():
        first, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if first == "blk" and number.isdecimal() and int(number) < n:
            layers[int(number)] += tensor.size_bytes
        elif first in ("output", "output_norm"):
            output += tensor.size_bytes
    table = named.get("token_embd.weight")
    if table is not None and "output.weight" not in named:
        output += table.size_bytes
    return LayerBytes(tuple(layers), output)


def gpus_of_ranks(gpus: Sequence[Gpu], n_ranks: int) -> list[Gpu | None]:
    """Return each rank's GPU on a machine; None for all if there is none.

    The emptiest go first, and those within the processor only if there are no others. Ranks that get the
    same have a part of its free memory each.
    """
    kind = min((gpu.shares_ram for gpu in gpus), default=False)
    ranked = sorted((g for g in gpus if g.shares_ram == kind), key=lambda gpu: -gpu.free_bytes)
    used = ranked[:n_ranks]
    if not used:
        return [None] * n_ranks
    mine = [used[rank % len(used)] for rank in range(n_ranks)]
    return [replace(gpu, free_bytes=gpu.free_bytes // mine.count(gpu)) for gpu in mine]


def layers_on(
    gpu: Gpu,
    weights: LayerBytes,
    memory: RankMemory,
    n_ctx: int,
    n_sequences: int = 1,
    asked: int | None = None,
    other_bytes: int = 0,
) -> GpuLayers:
    """Place as many layers on a GPU as fit into its free memory, or as many as were asked for.

    memory: of the whole model. other_bytes: that go to the GPU too, as adapters do. Layers that were asked
    for may not fit: compare `needed_bytes`.
    """
    n_all = len(weights.layers)

    def placed(n: int) -> GpuLayers:
        there = sum(weights.layers[n_all - n :]) + weights.output if n else 0
        needed = there and there + other_bytes + _beside(weights, memory, n, n_ctx, n_sequences)
        return GpuLayers(gpu, n, n_all, there, needed)

    if asked is not None:
        return placed(min(asked, n_all))
    fitting = (placed(n) for n in range(n_all, 0, -1))
    return next((p for p in fitting if p.needed_bytes <= free_for_layers(gpu)), placed(0))


def free_for_layers(gpu: Gpu) -> int:
    """Return the bytes of a GPU that layers may take."""
    return max(0, gpu.free_bytes - min(_KEPT_FREE, gpu.total_bytes // _KEPT_PART))


def mixed_speed(
    n_bytes: float, gpu_bytes: float, gpu_bytes_per_s: float, bytes_per_s: float
) -> float:
    """Return how fast weights are read of which a GPU holds gpu_bytes, and a processor the others."""
    part = min(1.0, gpu_bytes / n_bytes) if n_bytes else 1.0
    return 1 / (part / gpu_bytes_per_s + (1 - part) / bytes_per_s)


def _beside(weights: LayerBytes, memory: RankMemory, n: int, n_ctx: int, n_sequences: int) -> int:
    """Return the bytes that n layers take on a device beside their weights.

    Of a model with layers elsewhere, long prompts bring a layer's weights to the device for a while.
    """
    n_all = len(weights.layers)
    kv = memory.kv_bytes(n_ctx, n_sequences) * n // n_all
    visiting = max(weights.layers) if n < n_all else 0
    return kv + visiting + memory.step_bytes(n_ctx, n_sequences)
