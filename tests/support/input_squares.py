"""Adds up what weights are multiplied with in a callback of its own, with numpy.

Knows ggml's tensors. Refuses to know how dure adds up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as binding

from dure.engine.compute.custom_nodes import CustomNodes
from dure.engine.compute.llama import has_amx
from dure.engine.compute.native import library

Doubles = npt.NDArray[np.float64]


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor`, up to its name."""


_Tensor._fields_ = [
    ("type", ctypes.c_int32),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int32),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class _Sums:
    """By weight: squares [matrices, width], and how many vectors they are of [matrices].

    nodes: dure's kernels, which compute in llama.cpp's place then.
    """

    def __init__(self, nodes: CustomNodes | None) -> None:
        base = Path(binding.__file__).with_name("lib") / "libggml-base.so"
        self._op_desc = ctypes.CDLL(str(base)).ggml_op_desc
        self._op_desc.restype, self._op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        self._nodes = nodes
        self.found: dict[str, tuple[Doubles, Doubles]] = {}

    def __call__(self, address: int, ask: bool, _user: object) -> bool:
        node, op = _Tensor.from_address(address), self._op_desc(address)
        if ask and self._nodes is not None:
            library().dure_graph_callback(ctypes.c_void_p(address), True, self._nodes.handle)
        is_product = op in (b"MUL_MAT", b"MUL_MAT_ID", b"CUSTOM") and node.src[0] and node.src[1]
        if not is_product or not node.src[0].contents.name.startswith(b"blk."):
            return not ask
        if not ask:
            self._add(node, has_experts=bool(node.src[2]))
        return True

    def _add(self, node: _Tensor, *, has_experts: bool) -> None:
        weight, x = node.src[0].contents, _array(node.src[1].contents, np.float32)
        n = weight.ne[2] if has_experts else 1
        start = np.zeros((n, weight.ne[0])), np.zeros(n)
        sums, counts = self.found.setdefault(weight.name.decode(), start)
        if not has_experts:
            rows = x.reshape(-1, weight.ne[0])
            sums[0] += np.square(rows, dtype=np.float64).sum(axis=0)
            counts[0] += len(rows)
            return
        ids = _array(node.src[2].contents, np.int32)[0, 0]  # [tokens, experts of a token]
        for token, experts in enumerate(ids):
            for place, expert in enumerate(experts):
                vector = x[0, token, place % x.shape[2]]
                sums[expert] += np.square(vector, dtype=np.float64)
                counts[expert] += 1


def _array(tensor: _Tensor, kind: Any) -> npt.NDArray[Any]:
    """Return a tensor's elements, the slowest dimension first."""
    n_bytes = sum((n - 1) * stride for n, stride in zip(tensor.ne, tensor.nb, strict=True)) + 4
    data = np.frombuffer((ctypes.c_char * n_bytes).from_address(tensor.data), kind, 1)
    view = np.lib.stride_tricks.as_strided(data, tensor.ne[::-1], tensor.nb[::-1])
    return np.array(view)


def reference_squares(
    path: Path, chunks: Sequence[Sequence[int]], *, our_kernels: bool
) -> dict[str, tuple[Doubles, Doubles]]:
    """Return what weights are multiplied with by stock llama.cpp, or by our kernels in it.

    Each chunk is a text, all of it output.
    """
    nodes = CustomNodes() if our_kernels else None
    sums, n = _Sums(nodes), len(chunks[0])
    binding.llama_backend_init()
    model_params = binding.llama_model_default_params()
    model_params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    model_params.use_extra_bufts = not has_amx()
    model = binding.llama_model_load_from_file(str(path).encode(), model_params)
    params = binding.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n
    params.n_threads = params.n_threads_batch = 1
    callback = type(params.cb_eval)(sums)
    params.cb_eval = callback
    context = binding.llama_init_from_model(model, params)
    batch = binding.llama_batch_init(n, 0, 1)
    for chunk in chunks:
        binding.llama_memory_clear(binding.llama_get_memory(context), True)
        batch.n_tokens = n
        for i, token in enumerate(chunk):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        assert binding.llama_decode(context, batch) == 0
    binding.llama_batch_free(batch)
    binding.llama_free(context)
    if nodes is not None:
        nodes.close()
    binding.llama_model_free(model)
    return sums.found
