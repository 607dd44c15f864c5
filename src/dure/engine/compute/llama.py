"""One model (or shard of one) in this process: loading it and decoding batches with llama.cpp.

Knows llama.cpp's C interface as llama-cpp-python binds it.
Refuses to know whether it is one of several ranks: the process's `AllReduce` sees to that.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import llama_cpp.llama_cpp as lib
import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.compute.allreduce import graph_callback
from dure.engine.compute.custom_nodes import CustomNodes
from dure.engine.compute.doubled_table import give_back_table, is_doubled
from dure.engine.compute.gpu import devices_of
from dure.engine.compute.importance import InputGatherer
from dure.engine.compute.kv_cache import KvCache
from dure.engine.compute.lora import ContextAdapters
from dure.engine.compute.memory import lock_all, locked_bytes, want_huge_pages
from dure.engine.compute.native import ggml_cpu
from dure.engine.compute.pinning import PinnedThreads, cores_for
from dure.engine.compute.sharing import StepTimes, ThreadSharing
from dure.engine.limits import Limits
from dure.errors import EngineError, GpuMemoryError, ModelError, ResourceError
from dure.model.context import moving_window, padded_ctx
from dure.model.llama_log import captured_log, silence_llama
from dure.sizes import compared

__all__ = ["LoadedModel", "has_amx", "load_model"]

DEFAULT_CURE = "get the file again, or use a model that llama.cpp knows"
_MAX_POSITIONS_PER_TOKEN = 4
_SHORT = ("unable to allocate", "failed to allocate", "out of memory", "OutOfDeviceMemory")
_CHUNKED = "llama4"  # its window does not slide

ThreadUse = tuple[int, float]
"""Threads that were given up, and how many threads' worth of time other programs took; see `StepStats`."""


@cache
def has_amx() -> bool:
    """Return whether llama.cpp was built with its AMX kernels, which crash on some machines.

    The cause is the compiler or the kernel, see docs/decisions/0003; `make` builds without them.
    If they are there, dure avoids them, and with them all repacked kernels: slower, but alive.
    """
    return bool(ggml_cpu().ggml_cpu_has_amx_int8())


