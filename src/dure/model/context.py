"""How llama.cpp rounds a context: what is planned and what is loaded must be the same."""

from __future__ import annotations

__all__ = ["CTX_GRAIN", "padded_ctx"]

CTX_GRAIN = 256  # llama.cpp pads a sequence's cells in the KV cache to this


def padded_ctx(n_ctx: int) -> int:
    """Return how many cells a sequence of n_ctx positions gets."""
    return -(-n_ctx // CTX_GRAIN) * CTX_GRAIN
