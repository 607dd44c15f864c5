"""Single operations of ggml, computed by its own threads, to test what a native file takes over."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as binding
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}  # ggml_type
_MEMORY = 512 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@cache
def _library(name: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(binding.__file__).with_name("lib") / f"lib{name}.so"))
    if name == "ggml-base":
        library.ggml_init.argtypes = [_InitParams]
        library.ggml_op_desc.restype = ctypes.c_char_p
        functions = ("ggml_init", "ggml_new_tensor_4d", "ggml_permute", "ggml_flash_attn_ext")
        for function in (*functions, "ggml_new_graph", "ggml_get_data"):
            getattr(library, function).restype = ctypes.c_void_p
    return library


class Graph:
    """One node of flash attention. Axes are numpy's, the reverse of ggml's."""

    def __init__(self, context: ctypes.c_void_p) -> None:
        self._base, self._context = _library("ggml-base"), context
        self.node: ctypes.c_void_p | None = None
        self._shape: tuple[int, ...] = ()

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array,
        *,
        scale: float,
        max_bias: float = 0.0,
        softcap: float = 0.0,
        sinks: Array | None = None,
    ) -> None:
        """Build it as llama.cpp does.

        q: float32 [streams, tokens, heads, dim]. k, v: float16 [streams, positions, key heads, dim].
        mask: float16 [streams, 1, tokens, positions]. sinks: float32 [heads].
        """
        turned = [self._permuted(self._tensor(x)) for x in (q, k, v)]
        self.node = self._pointer(
            self._base.ggml_flash_attn_ext(
                *(self._context, *turned, self._tensor(mask)),
                *(ctypes.c_float(scale), ctypes.c_float(max_bias), ctypes.c_float(softcap)),
            )
        )
        if sinks is not None:
            self._base.ggml_flash_attn_ext_add_sinks(self.node, self._tensor(sinks))
        self._shape = q.shape

    @property
    def operation(self) -> str:
        """What the node is now."""
        return str(self._base.ggml_op_desc(self.node).decode())

    def compute(self, threads: int) -> Array:
        """float32 [streams, tokens, heads, dim]."""
        graph = self._pointer(self._base.ggml_new_graph(self._context))
        self._base.ggml_build_forward_expand(graph, self.node)
        cpu = _library("ggml-cpu")
        assert cpu.ggml_graph_compute_with_ctx(self._context, graph, threads) == 0
        data = (ctypes.c_float * int(np.prod(self._shape))).from_address(
            self._base.ggml_get_data(self.node)
        )
        return np.array(data, np.float32).reshape(self._shape)

    def _tensor(self, x: Array) -> ctypes.c_void_p:
        shape = [ctypes.c_int64(n) for n in reversed((1,) * (4 - x.ndim) + x.shape)]
        tensor = self._pointer(
            self._base.ggml_new_tensor_4d(self._context, _TYPES[x.dtype], *shape)
        )
        whole = np.ascontiguousarray(x)
        ctypes.memmove(self._base.ggml_get_data(tensor), whole.ctypes.data, whole.nbytes)
        return tensor

    def _permuted(self, tensor: ctypes.c_void_p) -> ctypes.c_void_p:
        return self._pointer(self._base.ggml_permute(self._context, tensor, 0, 2, 1, 3))

    @staticmethod
    def _pointer(address: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(address)


@contextmanager
def new_graph() -> Iterator[Graph]:
    """An empty one, whose memory is gone afterwards."""
    base = _library("ggml-base")
    context = ctypes.c_void_p(base.ggml_init(_InitParams(_MEMORY, None, False)))
    try:
        yield Graph(context)
    finally:
        base.ggml_free(context)
