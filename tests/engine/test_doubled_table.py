"""A table of embeddings that the logits have another copy of is given back, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import psutil
import pytest

from dure.deploy.local import table_of
from dure.engine.compute.doubled_table import give_back_table, is_doubled
from dure.engine.compute.embedding_table import EmbeddingTable
from dure.engine.compute.llama import has_amx, load_model
from dure.engine.executor import Batch
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.plan.kernels import is_repacked
from tests.support.random_models import SHAPES, Shape, write_random_model

N_VOCAB, WIDTH = 60_000, 512
TIED = Shape("qwen3", 2, WIDTH, 8, 4, 64, 768, N_VOCAB, tied=True, qk_norm=True)
SCALED = replace(SHAPES["gemma3"], n_vocab=1008)  # of whole groups of rows
UNTIED = Shape("llama", 1, 256, 4, 2, 64, 512, 2048)
TABLE_BYTES = N_VOCAB * WIDTH // 32 * 18

pytestmark = pytest.mark.skipif(
    has_amx() or not is_repacked("Q4_0", N_VOCAB, probe().features),
    reason="this processor has no repacked kernels",
)


@contextmanager
def loaded(path: Path) -> Iterator[Any]:
    """A `llama_model *`."""
    model = load_model(path, lambda _: None)
    yield model
    lib.llama_model_free(model)


def logits(path: Path, table: EmbeddingTable | None) -> np.ndarray:
    """The logits after a prompt of two sequences, and after a token more of one."""
    executor = LocalExecutor(path, Limits(n_ctx=256, threads=1, n_sequences=2), table=table)
    tokens = np.array([5, 77, 1000, 5, 900], np.int32)
    positions, sequences = (np.array(x, np.int32) for x in ([0, 1, 2, 0, 1], [0, 0, 0, 1, 1]))
    executor.step(Batch(tokens, positions, sequences, [2, 4], 8))
    found = [executor.logits(0), executor.logits(1)]
    one, place, zero = (np.array([x], np.int32) for x in (42, 3, 0))
    executor.step(Batch(one, place, zero, [0], 8))
    found.append(executor.logits(0))
    executor.close()
    return np.array(found)


@pytest.mark.parametrize("shape", [TIED, SCALED], ids=["qwen3", "gemma3"])
def test_logits_are_the_same_bits_without_the_table(tmp_path: Path, shape: Shape) -> None:
    """Rows are read from the file, decoded and scaled as llama.cpp does it."""
    path = tmp_path / "tied.gguf"
    write_random_model(path, shape, "Q4_0")
    with open_gguf(path) as model:
        table = table_of(model)
    assert table is not None
    np.testing.assert_array_equal(logits(path, table), logits(path, None))


def test_the_memory_of_the_table_is_free_before_the_model_is_used(tmp_path: Path) -> None:
    """What a process holds falls by the bytes of one copy."""
    path = tmp_path / "tied.gguf"
    write_random_model(path, TIED, "Q4_0")
    with loaded(path) as model:
        assert is_doubled(model)
        before = psutil.Process().memory_info().rss
        give_back_table(model)
        assert before - psutil.Process().memory_info().rss > 0.9 * TABLE_BYTES


def test_a_table_that_logits_are_made_with_stays(tmp_path: Path) -> None:
    """F16 is not repacked, or the output is a matrix of its own: nothing is held twice."""
    for name, shape, kind in (("tied", SCALED, "F16"), ("untied", UNTIED, "Q4_0")):
        path = tmp_path / f"{name}.gguf"
        write_random_model(path, shape, kind)
        with loaded(path) as model:
            assert not is_doubled(model)
