"""How much memory a model takes: pure arithmetic over shapes, cuts and contexts.

Knows what llama.cpp allocates. Refuses to look at any machine: it is given a `Machine`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dure.errors import ModelError, ResourceError, UsageError
from dure.hardware.machine import Machine
from dure.model.alike import alike_tensors
from dure.model.architectures import ARCHITECTURES, Along, Shape, shape_of
from dure.model.cache_shape import CacheShape, cache_shape_of
from dure.model.context import (
    CTX_GRAIN,
    moving_window,
    n_kept_states,
    padded_ctx,
    window_cells,
)
from dure.model.cut import CutPlan
from dure.model.gguf import GgufFile, TensorSpec
from dure.model.shard import ShardSize
from dure.plan.kernels import is_repacked
from dure.sizes import compared

__all__ = [
    "DEFAULT_CTX",
    "PROCESS_BYTES",
    "RankMemory",
    "check_ctx",
    "choose_ctx",
    "many_outputs",
    "memory_of",
    "n_batch_of",
    "rank_memory",
    "tokens_moved_in_a_pass",
    "whole_memory",
]

DEFAULT_CTX = 4096
F16_BYTES = 2
PREFILL = 512  # prompt tokens per step, besides those of running answers
LEAST_OUTPUTS = 32  # rows of logits
MOST_LOGITS_BYTES = 128_000_000  # of the rows that a step may have if it wants many
# Measured on x86, for models of 4 to 260 MB on one rank and more, and rounded up: see the tests.
PROCESS_BYTES = 100_000_000  # Python, MPI, the libraries, buffers of ours
TOKEN_BYTES = 240  # of a vocabulary, which llama.cpp and dure hold; ranks have none
# Of a model whose sizes are not known: compute buffers and vocabulary of most.
_UNKNOWN_BYTES = 200_000_000
_F32_BYTES = 4
_ACTIVATION_BYTES = 2  # of a column, as products read it: 8 bits and scales, or float16
# Of a column that ranks add up: float32 in the sum and, twice, as the embeddings that rank 0 sends; 8 bits
# in each of two outboxes.
_SUMMED_BYTES = 3 * _F32_BYTES + 2
_TOUCHED_IN_A_MOVE = 4  # read and written, out of the KV cache and into it again


def tokens_moved_in_a_pass(weights_bytes: int, kv_bytes_per_token: int) -> int:
    """Return how many tokens' KV cache moves to another sequence while all weights are read once.

    0 if that is not known, as for a model with a running state instead of a KV cache.
    """
    if not kv_bytes_per_token:
        return 0
    return weights_bytes // (_TOUCHED_IN_A_MOVE * kv_bytes_per_token)


def n_batch_of(n_sequences: int) -> int:
    """Return how many tokens a step may have: a part of a prompt, and one for every answer."""
    return PREFILL + (n_sequences if n_sequences > 1 else 0)


def many_outputs(n_vocab: int) -> int:
    """Return how many rows of logits a step may have that wants one for each of its tokens."""
    return max(LEAST_OUTPUTS, min(PREFILL, MOST_LOGITS_BYTES // (_F32_BYTES * max(1, n_vocab))))


@dataclass(frozen=True)
class RankMemory:
    """One rank's memory: bytes of weights, and of the KV cache for each position.

    kv_bytes_per_token: in layers that see all positions. window_bytes_per_token: in those that see the last
    n_window. state_bytes: of a sequence's running state.
    width: columns of activations that exist at once in a layer. n_embd, n_vocab: of the hidden state, and
    of the rank's logits. n_summed: columns that are added up over ranks.
    other_bytes: besides, whatever the context: a vocabulary, copies of weights.
    loading_bytes: besides, until the weights are loaded.
    least_outputs: rows of logits that a step may have, or one for each sequence if those are more.
    """

    weights_bytes: int
    kv_bytes_per_token: int
    width: int = 0
    n_embd: int = 0
    n_vocab: int = 0
    n_summed: int = 0
    other_bytes: int = 0
    window_bytes_per_token: int = 0
    n_window: int = 0
    state_bytes: int = 0
    least_outputs: int = LEAST_OUTPUTS
    loading_bytes: int = 0

    def n_outputs(self, n_sequences: int) -> int:
        """Return how many rows of logits a step may have."""
        return max(self.least_outputs, n_sequences)

    def total_bytes(self, n_ctx: int, n_sequences: int = 1) -> int:
        """Return what the rank's process takes with n_sequences contexts of n_ctx."""
        return (
            self.weights_bytes
            + self.kv_bytes(n_ctx, n_sequences)
            + self.overhead_bytes(n_ctx, n_sequences)
        )

    def kv_bytes(self, n_ctx: int, n_sequences: int = 1) -> int:
        """Return the bytes of what is kept of n_sequences contexts of n_ctx, which llama.cpp rounds up.

        That is the KV cache, running states, and the states that are kept to return to.
        """
        kept = self.window_bytes_per_token * moving_window(self.n_window, n_ctx) + self.state_bytes
        each = self._sequence_bytes(n_ctx, n_sequences)
        return each * n_sequences + kept * n_kept_states(n_sequences)

    def _sequence_bytes(self, n_ctx: int, n_sequences: int) -> int:
        cells = window_cells(n_ctx, self.n_window, n_batch_of(n_sequences))
        windows = self.window_bytes_per_token * cells
        return self.kv_bytes_per_token * padded_ctx(n_ctx) + windows + self.state_bytes

    def overhead_bytes(self, n_ctx: int, n_sequences: int = 1) -> int:
        """Return what it takes beside weights and KV cache.

        A sequence that is copied to another goes through a buffer, and the beginning of one with windows
        through two. What is held while loading is there before the KV cache.
        """
        n_copies = (1 + bool(self.n_window)) * (n_sequences > 1)
        copied = self._sequence_bytes(n_ctx, n_sequences) * n_copies
        running = copied + self.step_bytes(n_ctx, n_sequences)
        loading = self.loading_bytes - self.kv_bytes(n_ctx, n_sequences)
        return PROCESS_BYTES + self.other_bytes + max(running, loading)

    def bytes_per_position(self, n_sequences: int) -> int:
        """Return by how much `total_bytes` grows at most with a position, once windows are full."""
        n_kv = n_sequences + (1 + bool(self.n_window)) * (n_sequences > 1)
        return self.kv_bytes_per_token * n_kv + F16_BYTES * n_batch_of(n_sequences)

    def full_windows_bytes(self, n_sequences: int) -> int:
        """Return what windows add to `total_bytes` at most, however long the contexts are."""
        n_cells = padded_ctx(self.n_window + n_batch_of(n_sequences))
        n_each = n_sequences + 2 * (n_sequences > 1)
        n = n_cells * n_each + self.n_window * n_kept_states(n_sequences)
        return self.window_bytes_per_token * n

    @property
    def moved_bytes_per_token(self) -> int:
        """The most that a position of a sequence adds to what is moved or stored of it.

        0 if that says too little, because a running state moves with it.
        """
        if self.state_bytes:
            return 0
        return self.kv_bytes_per_token + self.window_bytes_per_token

    def with_other(self, n_bytes: int) -> RankMemory:
        """Return the memory with n_bytes more, whatever the context."""
        return replace(self, other_bytes=self.other_bytes + n_bytes)

    def without_window(self) -> RankMemory:
        """Return the memory if layers that see a window keep all positions."""
        per_token = self.kv_bytes_per_token + self.window_bytes_per_token
        return replace(self, kv_bytes_per_token=per_token, window_bytes_per_token=0, n_window=0)

    def step_bytes(self, n_ctx: int, n_sequences: int) -> int:
        """Return the bytes of llama.cpp's buffers for a step.

        These are the larger of a layer's and the logits', which take turns; the logits that it gives;
        activations as products read them; and what ranks exchange.

        The mask of attention has a float16 for every token of the step and every position.
        """
        n_batch, n_outputs = n_batch_of(n_sequences), self.n_outputs(n_sequences)
        logits = n_outputs * self.n_vocab * _F32_BYTES
        layer = n_batch * (self.width * _F32_BYTES + padded_ctx(n_ctx) * F16_BYTES)
        last = logits + n_batch * 2 * self.n_embd * _F32_BYTES
        columns = self.width * _ACTIVATION_BYTES + self.n_summed * _SUMMED_BYTES
        return max(layer, last) + logits + n_batch * columns


