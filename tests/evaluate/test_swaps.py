"""Files of one model, judged by how far they are from it: the model itself is not, a small one is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dure.convert.quantize.llama_types import Mixture, llama_types
from dure.convert.quantize.writing import Quantized, write_quantized
from dure.engine.executor import Executor
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.evaluate.swaps import SwapJudge
from dure.evaluate.windows import TextWindows
from dure.model.gguf import open_gguf

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@contextmanager
def run(path: Path) -> Iterator[Executor]:
    executor = LocalExecutor(path, Limits(n_ctx=64, threads=1, n_batch=64, n_outputs=32))
    try:
        yield executor
    finally:
        executor.close()


def test_a_model_is_not_far_from_itself_and_smaller_types_are_farther(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(3, 1000, (2, 64)).astype(np.int32)
    judge = SwapJudge(DEMO, TextWindows(tokens, "random"), "demo", run, tmp_path / "kept")
    judge.read_original()
    found = {}
    with open_gguf(DEMO) as model:
        for name in ("Q8_0", "Q2_K"):
            types = llama_types(model, Mixture(name), has_importances=False).types
            path = tmp_path / f"{name}.gguf"
            write_quantized(Quantized(model, types, None, 0, {}), path, None, 1)
            found[name] = judge.divergence(path).mean.value
    assert abs(judge.divergence(DEMO).mean.value) < 1e-6
    assert 0 < found["Q8_0"] < found["Q2_K"]