class LoadedModel:
    """A model with its context and KV cache. Not thread-safe.

    n_window: positions that a sequence keeps for some layers, while it is longer; 0 if it keeps all.
    lacks_table: embeddings must be decoded, because tokens cannot be looked up.
    `cure` is what a user should do with a file that llama.cpp refuses.
    Raises ModelError if llama.cpp refuses the file, ResourceError if memory is short, and what
    `progress` raises.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        progress: Callable[[float], None] = lambda _: None,
        cure: str = DEFAULT_CURE,
    ) -> None:
        self.limits = limits
        cores = cores_for(limits.threads, limits.first_core) if limits.pin else None
        self._model = load_model(path, progress, cure, limits)
        self.lacks_table = _gives_back_table(limits) and is_doubled(self._model)
        can_give_up = limits.gives_up_threads and limits.threads > 1
        self._sharing = ThreadSharing(limits.threads) if can_give_up else None
        self._threads = self._fitting_threads = limits.threads
        try:
            self._nodes = CustomNodes()
            self._context = _make_context(self._model, limits, self._nodes, path)
        except ResourceError:
            lib.llama_model_free(self._model)
            raise
        self._pinned = PinnedThreads(self._context, cores) if cores else None
        want_huge_pages()  # for the buffers of a step, which nothing was written to yet
        vocabulary = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocabulary))
        self.n_embd = int(lib.llama_model_n_embd(self._model))
        self.n_layer = int(lib.llama_model_n_layer(self._model))
        self.weights_bytes = int(lib.llama_model_size(self._model))
        n_window = 0 if limits.full_window else int(lib.llama_model_n_swa(self._model))
        self.n_window = moving_window(n_window, limits.n_ctx)
        is_chunked = _meta(self._model, "general.architecture") == _CHUNKED
        self.kv = KvCache(self._context, self.n_window, chunked=is_chunked)
        self.inputs = InputGatherer(self._nodes.handle)
        self.adapters = ContextAdapters(self._model, self._context)
        # A running state (Mamba and its kin) holds a whole sequence, and cannot go back.
        self.can_forget = not (
            lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        )
        self._embeds = False
        self._row = ctypes.c_float * self.n_vocab
        self._batch = _Batch(limits.n_batch, self.n_embd)
        self._rows: dict[int, Floats] = {}  # logits of a batch that was decoded in parts
        self._open = True

    def decode(
        self,
        inputs: Ints | Floats,
        positions: Ints,
        sequences: Ints,
        outputs: Sequence[int],
    ) -> None:
        """Decode tokens (int32 [n]) or their embeddings (float32 [n, n_embd]).

        Raises EngineError if the KV cache is full or llama.cpp fails.
        """
        self._rows = {}
        parts = _parts(sequences) if self.n_window else []
        if len(parts) < 2:
            self._decode(self._batch.fill(inputs, positions, sequences, outputs))
            return
        for part in parts:
            own = {int(i): place for place, i in enumerate(part)}
            rows = [i for i in outputs if i in own]
            batch = self._batch.fill(
                inputs[part], positions[part], sequences[part], [own[i] for i in rows]
            )
            self._decode(batch)
            self._rows |= {i: np.array(self._view(own[i])) for i in rows}

    def _decode(self, batch: Any) -> None:
        status = lib.llama_decode(self._context, batch)
        if status == 1:
            raise EngineError(
                f"the KV cache of {self.limits.n_ctx} positions is full", "use a larger --ctx"
            )
        if status != 0:
            log = "; ".join(captured_log()[-2:])
            raise EngineError(f"llama.cpp failed to decode (status {status}): {log or 'no reason'}")
        lib.llama_synchronize(self._context)

    def logits(self, token: int) -> Floats:
        """Return the logits of the token at this index of the last batch: float32 [n_vocab], a view."""
        row = self._rows.get(token)
        return self._view(token) if row is None else row

    def _view(self, token: int) -> Floats:
        pointer = lib.llama_get_logits_ith(self._context, token)
        if not pointer:
            raise EngineError(f"token {token} of the last batch has no logits")
        address = ctypes.addressof(pointer.contents)
        return cast(Floats, np.frombuffer(cast(Any, self._row.from_address(address)), np.float32))

    def embeddings(self, tokens: Sequence[int]) -> Floats:
        """Return the hidden states of these tokens of the last batch: float32 [n, n_embd].

        The batch must have been decoded after `want_embeddings(True)`.
        """
        rows = np.empty((len(tokens), self.n_embd), np.float32)
        for row, token in enumerate(tokens):
            pointer = lib.llama_get_embeddings_ith(self._context, token)
            if not pointer:
                raise EngineError(f"token {token} of the last batch has no hidden state")
            rows[row] = np.ctypeslib.as_array(pointer, (self.n_embd,))
        return rows

    def want_embeddings(self, wanted: bool) -> None:
        """Have the next batches give hidden states as well as logits."""
        if wanted != self._embeds:
            self._embeds = wanted
            lib.llama_set_embeddings(self._context, wanted)

    def set_threads(self, n: int) -> None:
        """Decode single tokens with n threads; prompts keep those of `limits`."""
        self._threads = n
        self._apply_threads()

    def share_processors(self, spent: StepTimes, n_tokens: int, sync_s: float) -> ThreadUse:
        """Let the next step have fewer threads if other programs need processors, and more if they do not.

        spent: by a step of n_tokens, of which sync_s in all-reduces. Returns what it had.
        """
        given_up = self._threads - min(self._threads, self._fitting_threads)
        if not n_tokens or self.limits.gpu.layers:  # threads that wait for a GPU lose nothing
            return given_up, 0.0
        had = self._threads if n_tokens == 1 else self.limits.threads
        lost = spent.lost(min(had, self._fitting_threads), sync_s)
        if self._sharing is not None:
            compute_s = time.monotonic() - spent.begun - sync_s
            threads = self._sharing.after_step(n_tokens, spent.begun, compute_s, lost)
            if threads != self._fitting_threads:
                self._fitting_threads = threads
                self._apply_threads()
        return given_up, lost

    def _apply_threads(self) -> None:
        of_prompts = self._fitting_threads
        lib.llama_set_n_threads(self._context, min(self._threads, of_prompts), of_prompts)

    def close(self) -> None:
        """Free the context and the model."""
        if self._open:
            self._open = False
            lib.llama_free(self._context)
            if self._pinned:
                self._pinned.close()
            self._nodes.close()
            lib.llama_model_free(self._model)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


class _Batch:
    """A `llama_batch` over arrays of ours, made once and filled without a Python loop."""

    def __init__(self, capacity: int, n_embd: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity * _MAX_POSITIONS_PER_TOKEN, np.int32)
        self._n_sequences = np.ones(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._embeddings = np.empty((capacity, n_embd), np.float32)  # no memory before it is used
        item = self._sequences.itemsize
        base = self._sequences.ctypes.data
        self._sequence_pointers = np.arange(base, base + capacity * item, item, dtype=np.uint64)
        self._token_pointer = _pointer(self._tokens, ctypes.c_int32)
        self._embeddings_pointer = _pointer(self._embeddings, ctypes.c_float)
        self._struct = lib.llama_batch()
        self._struct.pos = _pointer(self._positions, ctypes.c_int32)
        self._struct.n_seq_id = _pointer(self._n_sequences, ctypes.c_int32)
        self._struct.seq_id = _pointer(self._sequence_pointers, ctypes.POINTER(ctypes.c_int32))
        self._struct.logits = _pointer(self._outputs, ctypes.c_int8)

    def fill(
        self, inputs: Ints | Floats, positions: Ints, sequences: Ints, outputs: Sequence[int]
    ) -> Any:
        """Return the C struct of a batch; valid until the next call."""
        n = len(positions)
        self._positions[:n] = positions
        self._sequences[:n] = sequences
        self._outputs[:n] = 0
        for output in outputs:  # mostly one: quicker than all at once
            self._outputs[output] = 1
        batch = self._struct
        batch.n_tokens = n
        if inputs.dtype == np.int32:
            self._tokens[:n] = inputs
            batch.token, batch.embd = self._token_pointer, None
        else:
            self._embeddings[:n] = inputs
            batch.token, batch.embd = None, self._embeddings_pointer
        return batch


def _parts(sequences: Ints) -> list[Ints]:
    """Divide a batch so that the sequences of each part have equally many tokens in it.

    llama.cpp computes such a part in one go; of another batch it computes a sequence's last tokens after
    the others, and their window then moves on by more than one token.
    """
    _, owner, counts = np.unique(sequences, return_inverse=True, return_counts=True)
    of_token = counts[owner]
    return [np.flatnonzero(of_token == n).astype(np.int32) for n in np.unique(counts)]


def _meta(model: Any, key: str) -> str:
    """Return a text of a model's metadata."""
    text = ctypes.create_string_buffer(256)
    lib.llama_model_meta_val_str(model, key.encode(), text, len(text))
    return text.value.decode(errors="replace")