def memory_of(weights_bytes: int, cache: CacheShape) -> RankMemory:
    """Return what weights take, and what is kept of a sequence."""
    return RankMemory(
        weights_bytes,
        cache.values * F16_BYTES,
        window_bytes_per_token=cache.window_values * F16_BYTES,
        n_window=cache.n_window,
        state_bytes=cache.state_values * _F32_BYTES,
    )


def rank_memory(plan: CutPlan, shard: ShardSize, features: Collection[str] = ()) -> RankMemory:
    """Return what a rank of a cut takes. features: of its machine's processor."""
    shape, cut = plan.shape, plan.ranks[shard.rank]
    n_head, n_head_kv = len(cut[Along.HEADS]), len(cut[Along.KV_HEADS])
    return replace(
        memory_of(shard.weights_bytes, shape.cache.of_heads(n_head_kv, shape.n_head_kv)),
        width=_width(shape, n_head, n_head_kv, len(cut[Along.FFN])),
        n_embd=shape.n_embd,
        n_vocab=len(cut[Along.VOCABULARY]),
        n_summed=shape.n_embd if len(plan.ranks) > 1 else 0,
        loading_bytes=_doubled_bytes(shard.ends, features),
    )


def whole_memory(model: GgufFile, features: Collection[str] = ()) -> tuple[RankMemory, int]:
    """Return what a whole model takes on one machine, and the context it was trained for.

    Without what it keeps of a sequence if the header does not say enough. features: see `rank_memory`.
    """
    alike = alike_tensors(model)
    weights_bytes = sum(n * tensor.size_bytes for tensor, n in alike)
    memory = RankMemory(weights_bytes, 0)
    try:
        memory = memory_of(weights_bytes, cache_shape_of(model))
        shape = shape_of(model)
    except ModelError:  # llama.cpp may know it all the same, or say better what is wrong
        trained = model.int(f"{model.architecture}.context_length", DEFAULT_CTX)
        return replace(memory, other_bytes=_UNKNOWN_BYTES), trained
    doubled = _doubled_bytes((one for one, _ in alike), features)
    stays = 0 if model.architecture in ARCHITECTURES else doubled
    memory = replace(
        memory,
        width=_width(shape, shape.n_head, shape.n_head_kv, shape.n_ff),
        n_embd=shape.n_embd,
        n_vocab=shape.n_vocab,
        other_bytes=_vocabulary_bytes(model) + stays,
        loading_bytes=doubled - stays,
    )
    return memory, shape.context_length


