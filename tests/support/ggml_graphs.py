"""Computes single operations of ggml on its own threads, to test native files that replace them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as binding
import numpy as np
import numpy.typing as npt

from dure.engine.compute.allreduce import graph_callback
from dure.engine.compute.custom_nodes import CustomNodes
from dure.model.ggml import quantize, type_named

Array = npt.NDArray[Any]

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 26}  # ggml_type
_REPACKED = {"Q4_0", "Q4_K"}
_MEMORY = 512 << 20
_POINTERS = {  # functions that return them
    "ggml-base": (
        "ggml_init",
        "ggml_new_tensor_4d",
        "ggml_permute",
        "ggml_flash_attn_ext",
        "ggml_mul",
        "ggml_mul_mat",
        "ggml_mul_mat_id",
        "ggml_new_graph",
        "ggml_get_data",
        "ggml_backend_alloc_ctx_tensors_from_buft",
        "ggml_backend_reg_dev_get",
        "ggml_backend_reg_get_proc_address",
    ),
    "ggml-cpu": ("ggml_backend_cpu_reg",),
}


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
        for function in ("ggml_op_desc", "ggml_backend_buft_name"):
            getattr(library, function).restype = ctypes.c_char_p
    for function in _POINTERS[name]:
        getattr(library, function).restype = ctypes.c_void_p
    return library


class Graph:
    """A graph of one node. Axes are numpy's, the reverse of ggml's."""

    def __init__(self, context: ctypes.c_void_p, weights: ctypes.c_void_p) -> None:
        self._base, self._context, self._weights = _library("ggml-base"), context, weights
        self.node: ctypes.c_void_p | None = None
        self._shape: tuple[int, ...] = ()
        self._buffers: list[ctypes.c_void_p] = []

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
        """Make a node of flash attention as llama.cpp builds it.

        q: float32 [streams, tokens, heads, dim]. k, v: float16 [streams, positions, key heads, dim].
        mask: float16 [streams, 1, tokens, positions]. sinks: float32 [heads].
        Its result is float32 [streams, tokens, heads, dim].
        """
        turned = [self._permuted(self._tensor(x)) for x in (q, k, v)]
        self.node = ctypes.c_void_p(
            self._base.ggml_flash_attn_ext(
                *(self._context, *turned, self._tensor(mask)),
                *(ctypes.c_float(scale), ctypes.c_float(max_bias), ctypes.c_float(softcap)),
            )
        )
        if sinks is not None:
            self._base.ggml_flash_attn_ext_add_sinks(self.node, self._tensor(sinks))
        self._shape = q.shape

    def product(self, matrix: Array, kind: str, x: Array, *, repacked: bool | None = None) -> None:
        """Make a node of a matrix, repacked if llama.cpp repacks its type, times vectors.

        matrix: float32 [rows, width], quantized to a type here. x: float32 [n, width].
        repacked: whether it is; None: as llama.cpp does on x86. Its result is float32 [n, rows].
        """
        weight = self._weight(matrix, kind, repacked=repacked)
        self.node = ctypes.c_void_p(self._base.ggml_mul_mat(self._context, weight, self._tensor(x)))
        self._shape = (len(x), len(matrix))

    def experts(self, matrices: Array, kind: str, x: Array, ids: Array) -> None:
        """Make a node of selected matrices, repacked as above, times vectors.

        matrices: float32 [experts, rows, width]. x: float32 [tokens, 1 or used, width].
        ids: int32 [tokens, used]. Its result is float32 [tokens, used, rows].
        """
        self.node = ctypes.c_void_p(
            self._base.ggml_mul_mat_id(
                self._context,
                *(self._weight(matrices, kind), self._tensor(x), self._tensor(ids)),
            )
        )
        self._shape = (*ids.shape, matrices.shape[1])

    def scaled(self, x: Array, factors: Array, *, turned: bool = False) -> None:
        """Make a node of x: float32 [a, b, n], times factors: float32 [a, b, 1]; or with a and b exchanged.

        Its result has the shape of x.
        """
        tensors = [self._tensor(y) for y in (x, factors)]
        if turned:
            tensors = [self._permuted(tensor) for tensor in tensors]
            x = x.swapaxes(0, 1)
        self.node = ctypes.c_void_p(self._base.ggml_mul(self._context, *tensors))
        self._shape = x.shape

    @property
    def operation(self) -> str:
        """Return the node's current operation."""
        return str(self._base.ggml_op_desc(self.node).decode())

    def compute(self, threads: int) -> Array:
        """Compute the node and return its result."""
        graph = ctypes.c_void_p(self._base.ggml_new_graph(self._context))
        self._base.ggml_build_forward_expand(graph, self.node)
        cpu = _library("ggml-cpu")
        assert cpu.ggml_graph_compute_with_ctx(self._context, graph, threads) == 0
        data = (ctypes.c_float * int(np.prod(self._shape))).from_address(
            self._base.ggml_get_data(self.node)
        )
        return np.array(data, np.float32).reshape(self._shape)

    def close(self) -> None:
        """Free the memory of the weights."""
        for buffer in self._buffers:
            self._base.ggml_backend_buffer_free(buffer)

    def _tensor(self, x: Array) -> ctypes.c_void_p:
        tensor = self._new(self._context, x.shape, _TYPES[x.dtype])
        whole = np.ascontiguousarray(x)
        ctypes.memmove(self._base.ggml_get_data(tensor), whole.ctypes.data, whole.nbytes)
        return tensor

    def _weight(self, x: Array, kind: str, *, repacked: bool | None = None) -> ctypes.c_void_p:
        """Return weights as llama.cpp stores them."""
        type_ = type_named(kind)
        data = quantize(x.reshape(-1, x.shape[-1]), type_)
        if not (kind in _REPACKED if repacked is None else repacked):
            tensor = self._new(self._context, x.shape, type_.id)
            ctypes.memmove(self._base.ggml_get_data(tensor), data.ctypes.data, data.nbytes)
            return tensor
        tensor = self._new(self._weights, x.shape, type_.id)
        buffer = ctypes.c_void_p(
            self._base.ggml_backend_alloc_ctx_tensors_from_buft(self._weights, _repacking())
        )
        assert buffer
        self._buffers.append(buffer)
        self._base.ggml_backend_tensor_set(
            *(tensor, ctypes.c_void_p(data.ctypes.data)),
            *(ctypes.c_size_t(0), ctypes.c_size_t(data.nbytes)),
        )
        return tensor

    def _new(self, context: ctypes.c_void_p, shape: tuple[int, ...], type_: int) -> ctypes.c_void_p:
        sizes = [ctypes.c_int64(n) for n in reversed((1,) * (4 - len(shape)) + shape)]
        return ctypes.c_void_p(self._base.ggml_new_tensor_4d(context, type_, *sizes))

    def _permuted(self, tensor: ctypes.c_void_p) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._base.ggml_permute(self._context, tensor, 0, 2, 1, 3))


