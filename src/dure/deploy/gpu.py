"""Places layers of a model on this machine's GPU, as the user asked for it.

Knows what llama.cpp was built for, and what cannot be computed on a GPU yet. Refuses to load anything.
"""

from __future__ import annotations

from dure.deploy.adapters import adapter_bytes
from dure.deploy.options import RunOptions, parse_shares
from dure.engine.compute.gpu import gpu_backends, gpus
from dure.errors import ResourceError, UsageError
from dure.model.gguf import GgufFile
from dure.plan.gpu_layers import GpuLayers, chosen_gpu, layer_bytes_of, layers_on
from dure.plan.memory import RankMemory
from dure.sizes import bytes_text, compared

__all__ = ["check_gpu", "may_use_gpu", "placed_on_gpu", "told_of_gpu"]

_BUILD = (
    "build it for your GPU, as in `CMAKE_ARGS=-DGGML_VULKAN=on pip install --force-reinstall --no-deps "
    "--no-binary llama-cpp-python llama-cpp-python==0.3.36` (-DGGML_CUDA=on for NVIDIA's CUDA), or leave "
    "out --gpu-layers"
)


def check_gpu(options: RunOptions) -> None:
    """Check what was asked of a GPU, without asking it. Raises UsageError or ResourceError."""
    if not options.gpu_layers:
        return
    asked = f"--gpu-layers {options.gpu_layers}"
    if options.cluster or len(parse_shares(options.shares, options.ranks)) > 1:
        raise UsageError(
            f"{asked} works with one rank for now", "leave it out, or use one machine and one rank"
        )
    if options.gathers_inputs:
        raise UsageError(
            f"{asked}: an importance matrix is gathered on the processor", "leave it out"
        )
    if not gpu_backends():
        raise ResourceError(f"{asked}: llama.cpp was built without Vulkan and CUDA here", _BUILD)


def may_use_gpu(options: RunOptions) -> bool:
    """Return whether layers of a start may lie on a GPU, if there is one."""
    is_wanted = options.gpu_layers != 0 and not options.cluster and not options.gathers_inputs
    return is_wanted and bool(gpu_backends())


def placed_on_gpu(
    model: GgufFile,
    options: RunOptions,
    memory: RankMemory,
    n_ctx: int,
    most: int | None = None,
) -> GpuLayers | None:
    """Return which layers lie on which GPU; None if all stay here.

    memory: of the whole model. most: layers to place, where more were tried in vain.
    Raises ResourceError if what was asked for does not fit, or if there is no GPU for it.
    """
    if not may_use_gpu(options) or most == 0:
        return None
    gpu = chosen_gpu(gpus())
    if gpu is None:
        if options.gpu_layers:
            raise ResourceError(
                f"--gpu-layers {options.gpu_layers}: llama.cpp sees no GPU with {_backends()} here",
                "see whether its driver lists one (`vulkaninfo --summary`, `nvidia-smi`), or leave out "
                "--gpu-layers",
            )
        return None
    weights, n = layer_bytes_of(model), options.n_sequences
    lora = sum(adapter_bytes(model, options))
    asked = options.gpu_layers if most is None else most
    placed = layers_on(gpu, weights, memory, n_ctx, n, asked, lora)
    if options.gpu_layers and placed.needed_bytes > gpu.free_bytes:
        fitting = layers_on(gpu, weights, memory, n_ctx, n, other_bytes=lora)
        raise _too_large(placed, fitting.n)
    return placed if placed.n else None


def told_of_gpu(placed: GpuLayers) -> str:
    """Return where the layers lie, in words."""
    need = f"{bytes_text(placed.needed_bytes)} of {bytes_text(placed.gpu.free_bytes)}"
    return f"{placed.n} of {placed.n_all} layers on {placed.gpu.description}, {need}"


def _backends() -> str:
    return " or ".join(gpu_backends())


def _too_large(placed: GpuLayers, fitting: int) -> ResourceError:
    needs, has = compared(placed.needed_bytes, placed.gpu.free_bytes)
    return ResourceError(
        f"{placed.n} layers with their context need {needs} on {placed.gpu.description}, where {has} are "
        "free",
        f"use --gpu-layers {fitting} or auto"
        if fitting
        else "use --gpu-layers 0, or a smaller --ctx",
    )
