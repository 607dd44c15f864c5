"""Places layers of a model, or of its shards, on GPUs, as the user asked for it.

Knows what llama.cpp was built for, and what cannot be computed on a GPU yet. Refuses to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.deploy.adapters import adapter_bytes
from dure.deploy.options import RunOptions
from dure.engine.compute.gpu import gpu_backends, gpus
from dure.engine.limits import OffloadedLayers
from dure.errors import GpuMemoryError, ResourceError, UsageError
from dure.hardware.gpu import Gpu
from dure.model.cut import CutPlan
from dure.model.gguf import GgufFile
from dure.model.shard import Shard
from dure.plan.gpu_layers import (
    GpuLayers,
    LayerBytes,
    gpus_of_ranks,
    layer_bytes,
    layer_bytes_of,
    layers_on,
)
from dure.plan.memory import DEFAULT_CTX, RankMemory
from dure.sizes import bytes_text, compared

__all__ = [
    "RankGpu",
    "check_gpu",
    "may_use_gpu",
    "offloaded",
    "own_gpu",
    "placed_on_gpu",
    "placed_on_gpus",
    "told_of_gpu",
    "wants_gpu",
]

_BUILD = (
    "build it for your GPU, as in `CMAKE_ARGS=-DGGML_VULKAN=on pip install --force-reinstall --no-deps "
    "--no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36` (-DGGML_CUDA=on for NVIDIA's "
    "CUDA), or leave out --gpu-layers"
)


@dataclass(frozen=True)
class RankGpu:
    """What a rank may use: its machine's name in a cluster, and a GPU, None if there is none."""

    machine: str
    gpu: Gpu | None


def check_gpu(options: RunOptions) -> None:
    """Check what was asked of a GPU, without asking it. Raises UsageError or ResourceError."""
    if not options.gpu_layers:
        return
    asked = f"--gpu-layers {options.gpu_layers}"
    if options.gathers_inputs:
        raise UsageError(
            f"{asked}: an importance matrix is gathered on the processor", "leave it out"
        )
    if not options.cluster and not gpu_backends():  # of a cluster, a node may have one
        raise ResourceError(f"{asked}: llama.cpp was built without Vulkan and CUDA here", _BUILD)


def wants_gpu(options: RunOptions) -> bool:
    """Return whether layers of a start may lie on GPUs, if machines have any."""
    return options.gpu_layers != 0 and not options.gathers_inputs


def may_use_gpu(options: RunOptions) -> bool:
    """Return whether layers of a start may lie on a GPU of this machine, if there is one."""
    return wants_gpu(options) and bool(gpu_backends())


def own_gpu(options: RunOptions) -> Gpu | None:
    """Return the GPU that a model in this process may use; None if there is none."""
    return gpus_of_ranks(gpus(), 1)[0] if may_use_gpu(options) else None


def placed_on_gpu(
    gpu: Gpu | None,
    model: GgufFile,
    options: RunOptions,
    memory: RankMemory,
    n_ctx: int,
    part: float = 1.0,
) -> GpuLayers | None:
    """Return which layers lie on a GPU; None if all stay here.

    memory: of the whole model. part: of the layers that should fit, where more were tried in vain.
    Raises ResourceError if what was asked for does not fit, or if there is no GPU for it.
    """
    if gpu is None:
        _check_none([RankGpu("", gpu)], options)
        return None
    weights, lora = layer_bytes_of(model), sum(adapter_bytes(model, options))
    return _placed(gpu, weights, memory, options, n_ctx, lora, part)


def placed_on_gpus(
    ranks: Sequence[RankGpu],
    model: GgufFile,
    options: RunOptions,
    cut: CutPlan,
    shards: Sequence[Shard],
    memory: Sequence[RankMemory],
    part: float = 1.0,
) -> list[GpuLayers | None]:
    """Return which layers of each shard lie on its rank's GPU; see `placed_on_gpu`."""
    if not wants_gpu(options):
        return [None] * len(shards)
    _check_none(ranks, options)
    n_ctx = options.ctx or min(DEFAULT_CTX, cut.shape.context_length)
    lora = adapter_bytes(model, options, cut)
    found: list[GpuLayers | None] = []
    for rank, shard, taken, adapters in zip(ranks, shards, memory, lora, strict=True):
        if rank.gpu is None:
            found.append(None)
            continue
        weights = layer_bytes(shard.tensors, cut.shape.n_layer)
        try:
            found.append(_placed(rank.gpu, weights, taken, options, n_ctx, adapters, part))
        except GpuMemoryError as error:
            raise GpuMemoryError(f"{rank.machine}: {error.problem}", error.cure) from error
    return found


def _placed(
    gpu: Gpu,
    weights: LayerBytes,
    memory: RankMemory,
    options: RunOptions,
    n_ctx: int,
    lora_bytes: int,
    part: float,
) -> GpuLayers | None:
    """Place what was asked for, or what fits. Raises GpuMemoryError if that was too much."""
    n, asked = options.n_sequences, options.gpu_layers
    fitting = layers_on(gpu, weights, memory, n_ctx, n, other_bytes=lora_bytes)
    if asked is None:
        asked = int(fitting.n * part)
    placed = layers_on(gpu, weights, memory, n_ctx, n, asked, lora_bytes)
    if options.gpu_layers and placed.needed_bytes > gpu.free_bytes:
        raise _too_large(placed, fitting.n)
    return placed if placed.n else None


def offloaded(placed: GpuLayers | None) -> OffloadedLayers:
    """Return what llama.cpp is told of a placement."""
    if placed is None:
        return OffloadedLayers()
    return OffloadedLayers(placed.gpu.name, placed.in_llama, placed.weights_bytes)


def told_of_gpu(placed: GpuLayers) -> str:
    """Return where the layers lie, in words."""
    need = f"{bytes_text(placed.needed_bytes)} of {bytes_text(placed.gpu.free_bytes)}"
    return f"{placed.n} of {placed.n_all} layers on {placed.gpu.description}, {need}"


def _check_none(ranks: Sequence[RankGpu], options: RunOptions) -> None:
    """Raise ResourceError if layers were asked for, and no rank has a GPU."""
    if not options.gpu_layers or any(rank.gpu for rank in ranks):
        return
    asked = f"--gpu-layers {options.gpu_layers}"
    if options.cluster:
        raise ResourceError(
            f"{asked}: llama.cpp sees no GPU on {', '.join(rank.machine for rank in ranks)}",
            "build it for the GPU where there is one (docs/desktop.md), or leave out --gpu-layers",
        )
    backends = " or ".join(gpu_backends())
    raise ResourceError(
        f"{asked}: llama.cpp sees no GPU{f' with {backends}' if backends else ''} here",
        "see whether its driver lists one (`vulkaninfo --summary`, `nvidia-smi`), or leave out "
        "--gpu-layers",
    )


def _too_large(placed: GpuLayers, fitting: int) -> GpuMemoryError:
    needs, has = compared(placed.needed_bytes, placed.gpu.free_bytes)
    return GpuMemoryError(
        f"{placed.n} layers with their context need {needs} on {placed.gpu.description}, where {has} are "
        "free",
        f"use --gpu-layers {fitting} or auto"
        if fitting
        else "use --gpu-layers 0, or a smaller --ctx",
    )
