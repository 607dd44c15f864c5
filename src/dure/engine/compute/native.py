"""The native library, loaded. What its functions mean is said by `allreduce`, `top_k`, `custom_nodes`."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dure.engine.compute.variants import chosen, file_of
from dure.errors import ResourceError

__all__ = ["address_of", "ggml_cpu", "library", "llama_libraries", "mpi"]

_SVE_BYTES = 32  # of registers for which llama.cpp has a layout of Q4_0


@cache
def mpi() -> Any:
    """Load `mpi4py.MPI` without initializing it; the native library needs its `libmpi`."""
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


def llama_libraries() -> Path:
    """Return the folder of llama.cpp's libraries."""
    import llama_cpp.llama_cpp as lib

    return Path(lib.__file__).with_name("lib")


@cache
def ggml_cpu() -> ctypes.CDLL:
    """Load llama.cpp's library of this processor's kernels."""
    loaded = ctypes.CDLL(str(llama_libraries() / "libggml-cpu.so"))
    loaded.ggml_threadpool_new.restype = ctypes.c_void_p
    return loaded


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Return where an array's data is: much quicker than `array.ctypes.data` with cold caches."""
    address, _ = array.__array_interface__["data"]
    return int(address)


def _repacking(cpu: ctypes.CDLL) -> tuple[int, int]:
    """Return how a llama.cpp repacks matrices: see `set_repacks` in `native/weight_layout.h`.

    Source: llama.cpp `ggml/src/ggml-cpu/repack.cpp`.
    """
    if cpu.ggml_cpu_has_avx2():
        return 8, 8
    if cpu.ggml_cpu_has_neon() and cpu.ggml_cpu_has_matmul_int8():
        wide = cpu.ggml_cpu_has_sve() and cpu.ggml_cpu_get_sve_cnt() == _SVE_BYTES
        return 8, 8 if wide else 4
    if cpu.ggml_cpu_has_neon() and cpu.ggml_cpu_has_dotprod():
        return 4, 4
    return 0, 0


@cache
def library() -> ctypes.CDLL:
    """Load all that `native/` exports. Raises ResourceError if it cannot be loaded; also as `chosen`."""
    cpu = ggml_cpu()  # brings libggml-base into the process
    mpi()
    path = file_of(chosen())
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ResourceError(
            f"dure's native library cannot be loaded ({error})",
            "install dure again",
        ) from error
    loaded.dure_kernels_new.restype = ctypes.c_void_p
    loaded.dure_kernels_free.argtypes = [ctypes.c_void_p]
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    loaded.dure_top_k.argtypes = [
        *(pointer, integer, integer, integer, pointer, pointer, ctypes.c_bool)
    ]
    loaded.dure_top_k.restype = ctypes.c_float
    loaded.dure_kernels_gather.argtypes = [pointer, ctypes.c_bool]
    loaded.dure_kernels_gather.restype = pointer
    loaded.dure_importance_get.argtypes = [pointer, ctypes.c_int64]
    loaded.dure_importance_get.restype = pointer
    loaded.dure_importance_lacks_memory.argtypes = [pointer]
    loaded.dure_importance_lacks_memory.restype = ctypes.c_bool
    loaded.dure_warm_up.argtypes, loaded.dure_warm_up.restype = [ctypes.c_bool], None
    loaded.dure_exchange_seconds.restype = ctypes.c_double
    loaded.dure_allreduce_times.restype = ctypes.c_int64
    loaded.dure_read_bytes_per_second.restype = ctypes.c_double
    loaded.dure_processes_may_copy.restype = ctypes.c_bool
    loaded.dure_kernels_start.restype = None
    loaded.dure_kernels_start(*_repacking(cpu))
    return loaded