def _repacking() -> ctypes.c_void_p:
    """Return the buffer type whose tensors llama.cpp repacks."""
    base = _library("ggml-base")
    registry = ctypes.c_void_p(_library("ggml-cpu").ggml_backend_cpu_reg())
    device = ctypes.c_void_p(base.ggml_backend_reg_dev_get(registry, ctypes.c_size_t(0)))
    get = base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(get)(device)
    for kind in takewhile(bool, kinds):
        if base.ggml_backend_buft_name(ctypes.c_void_p(kind)) == b"CPU_REPACK":
            return ctypes.c_void_p(kind)
    raise LookupError("this llama.cpp repacks nothing")


@contextmanager
def new_graph() -> Iterator[Graph]:
    """Make an empty graph, whose memory is freed with the block."""
    base = _library("ggml-base")
    context = ctypes.c_void_p(base.ggml_init(_InitParams(_MEMORY, None, False)))
    weights = ctypes.c_void_p(base.ggml_init(_InitParams(1 << 16, None, True)))
    graph = Graph(context, weights)
    try:
        yield graph
    finally:
        graph.close()
        base.ggml_free(weights)
        base.ggml_free(context)


@contextmanager
def taking() -> Iterator[Callable[[Graph], None]]:
    """Return a callback that offers a node as llama.cpp does before it computes it."""
    kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    nodes = CustomNodes()

    def take(graph: Graph) -> None:
        assert not kind(graph_callback())(graph.node, True, nodes.handle)

    yield take
    nodes.close()
