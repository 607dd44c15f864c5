"""Run a model in stages, and print the megabytes that each adds, without weights and KV cache.

python bench/memory_stages.py MODEL PROMPT_TOKENS GENERATED_TOKENS
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def resident(name: str = "VmRSS") -> float:
    """Return this process's resident memory in MB. name: VmRSS now, VmHWM at its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def run(path: Path, n_prompt: int, n_generated: int) -> dict[str, float]:
    """Return the stages' megabytes, in their order."""
    stages, before = {"Python": resident()}, resident()

    def note(stage: str, without: float = 0.0) -> None:
        nonlocal before
        now = resident()
        stages[stage], before = now - before - without, now

    import numpy as np

    note("NumPy")
    import llama_cpp.llama_cpp  # noqa: F401

    note("llama.cpp and its bindings")
    import dure.cli.app  # noqa: F401
    from dure.deploy.options import RunOptions
    from dure.deploy.start import start_model
    from dure.engine.executor import Batch
    from dure.model.gguf import open_gguf

    note("dure's modules")
    with open_gguf(path) as model:
        note("the file's header")
        options = RunOptions(ranks=1, threads=1, ctx=n_prompt + n_generated)
        executor = start_model(model, options).executor
    (facts,) = executor.facts()
    kept = (facts.weights_bytes + facts.kv_bytes) / 1e6
    stages["peak of loading, beside weights"] = resident("VmHWM") - facts.weights_bytes / 1e6
    note("a model and its context", kept)
    none = np.zeros(n_prompt, np.int32)
    tokens = np.random.default_rng(1).integers(0, executor.info.n_vocab, n_prompt).astype(np.int32)
    executor.step(Batch(tokens, np.arange(n_prompt, dtype=np.int32), none, [n_prompt - 1], 8))
    note("a prompt")
    for at in range(n_prompt, n_prompt + n_generated):
        executor.step(Batch(tokens[:1], np.array([at], np.int32), none[:1], [0], 8))
    note("generated tokens")
    stages["all at the end"] = resident() - kept
    executor.close()
    return stages


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
