"""The GPUs that llama.cpp can compute on here, and the lists of devices that it takes.

    python -m dure.engine.compute.gpu

tells the GPUs as JSON. Knows ggml's interface of devices. Refuses to know models, and how many of their
layers lie where.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import subprocess
import sys
from functools import cache
from typing import Any

import msgspec

from dure.engine.compute.native import llama_libraries
from dure.errors import ResourceError
from dure.hardware.gpu import Gpu
from dure.model.llama_log import silence_llama

__all__ = ["devices_of", "gpu_backends", "gpus", "gpus_in_process"]

_ASK_S = 60.0  # a driver may compile when it is first used

_GPU, _IGPU = 1, 2  # enum ggml_backend_dev_type
_BACKENDS = {"cuda": "CUDA", "hip": "ROCm", "vulkan": "Vulkan"}


def gpu_backends() -> list[str]:
    """Return what llama.cpp was built with to compute on GPUs, as CUDA or Vulkan."""
    folder = llama_libraries()
    return [name for key, name in _BACKENDS.items() if (folder / f"libggml-{key}.so").exists()]


def gpus() -> list[Gpu]:
    """Return the GPUs that llama.cpp sees, with the memory that is free now.

    The first call of a process that sees an NVIDIA card takes some of its memory until the process ends.
    """
    if not gpu_backends():
        return []
    silence_llama()  # or a driver's description goes to the terminal
    found = (_described(_ggml().ggml_backend_dev_get(i)) for i in range(_count()))
    return [gpu for gpu in found if gpu is not None]


def gpus_in_process() -> list[Gpu]:
    """Return what `gpus` would, asked in a process of its own; nothing if that fails.

    The caller takes no memory of a card, and outlives a driver that crashes.
    """
    if not gpu_backends():
        return []
    words = [sys.executable, "-m", "dure.engine.compute.gpu"]
    with contextlib.suppress(subprocess.SubprocessError, msgspec.MsgspecError):
        done = subprocess.run(words, capture_output=True, timeout=_ASK_S, check=True)
        return msgspec.json.decode(done.stdout, type=list[Gpu])
    return []


def devices_of(name: str) -> Any:
    """Return the list of devices for a model, in C: this one; none if the name is empty.

    Without a list llama.cpp takes all that it finds, even for a model whose layers are all on the CPU.
    Raises ResourceError if there is no such device in this process.
    """
    if not name:
        return (ctypes.c_void_p * 1)(None)
    device = _ggml().ggml_backend_dev_by_name(name.encode())
    if not device:
        raise ResourceError(
            f"llama.cpp sees no GPU {name} on {socket.gethostname()} any more",
            "see whether its driver lists it (`vulkaninfo --summary`, `nvidia-smi`), or use --gpu-layers 0",
        )
    return (ctypes.c_void_p * 2)(device, None)


def _described(device: int) -> Gpu | None:
    ggml, pointer = _ggml(), ctypes.c_void_p(device)
    kind = ggml.ggml_backend_dev_type(pointer)
    if kind not in (_GPU, _IGPU):
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    name = ggml.ggml_backend_dev_name(pointer).decode(errors="replace")
    description = ggml.ggml_backend_dev_description(pointer).decode(errors="replace")
    return Gpu(name, description, free.value, total.value, shares_ram=kind == _IGPU)


def _count() -> int:
    return int(_ggml().ggml_backend_dev_count())


@cache
def _ggml() -> ctypes.CDLL:
    ggml = ctypes.CDLL(str(llama_libraries() / "libggml.so"))
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_by_name.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_name.restype = ctypes.c_char_p
    ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
    return ggml


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(gpus()).decode() + "\n")
