"""How llama.cpp rounds a context: what is planned and what is loaded must be the same."""

from __future__ import annotations

__all__ = [
    "CTX_GRAIN",
    "moving_window",
    "n_kept_states",
    "padded_ctx",
    "window_cells",
]

CTX_GRAIN = 256  # llama.cpp pads a sequence's cells in the KV cache to this


def padded_ctx(n_ctx: int) -> int:
    """Return how many cells a sequence of n_ctx positions gets."""
    return -(-n_ctx // CTX_GRAIN) * CTX_GRAIN


def window_cells(n_ctx: int, n_window: int, n_batch: int) -> int:
    """Return how many cells a sequence gets in layers that see n_window positions."""
    return min(padded_ctx(n_ctx), padded_ctx(n_window + n_batch))


def moving_window(n_window: int, n_ctx: int) -> int:
    """Return the window of a model in a context; 0 if nothing is ever out of it."""
    return n_window if n_ctx > n_window else 0


def n_kept_states(n_sequences: int) -> int:
    """Return how many states are kept to return to: the end of each prompt, and of a common beginning."""
    return n_sequences + 1
