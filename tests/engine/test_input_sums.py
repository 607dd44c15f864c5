"""What weights are multiplied with, gathered while our kernels and our ranks compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dure.engine.executor import Batch, FullExecutor, InputSums
from dure.engine.kv import Clear
from tests.support.cut_models import cut_executor, whole_executor
from tests.support.input_squares import reference_squares
from tests.support.random_models import SHAPES, write_random_model

CHUNK, AT_ONCE = (
    96,
    32,
)  # tokens: three steps, the last two of which use the first one's graph again
CHUNKS = np.random.default_rng(0).integers(0, 1000, (3, CHUNK), np.int32)
Sums = Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]


def gathered(executor: FullExecutor) -> InputSums:
    """Compute the chunks, and return what was gathered of them."""
    assert not executor.gather_inputs(on=True), "nothing was gathered before"
    for chunk in CHUNKS:
        for start in range(0, CHUNK, AT_ONCE):
            executor.step(
                Batch(
                    chunk[start : start + AT_ONCE],
                    np.arange(start, start + AT_ONCE, dtype=np.int32),
                    np.zeros(AT_ONCE, np.int32),
                    range(AT_ONCE),
                    top_k=1,
                    kv=[] if start else [Clear()],
                )
            )
    return executor.gather_inputs(on=False)


def assert_alike(found: Sums, expected: Sums) -> None:
    """Check that all sums are within a thousandth, of their tensor's norm, and all counts the same."""
    assert sorted(found) == sorted(expected)
    for name, (sums, counts) in expected.items():
        ours, our_counts = found[name]
        np.testing.assert_array_equal(our_counts, counts, name)
        assert ours.shape == sums.shape
        assert np.linalg.norm(ours - sums) < 1e-3 * np.linalg.norm(sums), name


@pytest.mark.parametrize(
    ("name", "type_name", "our_kernels"),
    [
        ("llama", "F32", False),
        ("qwen3moe", "F32", False),
        ("qwen3", "Q4_K", True),
        ("qwen3moe", "Q4_K", True),
        ("gemma3", "Q8_0", True),
    ],
)
def test_gathering_sees_every_input(
    tmp_path: Path, name: str, type_name: str, our_kernels: bool
) -> None:
    """Sums and counts are those of numpy, per expert too, whoever computes the products.

    Stock llama.cpp's inputs are the same for weights that are not quantized; for others it rounds vectors
    in another way than our kernels, which a random model amplifies.
    """
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES[name], type_name)
    with whole_executor(path) as executor:
        found = gathered(executor)
    assert_alike(found, reference_squares(path, CHUNKS.tolist(), our_kernels=our_kernels))


@pytest.mark.parametrize("name", ["llama", "qwen3moe"])
def test_three_ranks_gather_what_one_does(tmp_path: Path, name: str) -> None:
    """Inputs that are cut over uneven ranks are put together; of the others there is one."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES[name], "F16")
    with whole_executor(path) as executor:
        expected = gathered(executor)
    with cut_executor(path, [2, 1, 1], tmp_path / "shards") as ranks:
        found = gathered(ranks)
    assert_alike(found, expected)


def test_gathering_changes_nothing_and_begins_from_nothing(tmp_path: Path) -> None:
    """The same is gathered again after it was stopped, and logits are the same to the bit meanwhile."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3moe"], "Q4_K")
    last = CHUNKS[0, :AT_ONCE]
    batch = Batch(
        last,
        np.arange(AT_ONCE, dtype=np.int32),
        np.zeros(AT_ONCE, np.int32),
        [AT_ONCE - 1],
        kv=[Clear()],
    )
    with whole_executor(path) as executor:
        executor.step(batch)
        before = executor.logits(0)
        first = gathered(executor)
        assert not executor.gather_inputs(on=True)
        executor.step(batch)
        during = executor.logits(0)
        assert executor.gather_inputs(on=False)
        second = gathered(executor)
    np.testing.assert_array_equal(before, during)
    for name, (sums, counts) in first.items():
        np.testing.assert_array_equal(second[name][0], sums)
        np.testing.assert_array_equal(second[name][1], counts)
