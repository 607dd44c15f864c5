"""Adapters that peft saved compute what peft computes: beside their model, and merged into it.

A program makes them, in a process that is told of nothing but a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.model.ggml import type_named
from tests.support.exact_logits import logits_of
from tests.support.other_clients import Person

PROGRAM = Path(__file__).parent / "programs" / "peft_adapters.py"
ADAPTERS = [
    *("llama", "embeddings", "qwen2", "qwen3", "gemma3", "qwen3moe", "down-first", "down-alone"),
    *("router", "gpt-oss"),
]
PROMPT = [5, 300, 41, 7, 220, 99, 18, 411, 63, 5, 172, 260, 33, 9, 501, 77, 128, 400, 222, 11]
MOST_ERROR = 1e-3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of everything that the program writes."""
    python = Path(sys.executable)
    folder = tmp_path_factory.mktemp("peft")
    done = Person.moved_into(folder).run(python, PROGRAM, folder / "made")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "made"


def written(source: Path, out: Path, asked: Asked) -> Path:
    with source_of(source).opened(source, asked) as model:
        write_model(model, out)
    return out


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_computes_what_peft_computes(made: Path, tmp_path: Path, name: str) -> None:
    """llama.cpp's logits with the adapter, and those of the merged model, are transformers'."""
    model, adapter, f32 = made / name / "model", made / name / "adapter", type_named("F32")
    base = written(model, tmp_path / "base.gguf", Asked(f32))
    alone = written(adapter, tmp_path / "adapter.gguf", Asked(base=base))
    merged = written(adapter, tmp_path / "merged.gguf", Asked(f32, base=model, merge=True))
    expected = np.load(made / name / "logits.npy")

    def error(found: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    assert error(logits_of(base, PROMPT)) > 10 * MOST_ERROR
    assert error(logits_of(base, PROMPT, alone)) < MOST_ERROR
    assert error(logits_of(merged, PROMPT)) < MOST_ERROR
