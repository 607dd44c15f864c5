"""Importance matrices in files: written as llama.cpp reads them, and believed only when they are whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dure.convert.importance import (
    Importance,
    InputSquares,
    read_importance,
    write_importance,
)
from dure.errors import ModelError

Array = np.ndarray[Any, np.dtype[Any]]
SUMS = np.arange(12, dtype=np.float32).reshape(3, 4)
COUNTS = np.array([2, 0, 4], np.float32)


def importance() -> Importance:
    experts = InputSquares(SUMS, COUNTS)
    one = InputSquares(np.full((1, 8), 6, np.float32), np.array([3], np.float32))
    squares = {"blk.0.ffn_up_exps.weight": experts, "blk.0.attn_q.weight": one}
    return Importance(squares, ["a.txt", "b.txt"], 7, 512)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Sums, counts and what they are of come back as they were; the means are per expert."""
    path = tmp_path / "m.gguf"
    write_importance(path, importance())
    back = read_importance(path)
    assert (list(back.datasets), back.n_chunks, back.chunk_size) == (["a.txt", "b.txt"], 7, 512)
    assert list(back.squares) == ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]
    experts = back.squares["blk.0.ffn_up_exps.weight"]
    np.testing.assert_array_equal(experts.sums, SUMS)
    np.testing.assert_array_equal(experts.counts, COUNTS)
    means = back.of("blk.0.ffn_up_exps.weight")
    np.testing.assert_array_equal(means, [SUMS[0] / 2, np.ones(4), SUMS[2] / 4])
    assert back.of("output.weight") is None


def test_the_file_is_in_llama_cpps_form(tmp_path: Path) -> None:
    """Names, shapes and kinds are those that llama.cpp's quantizer looks for, told by another reader."""
    path = tmp_path / "m.gguf"
    write_importance(path, importance())
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    assert {n: t.shape.tolist() for n, t in tensors.items()} == {
        "blk.0.attn_q.weight.in_sum2": [8, 1],
        "blk.0.attn_q.weight.counts": [1, 1],
        "blk.0.ffn_up_exps.weight.in_sum2": [4, 3],
        "blk.0.ffn_up_exps.weight.counts": [1, 3],
    }
    assert all(t.tensor_type == gguf.GGMLQuantizationType.F32 for t in tensors.values())
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["a.txt", "b.txt"]
    for key, expected in (("imatrix.chunk_count", 7), ("imatrix.chunk_size", 512)):
        field = reader.get_field(key)
        assert (field.types, field.contents()) == ([gguf.GGUFValueType.UINT32], expected)


def hostile(path: Path, tensors: Mapping[str, Array], kind: str = "imatrix") -> str:
    """Write such a file with the `gguf` package and return what the reader says about it."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError) as caught:
        read_importance(path)
    return str(caught.value)


def test_a_file_that_lies_is_refused_by_name(tmp_path: Path) -> None:
    """A model, a sum without its count, odd sizes, other types and impossible numbers are told apart."""
    path = tmp_path / "x.gguf"
    one, four = np.ones(1, np.float32), np.ones(4, np.float32)
    assert "is a model, no importance matrix" in hostile(path, {"a": four}, "model")
    assert "the sum or the count of w is missing" in hostile(path, {"w.in_sum2": four})
    both = {"w.in_sum2": four, "w.counts": one}
    assert "1 other tensors" in hostile(path, {**both, "v": one})
    assert "4 sums for 3 matrices" in hostile(path, {**both, "w.counts": np.ones(3, np.float32)})
    assert "not F32" in hostile(path, {**both, "w.in_sum2": four.astype(np.float16)})
    for bad in (-1.0, float("nan"), float("inf")):
        assert "no sum of squares" in hostile(path, {**both, "w.in_sum2": four * np.float32(bad)})


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    """Every beginning of a good file is refused in one line."""
    whole = tmp_path / "m.gguf"
    write_importance(whole, importance())
    data = whole.read_bytes()
    for n in range(0, len(data) - 32, 37):  # the last bytes only fill up
        part = tmp_path / "part.gguf"
        part.write_bytes(data[:n])
        with pytest.raises(ModelError) as caught:
            read_importance(part)
        assert str(caught.value).isprintable()
