"""Measures llama.cpp alone, as llama-cpp-python has it: a prompt, then tokens one by one.

The library is the one that dure is installed with, so both have the same build of llama.cpp's kernels;
nothing else of dure takes part. For those who have no llama-bench, as users of bench/board.py.

    python bench/board_llama.py MODEL.gguf --threads 4 -p 128 -n 32 --repeat 3
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from pathlib import Path

import llama_cpp.llama_cpp as lib
from measure import BenchError, main, positive

from dure.model.llama_log import silence_llama


class Model:
    """A model with a context of its own."""

    def __init__(self, path: Path, threads: int, n_ctx: int) -> None:
        silence_llama()
        lib.llama_backend_init()
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise BenchError(f"llama.cpp cannot load {path}: check the file")
        given = lib.llama_context_default_params()
        given.n_ctx = given.n_batch = given.n_ubatch = n_ctx
        given.n_threads = given.n_threads_batch = threads
        self._context = lib.llama_init_from_model(self._model, given)
        if not self._context:
            raise BenchError(f"no memory for a context of {n_ctx} tokens: use a smaller model")

    def forget(self) -> None:
        """Empty the context."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def seconds(self, n: int, *, at_once: bool) -> float:
        """Return how long n tokens take, in one batch or one by one."""
        tokens = (ctypes.c_int32 * n)(*(7 * i % 1000 + 1 for i in range(n)))
        begun = time.perf_counter()
        for i in range(1 if at_once else n):
            one = ctypes.cast(ctypes.byref(tokens, 4 * i), ctypes.POINTER(ctypes.c_int32))
            if lib.llama_decode(self._context, lib.llama_batch_get_one(one, n if at_once else 1)):
                raise BenchError("llama.cpp failed to decode")
        lib.llama_synchronize(self._context)
        return time.perf_counter() - begun


def run() -> int:
    """Measure what the command line asks for and print tokens a second as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("--threads", type=positive, required=True)
    options.add_argument("-p", type=positive, default=128, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=32, help="generated tokens (%(default)s)")
    options.add_argument("--repeat", type=positive, default=3, help="medians of (%(default)s)")
    asked = options.parse_args()
    model = Model(asked.model, asked.threads, max(asked.p, asked.n))
    rates: dict[str, float] = {}
    for name, n, at_once in (("prompt", asked.p, True), ("generation", asked.n, False)):
        times = []
        for _ in range(asked.repeat + 1):
            model.forget()
            times.append(model.seconds(n, at_once=at_once))
        rates[name] = n / statistics.median(times[1:])  # the first warms up
    print(json.dumps(rates))
    return 0


if __name__ == "__main__":
    main(run)
