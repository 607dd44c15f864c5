"""On an arm64 machine, real or emulated: a model cut over ranks is the whole model."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from tests.support.cut_models import (
    Floats,
    cut_executor,
    most_error,
    prefill_and_decode,
    reference_of_cut,
    relative_error,
    whole_executor,
)
from tests.support.random_models import SHAPES, write_random_model

pytestmark = pytest.mark.skipif(
    platform.machine() != "aarch64", reason="no arm64 machine: `make test-arm64` emulates one"
)
N_PREFILL, N_TOKENS = 12, 16


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "F16"])
def test_one_to_three_ranks_compute_what_llama_cpp_does(type_name: str, tmp_path: Path) -> None:
    """Prefill and decode, with float32 sums; llama.cpp has kernels of its own for each type here."""
    path, shape = tmp_path / "model.gguf", SHAPES["llama"]
    write_random_model(path, shape, type_name)
    tokens = np.random.default_rng(3).integers(0, shape.n_vocab, N_TOKENS).tolist()
    references: dict[tuple[str, ...], Floats] = {}
    for n_ranks in (1, 2, 3):
        shares = [1] * n_ranks
        reference, _ = reference_of_cut(path, shares, tokens, N_PREFILL, references)
        runs = (
            whole_executor(path)
            if n_ranks == 1
            else cut_executor(path, shares, tmp_path / "shards")
        )
        with runs as executor:
            logits = prefill_and_decode(executor, tokens, N_PREFILL)
        assert relative_error(logits, reference) <= most_error(type_name), f"{n_ranks} ranks"