def _pointer(array: np.ndarray[Any, Any], type_: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(type_))


def load_model(
    path: Path,
    progress: Callable[[float], None],
    cure: str = DEFAULT_CURE,
    limits: Limits | None = None,
) -> Any:
    """Load a model; return llama.cpp's `llama_model *`. limits: which layers lie on a GPU; none without.

    Raises ModelError if llama.cpp refuses, ResourceError if memory cannot be locked or a GPU's is short,
    and what `progress` raises.
    """
    limits = limits or Limits(0, 1)
    silence_llama()
    raised: list[BaseException] = []

    def report(fraction: float, _: Any) -> bool:
        if fraction == 0:  # memory is there, weights are not
            want_huge_pages()
        try:
            progress(fraction)
        except BaseException as error:  # Ctrl-C, perhaps; ctypes would print and forget it
            raised.append(error)
        return not raised  # False ends the loading

    params = lib.llama_model_default_params()
    # Read, not mapped: repacked weights are copies, and a map beside them would double the memory.
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = not has_amx()
    devices = devices_of(limits.gpu.device)
    params.devices, params.n_gpu_layers = ctypes.addressof(devices), limits.gpu.layers
    callback = lib.llama_progress_callback(report)
    params.progress_callback = callback
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if raised:
        if model:
            lib.llama_model_free(model)
        raise raised[0]
    if not model:
        if limits.gpu.layers and any(word in line for line in captured_log() for word in _SHORT):
            raise _gpu_is_short(path, limits)
        raise ModelError(f"llama.cpp cannot load {path.name}: {_reason()}", cure)
    if _gives_back_table(limits):
        give_back_table(model)
    if limits.lock_memory:
        _lock(model, limits.gpu.weights_bytes)
    return model


def _gives_back_table(limits: Limits) -> bool:
    return limits.given_embeddings and not limits.gpu.layers


def _gpu_is_short(path: Path, limits: Limits) -> GpuMemoryError:
    return GpuMemoryError(
        f"{limits.gpu.device} has no memory for these layers of {path.name} and {limits.n_ctx} tokens of "
        "context",
        "use fewer --gpu-layers or a smaller --ctx, or stop what else uses the GPU",
    )


def _lock(model: Any, gpu_bytes: int) -> None:
    """Lock weights in memory: llama.cpp's own way leaves out repacked ones, and huge pages."""
    lock_all()
    size = int(lib.llama_model_size(model)) - gpu_bytes
    if (locked := locked_bytes()) < size:
        lib.llama_model_free(model)
        part, whole = compared(locked, size)
        raise ResourceError(
            f"only {part} of {whole} can be locked in memory",
            "raise the limit (`ulimit -l unlimited`, or LimitMEMLOCK=infinity of a service), or leave "
            "out --mlock",
        )


def _reason() -> str:
    lines = [line for line in captured_log() if "error" in line or "failed" in line]
    return lines[0].split(": ", 1)[-1] if lines else "it gives no reason"


def _make_context(model: Any, limits: Limits, nodes: CustomNodes, path: Path) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = padded_ctx(limits.n_ctx) * limits.n_sequences
    params.n_batch = params.n_ubatch = limits.n_batch
    params.n_seq_max = limits.n_sequences
    params.n_outputs_max = min(limits.n_outputs, limits.n_batch)
    params.n_outputs_max_per_seq = 0  # as many as n_outputs_max
    params.n_threads = params.n_threads_batch = limits.threads
    params.swa_full = limits.full_window
    params.kv_unified = False  # attention over one sequence's cells, not all: docs/decisions/0007
    params.cb_eval = type(params.cb_eval)(graph_callback())
    params.cb_eval_user_data = nodes.handle
    context = lib.llama_init_from_model(model, params)
    if not context:
        if limits.gpu.layers:
            raise _gpu_is_short(path, limits)
        raise ResourceError(
            f"no memory for a context of {limits.n_ctx} tokens of {path.name}",
            "use a smaller --ctx",
        )
    return context
