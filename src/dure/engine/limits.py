"""What a model's context is made for, as one value from the options of a start down to llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits", "OffloadedLayers"]


@dataclass(frozen=True)
class OffloadedLayers:
    """What of a model lies on a GPU; nothing if there are no layers.

    device: as llama.cpp names it. layers: the last ones; the output counts as one. weights_bytes: theirs.
    """

    device: str = ""
    layers: int = 0
    weights_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """The sizes of a context, and how its threads and memory are held.

    n_ctx: positions of each sequence in the KV cache. threads: that compute.
    n_batch: tokens that one decode may hold; they are computed in one go.
    n_outputs: rows of logits that one decode may give.
    lock_memory: weights are never swapped out.
    pin: each thread is held to a core of its own, from the one numbered `first_core` on.
    gives_up_threads: while other programs use the processors; see `ThreadSharing`.
    full_window: layers that see a window of positions keep all of them, so that a sequence can be cut back
    anywhere.
    given_embeddings: what is decoded is embeddings, not tokens, so that the table is not kept twice.
    """

    n_ctx: int
    threads: int
    n_batch: int = 512
    n_sequences: int = 1
    n_outputs: int = 32
    lock_memory: bool = False
    pin: bool = False
    first_core: int = 0
    gives_up_threads: bool = False
    full_window: bool = False
    given_embeddings: bool = False
    gpu: OffloadedLayers = OffloadedLayers()
