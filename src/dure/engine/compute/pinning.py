"""Threads that compute, each held to a core of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib

from dure.engine.compute.native import ggml_cpu
from dure.errors import ResourceError
from dure.hardware.probe import cpus

__all__ = ["PinnedThreads", "cores_for"]

_MOST_CPUS = 512  # ggml.h: GGML_MAX_N_THREADS
_POLL = 50  # what llama.cpp's own threads have: how long they spin before they sleep


def cores_for(n_threads: int, first: int) -> tuple[int, ...]:
    """Choose a core for each of n_threads, when the `first` cores belong to other ranks.

    Raises ResourceError if there are too few cores.
    """
    allowed = [cpu for cpu in cpus() if cpu < _MOST_CPUS]
    if len(allowed) < first + n_threads:
        raise ResourceError(
            f"--pin holds {first + n_threads} threads on this machine to a core each, and dure may use "
            f"{len(allowed)}",
            "use fewer --threads, or leave out --pin",
        )
    return tuple(allowed[first : first + n_threads])


class PinnedThreads:
    """The threads of a context, held to these CPUs. Close it after the context.

    The calling thread is held to the first, and has to be the one that decodes.
    """

    def __init__(self, context: Any, cores: Sequence[int]) -> None:
        wanted = _Params(n_threads=len(cores), poll=_POLL, strict_cpu=True)
        for core in cores:
            wanted.cpumask[core] = True
        self._pool = ctypes.c_void_p(ggml_cpu().ggml_threadpool_new(ctypes.byref(wanted)))
        lib._lib.llama_attach_threadpool(ctypes.c_void_p(context), self._pool, self._pool)
        os.sched_setaffinity(0, {min(cores)})  # llama.cpp leaves a single thread alone

    def close(self) -> None:
        """Free what llama.cpp keeps of them."""
        ggml_cpu().ggml_threadpool_free(self._pool)


class _Params(ctypes.Structure):
    """`struct ggml_threadpool_params` of ggml.h: threads take the CPUs of the mask in turn."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MOST_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )
