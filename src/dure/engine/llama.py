"""One model (or shard of one) in this process: loading it and decoding batches with llama.cpp.

Knows llama.cpp's C interface as llama-cpp-python binds it.
Refuses to know whether it is one of several ranks: a callback it is given sees to that.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from dure.engine.executor import Floats, Ints, KvOp
from dure.errors import EngineError, ModelError, ResourceError
from dure.model.llama_log import captured_log, silence_llama

__all__ = ["Limits", "LoadedModel", "has_amx"]

_MAX_POSITIONS_PER_TOKEN = 4


@dataclass(frozen=True)
class Limits:
    """What a context is made for.

    n_ctx: positions in the KV cache, shared by all sequences.
    n_batch: tokens that one decode may hold; they are computed in one go.
    n_outputs: rows of logits one decode may give.
    threads: that compute.
    """

    n_ctx: int
    threads: int
    n_batch: int = 512
    n_sequences: int = 1
    n_outputs: int = 32


@cache
def has_amx() -> bool:
    """Whether llama.cpp was built with its AMX kernels, which crash on some machines.

    The cause is the compiler or the kernel, see docs/decisions/0003; `make` builds without them.
    Where they are there, dure avoids them, and with them all repacked kernels: slower, but alive.
    """
    cpu = ctypes.CDLL(str(Path(lib.__file__).with_name("lib") / "libggml-cpu.so"))
    return bool(cpu.ggml_cpu_has_amx_int8())


class LoadedModel:
    """A model and its context. Not thread-safe.

    `eval_callback` is the address of a native `ggml_backend_sched_eval_callback`, or None.
    `cure` is what a user should do with a file that llama.cpp refuses.
    Raises ModelError where llama.cpp refuses the file, ResourceError where memory is short, and what
    `progress` raises.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        eval_callback: int | None = None,
        progress: Callable[[float], None] = lambda _: None,
        cure: str = "get the file again, or use a model that llama.cpp knows",
    ) -> None:
        silence_llama()
        self.limits = limits
        self._model = _load_model(path, progress, cure)
        try:
            self._context = _make_context(self._model, limits, eval_callback, path)
        except ResourceError:
            lib.llama_model_free(self._model)
            raise
        vocabulary = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocabulary))
        self.n_embd = int(lib.llama_model_n_embd(self._model))
        self.weights_bytes = int(lib.llama_model_size(self._model))
        self._memory = lib.llama_get_memory(self._context)
        self._batch = _Batch(limits.n_batch)
        self._open = True

    def decode(
        self,
        inputs: Ints | Floats,
        positions: Ints,
        sequences: Ints,
        outputs: Sequence[int],
    ) -> None:
        """Decode tokens (int32 [n]) or their embeddings (float32 [n, n_embd]).

        Raises EngineError where the KV cache is full or llama.cpp fails.
        """
        batch = self._batch.fill(inputs, positions, sequences, outputs)
        status = lib.llama_decode(self._context, batch)
        if status == 1:
            raise EngineError(
                f"the KV cache of {self.limits.n_ctx} positions is full: use a larger --ctx"
            )
        if status != 0:
            log = "; ".join(captured_log()[-2:])
            raise EngineError(f"llama.cpp failed to decode (status {status}): {log or 'no reason'}")
        lib.llama_synchronize(self._context)

    def logits(self, token: int) -> Floats:
        """Logits of the token at this index of the last batch: float32 [n_vocab], a view."""
        pointer = lib.llama_get_logits_ith(self._context, token)
        if not pointer:
            raise EngineError(f"token {token} of the last batch has no logits")
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def change_kv(self, ops: Iterable[KvOp]) -> None:
        """Forget or copy positions of sequences."""
        for op in ops:
            if op.copy_to is not None:
                lib.llama_memory_seq_cp(self._memory, op.sequence, op.copy_to, op.start, op.stop)
            elif not lib.llama_memory_seq_rm(self._memory, op.sequence, op.start, op.stop):
                raise EngineError(
                    f"positions {op.start} to {op.stop} of sequence {op.sequence} cannot be "
                    "forgotten in this model's cache"
                )

    def close(self) -> None:
        """Free the context and the model."""
        if self._open:
            self._open = False
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


class _Batch:
    """A `llama_batch` over arrays of ours, filled without a Python loop."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity * _MAX_POSITIONS_PER_TOKEN, np.int32)
        self._n_sequences = np.ones(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        item = self._sequences.itemsize
        base = self._sequences.ctypes.data
        self._sequence_pointers = np.arange(base, base + capacity * item, item, dtype=np.uint64)

    def fill(
        self, inputs: Ints | Floats, positions: Ints, sequences: Ints, outputs: Sequence[int]
    ) -> Any:
        """The C struct; valid until the next call, and as long as `inputs` lives."""
        n = len(positions)
        self._positions[:n] = positions
        self._sequences[:n] = sequences
        self._outputs[:n] = 0
        self._outputs[list(outputs)] = 1
        batch = lib.llama_batch()
        batch.n_tokens = n
        if inputs.dtype == np.int32:
            self._tokens[:n] = inputs
            batch.token = _pointer(self._tokens, ctypes.c_int32)
            batch.embd = None
        else:
            self._embeddings = np.ascontiguousarray(inputs, np.float32)
            batch.token = None
            batch.embd = _pointer(self._embeddings, ctypes.c_float)
        batch.pos = _pointer(self._positions, ctypes.c_int32)
        batch.n_seq_id = _pointer(self._n_sequences, ctypes.c_int32)
        batch.seq_id = _pointer(self._sequence_pointers, ctypes.POINTER(ctypes.c_int32))
        batch.logits = _pointer(self._outputs, ctypes.c_int8)
        return batch


def _pointer(array: np.ndarray[Any, Any], type_: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(type_))


def _load_model(path: Path, progress: Callable[[float], None], cure: str) -> Any:
    raised: list[BaseException] = []

    def told(fraction: float, _: Any) -> bool:
        try:
            progress(fraction)
        except BaseException as error:  # Ctrl-C, perhaps; ctypes would print and forget it
            raised.append(error)
        return not raised  # False ends the loading

    params = lib.llama_model_default_params()
    # Read, not mapped: repacked weights are copies, and a map beside them would double the memory.
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = not has_amx()
    callback = lib.llama_progress_callback(told)
    params.progress_callback = callback
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if raised:
        if model:
            lib.llama_model_free(model)
        raise raised[0]
    if not model:
        raise ModelError(f"llama.cpp cannot load {path.name}: {_reason()}: {cure}")
    return model


def _reason() -> str:
    lines = [line for line in captured_log() if "error" in line or "failed" in line]
    return lines[0].split(": ", 1)[-1] if lines else "it gives no reason"


def _make_context(model: Any, limits: Limits, eval_callback: int | None, path: Path) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = limits.n_ctx
    params.n_batch = params.n_ubatch = limits.n_batch
    params.n_seq_max = limits.n_sequences
    params.n_outputs_max = min(limits.n_outputs, limits.n_batch)
    params.n_outputs_max_per_seq = 0  # as many as n_outputs_max
    params.n_threads = params.n_threads_batch = limits.threads
    params.kv_unified = True
    if eval_callback is not None:
        params.cb_eval = type(params.cb_eval)(eval_callback)
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ResourceError(
            f"no memory for a context of {limits.n_ctx} tokens of {path.name}: use a smaller --ctx"
        )
    return context