def _width(shape: Shape, n_head: int, n_head_kv: int, n_ff: int) -> int:
    """Return the most columns that llama.cpp holds at once in a layer: of its attention or feed-forward.

    Read off its buffers for seven shapes; up to a fifth more than some of them have.
    """
    query, key = n_head * shape.key_length, n_head_kv * (shape.key_length + shape.value_length)
    attention = 3 * query + key + shape.n_embd
    feed_forward = 3 * n_ff
    if shape.n_expert:
        feed_forward = shape.n_expert_used * max(3 * n_ff, 2 * shape.n_embd)
    return max(attention, feed_forward + 4 * shape.n_embd)


def _vocabulary_bytes(model: GgufFile) -> int:
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    return TOKEN_BYTES * tokens.count if tokens else 0


def _doubled_bytes(tensors: Iterable[TensorSpec], features: Collection[str]) -> int:
    """Return the bytes of a table of embeddings that is held twice: as it is, and repacked for logits.

    Where the architecture is known, the first copy is given back once it is loaded.
    """
    named = {tensor.name: tensor for tensor in tensors}
    table = named.get("token_embd.weight")
    if table is None or "output.weight" in named:
        return 0
    is_twice = is_repacked(table.type.name, table.shape[1], features)
    return table.size_bytes if is_twice else 0


def check_ctx(asked: int | None, trained: int | None = None) -> None:
    """Check a context that was asked for, on any machine. Raises UsageError if it makes no sense.

    trained: None if the model is not known yet.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"--ctx {asked}", f"give a number of tokens above 0, as in {DEFAULT_CTX}")
    if asked is not None and trained is not None and asked > trained:
        raise UsageError(
            f"--ctx {asked} is more than the {trained} tokens this model was trained for",
            f"use at most --ctx {trained}",
        )


def choose_ctx(
    asked: int | None,
    trained: int,
    ranks: Sequence[RankMemory],
    machine: Machine,
    n_sequences: int = 1,
) -> int:
    """Choose the context to run with when all `ranks` share `machine`: what was asked for, or a default.

    Each of n_sequences has a context of its own.
    Raises UsageError if `asked` makes no sense, ResourceError if it does not fit the memory.
    """
    check_ctx(asked, trained)
    n_ctx = asked or min(DEFAULT_CTX, trained)
    needed = sum(rank.total_bytes(n_ctx, n_sequences) for rank in ranks)
    if needed > machine.available_bytes:
        raise _too_large(n_ctx, n_sequences, needed, ranks, machine)
    return n_ctx


def _too_large(
    n_ctx: int, n_sequences: int, needed: int, ranks: Sequence[RankMemory], machine: Machine
) -> ResourceError:
    fixed = sum(
        rank.total_bytes(0, n_sequences) + rank.full_windows_bytes(n_sequences) for rank in ranks
    )
    per_position = sum(rank.bytes_per_position(n_sequences) for rank in ranks)
    most = (machine.available_bytes - fixed) // max(1, per_position) // CTX_GRAIN * CTX_GRAIN
    fewer = ", or a smaller --parallel" if n_sequences > 1 else ""
    cure = (
        f"use --ctx {most} or less{fewer}"
        if most >= CTX_GRAIN
        else "even the weights do not fit: use a smaller or more quantized model, or more machines"
    )
    what = (
        f"{n_sequences} contexts of {n_ctx} tokens need"
        if n_sequences > 1
        else (f"a context of {n_ctx} tokens needs")
    )
    needs, has = compared(needed, machine.available_bytes)
    under = f" within {machine.memory_limit}" if machine.memory_limit else ""
    return ResourceError(f"{what} {needs} in all, but {has} are free{under}", cure)
