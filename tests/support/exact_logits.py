"""Runs stock llama.cpp as exactly as it can: float32 keys and values, no flash attention, one thread.

Knows nothing of dure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

__all__ = ["logits_of"]

_F32 = 0


def logits_of(
    path: Path, tokens: Sequence[int], adapter: Path | None = None
) -> NDArray[np.float32]:
    """Return the logits after each token of a prompt: float32 [tokens, vocabulary].

    adapter: a LoRA adapter in GGUF.
    """
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp refuses {path}")
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = _F32
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    try:
        if adapter:
            _set_adapter(model, context, adapter)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        if lib.llama_decode(context, batch) != 0:
            raise RuntimeError(f"llama.cpp cannot compute {path}")
        n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        pointer = lib.llama_get_logits(context)
        return np.ctypeslib.as_array(pointer, shape=(len(tokens), n_vocab)).copy()
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)


def _set_adapter(model: Any, context: Any, path: Path) -> None:
    lora: Any = lib.llama_adapter_lora_init(model, str(path).encode())
    if not lora:
        raise RuntimeError(f"llama.cpp refuses {path}")
    adapters = (lib.llama_adapter_lora_p_ctypes * 1)(lora)
    lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
