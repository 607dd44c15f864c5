"""Products with a weight are found whatever ggml calls it: a device may compute with a copy."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as binding
import pytest

from dure.engine.compute.allreduce import ReductionStatus, ReductionTimes, graph_callback
from dure.engine.compute.custom_nodes import CustomNodes
from dure.engine.compute.native import library

POINT = "=attn_output.weight"
F32 = 0


class _Params(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("empty", ctypes.c_bool))


def is_asked_for(weight: str) -> bool:
    """Return whether the callback wants to be told of a product with this weight."""
    ggml = ctypes.CDLL(str(Path(binding.__file__).with_name("lib") / "libggml-base.so"))
    ggml.ggml_init.argtypes = [_Params]
    for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat"):
        getattr(ggml, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(ggml.ggml_init(_Params(1 << 20, None, True)))
    width, rows = ctypes.c_int64(32), ctypes.c_int64(8)
    w = ctypes.c_void_p(ggml.ggml_new_tensor_2d(context, F32, width, rows))
    x = ctypes.c_void_p(ggml.ggml_new_tensor_2d(context, F32, width, ctypes.c_int64(1)))
    ggml.ggml_set_name(w, weight.encode())
    node = ctypes.c_void_p(ggml.ggml_mul_mat(context, w, x))
    nodes, times = CustomNodes(), ReductionTimes()
    assert library().dure_allreduce_adapters(b"") == ReductionStatus.OK  # a model before had some
    times.record_whole((POINT,), 1)
    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    try:
        return bool(callback(graph_callback())(node, True, nodes.handle))
    finally:
        times.record(0)
        nodes.close()
        ggml.ggml_free(context)


@pytest.mark.parametrize(
    ("weight", "is_point"),
    [
        ("blk.0.attn_output.weight", True),
        ("blk.0.attn_q.weight", False),
        ("Vulkan0#blk.0.attn_output.weight#0", True),
        ("CUDA0#blk.31.attn_output.weight#1", True),
        ("Vulkan0#blk.0.attn_q.weight#0", False),
        ("attn_output.weight#", False),
    ],
)
def test_a_product_is_a_point_by_its_weight_or_a_copy_of_it(weight: str, is_point: bool) -> None:
    assert is_asked_for(weight) == is_point
