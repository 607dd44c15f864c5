"""Writes a small GGUF file with the `gguf` package, which is independent of our code."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

TOKENS = ["<s>", "안녕", "two words", ""]


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def write_with_gguf(path: Path, split_max_tensors: int = 0) -> None:
    """Write a small model with two tensors and every kind of value."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -100)
    writer.add_uint16("k.u16", 60000)
    writer.add_int16("k.i16", -30000)
    writer.add_uint32("k.u32", 4_000_000_000)
    writer.add_int32("k.i32", -2_000_000_000)
    writer.add_uint64("k.u64", 1 << 63)
    writer.add_int64("k.i64", -(1 << 62))
    writer.add_float32("k.f32", 0.5)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.str", "한 줄")
    writer.add_array("k.tokens", TOKENS)
    writer.add_array("k.ints", [1, -2, 3])
    q4 = quants.quantize(weights(3, 64), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.w", q4, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("norm", weights(7))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
