"""A model that makes embeddings and nothing else, in this process: BERT and its kin, or any other.

Knows llama.cpp's pooling. Refuses to know text: it gets tokens. A text is computed in one go, because such
models attend in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.compute.llama import load_model
from dure.engine.executor import ExecutorInfo
from dure.errors import EngineError, ResourceError, UsageError, context_error
from dure.hardware.probe import probe
from dure.model.gguf import GgufFile

__all__ = ["POOLING", "Embedder"]

LONGEST = 8192  # tokens of a text, unless more are asked for: memory grows with it
POOLING = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN,
    "cls": lib.LLAMA_POOLING_TYPE_CLS,
    "last": lib.LLAMA_POOLING_TYPE_LAST,
}


class Embedder:
    """Makes one embedding of a text's tokens.

    n_ctx: the longest text; None: what the model was trained for, up to 8192.
    pooling: "" is the model's own, or else mean. ranks: the model says how well a document answers a
    query, and not what a text means.
    """

    def __init__(
        self,
        model: GgufFile,
        threads: int | None,
        n_ctx: int | None,
        pooling: str,
        *,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        if pooling not in {"", *POOLING}:
            raise UsageError(f"--pooling {pooling}", f"give one of {', '.join(POOLING)}")
        trained = model.int(f"{model.architecture}.context_length", 512)
        self._n_ctx = n_ctx or min(trained, LONGEST)
        self._threads = threads or probe().cores
        self._model = load_model(model.paths[0], progress)
        try:
            self._context = self._make_context(pooling, model.paths[0].name)
        except ResourceError:
            lib.llama_model_free(self._model)
            raise
        self.ranks = lib.llama_pooling_type(self._context) == lib.LLAMA_POOLING_TYPE_RANK
        n_of = lib.llama_model_n_cls_out if self.ranks else lib.llama_model_n_embd
        self._n_values = int(n_of(self._model))
        vocabulary = lib.llama_model_get_vocab(self._model)
        self.info = ExecutorInfo(
            n_ranks=1,
            n_vocab=int(lib.llama_vocab_n_tokens(vocabulary)),
            n_ctx=self._n_ctx,
            n_batch=self._n_ctx,
            n_sequences=1,
            n_outputs=self._n_ctx,
            threads=(self._threads,),
        )

    def _make_context(self, pooling: str, name: str) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._n_ctx
        params.n_threads = params.n_threads_batch = self._threads
        params.embeddings = True
        params.pooling_type = POOLING.get(pooling, lib.LLAMA_POOLING_TYPE_UNSPECIFIED)
        context = lib.llama_init_from_model(self._model, params)
        if context and lib.llama_pooling_type(context) == lib.LLAMA_POOLING_TYPE_NONE:
            lib.llama_free(context)
            params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
            context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise ResourceError(
                f"no memory to embed texts of {self._n_ctx} tokens with {name}",
                "use a smaller --ctx",
            )
        return context

    def embed(self, tokens: Ints) -> Floats:
        """Embed tokens, int32 [n]. Raises ContextError if n is too large.

        Returns float32 [n_embd]; of a model that ranks, its scores: float32 [n], the first of which counts.
        """
        n = len(tokens)
        if not n:
            raise UsageError("the text is empty", "give some")
        if n > self._n_ctx:
            raise context_error(n, self._n_ctx, "divide it")
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(n, 0, 1)
        try:
            self._fill(batch, tokens)
            if lib.llama_decode(self._context, batch):
                raise EngineError("llama.cpp failed to compute an embedding")
        finally:
            lib.llama_batch_free(batch)
        pointer = lib.llama_get_embeddings_seq(self._context, 0)
        if not pointer:
            raise EngineError("llama.cpp gave no embedding")
        return np.array(np.ctypeslib.as_array(pointer, (self._n_values,)))

    def _fill(self, batch: Any, tokens: Ints) -> None:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens.tolist()):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = True

    def close(self) -> None:
        """Free the model."""
        if self._context:
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)
            self._context = None
